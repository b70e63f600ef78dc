//! NetBird's own line in an answer, as it may be shown to people.

use super::Token;
use crate::plain::is_plain;

/// Characters of a line, at most.
const LONGEST: usize = 200;

/// The line without secrets and characters that are not [plain](is_plain), shortened to 200 characters.
///
/// Every UUID is masked like a key: NetBird lower-cases what it quotes, so a key looks like any other UUID. Every token in
/// NetBird's form is masked, because the server may quote one that is not ours any more.
pub fn shown(line: &str, token: &Token) -> String {
    let line: String = line.chars().map(|c| if is_plain(c) { c } else { ' ' }).collect();
    // Masked before it is shortened: half a token at the end would not be recognised.
    let line = mask_tokens(&mask_uuids(&token.redact(&line)));
    let line = line.trim();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Masks what follows `nbp_`. NetBird: personal_access_token.go.
fn mask_tokens(text: &str) -> String {
    const PREFIX: &str = "nbp_";
    let (mut masked, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.to_ascii_lowercase().find(PREFIX) {
        let (before, token) = rest.split_at(at + PREFIX.len());
        masked.push_str(before);
        masked.push_str("****");
        rest = token.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
    }
    masked.push_str(rest);
    masked
}

fn mask_uuids(text: &str) -> String {
    const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;
    let (mut masked, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        let uuid = rest.get(..LENGTH).filter(|word| uuid::Uuid::try_parse(word).is_ok());
        let (shown, mask, length) = match uuid {
            Some(uuid) => (&uuid[..5], "****", LENGTH),
            None => (&rest[..first.len_utf8()], "", first.len_utf8()),
        };
        masked.push_str(shown);
        masked.push_str(mask);
        rest = &rest[length..];
    }
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "nbp_5bXOHmDaZzLkwGdR8qTn2sVf1uYcJ30pWiEr";

    fn shown_line(line: &str) -> String {
        shown(line, &Token::parse(TOKEN.as_bytes()).unwrap())
    }

    #[test]
    fn a_line_of_netbird_is_shown_as_it_is() {
        let line = "invalid auto groups: group not found: büro";
        assert_eq!(shown_line(line), line);
    }

    #[test]
    fn secrets_are_masked_in_any_case() {
        let key = "563A1F41-DB48-43E6-B871-0EF6B9304390";
        let line = format!("a {TOKEN} b {} c {key} d {}é", TOKEN.to_lowercase(), key.to_lowercase());
        assert_eq!(shown_line(&line), "a **** b **** c 563A1**** d 563a1****é");
    }

    #[test]
    fn every_token_of_netbirds_form_is_masked() {
        let another = "nbp_0123456789abcdefghijABCDEFGHIJ012345";
        let line = format!("{another}, {} and nbp_", another.to_uppercase());
        assert_eq!(shown_line(&line), "nbp_****, NBP_**** and nbp_****");
    }

    #[test]
    fn a_secret_at_the_end_of_what_is_shown_is_not_cut_in_half() {
        for secret in [TOKEN, "563A1F41-DB48-43E6-B871-0EF6B9304390"] {
            for before in 150..=LONGEST {
                let line = shown_line(&format!("{}{secret}", "-".repeat(before)));
                assert!(!line.contains(&secret[..8]), "{line}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_line_is_short_and_is_one_line(line in "(?s).{0,400}") {
            let shown = shown_line(&line);
            prop_assert!(shown.chars().count() <= LONGEST + 1);
            prop_assert!(shown.chars().all(is_plain));
        }
    }
}
