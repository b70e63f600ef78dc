//! The file with the setup key.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::Context as _;
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{SecretString, zeroize::Zeroizing};
use setupkey_operator::protocol::{limits, presented_key};

/// Bytes of a key file, at most. A key has 36.
const LONGEST: usize = 1024;

/// Reads the key. What cannot be a key is named here: a service would only say, after some attempts, that it does not admit
/// the machine.
pub fn read(path: &Path) -> anyhow::Result<SecretString> {
    // Large enough from the start, because a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    File::open(path)
        .and_then(|file| file.take(LONGEST as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("--key-file {} cannot be read", path.display()))?;
    match key_in(&bytes) {
        Ok(key) => Ok(key.into()),
        Err(complaint) => {
            anyhow::bail!("--key-file {} {complaint}; it must hold the setup key alone", path.display())
        }
    }
}

/// The key in the content of a file, or what is wrong with it. The complaint quotes nothing, because all of it may be secret.
///
/// A key of ours and of NetBird is a UUID. Other words are left to the service.
fn key_in(content: &[u8]) -> Result<&str, &'static str> {
    if content.len() > LONGEST {
        return Err("holds more than 1024 bytes");
    }
    let key = presented_key(str::from_utf8(content).map_err(|_| "is no text in UTF-8")?);
    let wrong = if key.is_empty() {
        "holds no setup key"
    } else if key.contains(['\n', '\r']) {
        "holds several lines"
    } else if is_encoded(key) {
        "holds the base64 of a key, as the manifest of a Secret does"
    } else if key.contains('=') {
        "holds an assignment such as NB_SETUP_KEY=…"
    } else if key.contains(['"', '\'', '`', '“', '”', '‘', '’']) {
        "holds quotation marks"
    } else if key.contains(char::is_whitespace) {
        "holds several words"
    } else if !key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        "holds characters that are not letters, digits, hyphens, underscores or dots"
    } else if !limits::KEY.contains(&key.len()) {
        "holds more than 64 characters"
    } else {
        return Ok(key);
    };
    Err(wrong)
}

fn is_encoded(text: &str) -> bool {
    let Ok(decoded) = BASE64_STANDARD.decode(text).map(Zeroizing::new) else { return false };
    str::from_utf8(&decoded).is_ok_and(|text| uuid::Uuid::try_parse(presented_key(text)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "563A1F41-DB48-43E6-B871-0EF6B9304390";

    #[test]
    fn what_surrounds_a_key_is_no_part_of_it() {
        for (before, after) in
            [("", ""), ("", "\n"), (" ", "\r\n"), ("\t\n", "\n\n"), ("\u{feff}", "\n"), ("\u{feff} ", "\u{a0}")]
        {
            let content = format!("{before}{KEY}{after}");
            assert_eq!(key_in(content.as_bytes()), Ok(KEY), "{content:?}");
        }
    }

    #[test]
    fn words_that_are_no_uuid_are_left_to_the_service() {
        let longest = "a".repeat(64);
        for key in [KEY.to_lowercase().as_str(), "a", "nbk_0.1-a", "563A1F41DB4843E6B8710EF6B9304390", &longest] {
            assert_eq!(key_in(key.as_bytes()), Ok(key));
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_told_without_being_shown() {
        let (encoded, with_newline) = (BASE64_STANDARD.encode(KEY), BASE64_STANDARD.encode(format!("{KEY}\n")));
        for (content, complaint) in [
            ("", "no setup key"),
            ("\u{feff} \r\n", "no setup key"),
            (&format!("{KEY}\n{KEY}\n"), "several lines"),
            (&format!("# the key\r{KEY}"), "several lines"),
            (&encoded, "base64"),
            (&with_newline, "base64"),
            (&format!("NB_SETUP_KEY={KEY}\n"), "an assignment"),
            (&format!("export NB_SETUP_KEY='{KEY}'"), "an assignment"),
            (&format!("\"{KEY}\"\n"), "quotation marks"),
            (&format!("'{KEY}'"), "quotation marks"),
            (&format!("“{KEY}”"), "quotation marks"),
            (&format!("{{\"setup-key\":\"{KEY}\"}}"), "quotation marks"),
            (&format!("setup-key: {KEY}"), "several words"),
            (&KEY.replace('-', " "), "several words"),
            (&KEY.replace('-', "\u{a0}"), "several words"),
            (&KEY.replace('-', "–"), "characters"),
            (&format!("{KEY}\0"), "characters"),
            (&format!("{{{KEY}}}"), "characters"),
            (&format!("ä{KEY}"), "characters"),
            (&KEY.repeat(2), "more than 64 characters"),
            (&KEY.repeat(100), "more than 1024 bytes"),
        ] {
            let told = key_in(content.as_bytes()).expect_err(content);
            assert!(told.contains(complaint), "{content:?}: {told}");
        }
        let utf_16: Vec<_> = format!("\u{feff}{KEY}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(key_in(&utf_16), Err("is no text in UTF-8"));
    }
}
