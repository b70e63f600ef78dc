//! The token that NetBird asks for.

use axum::body::Bytes;
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};

/// A personal access token. It cannot be printed, and its memory is wiped when it is dropped.
pub struct Token(SecretString);

/// Why bytes are no token. They are not quoted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidToken {
    /// Nothing, or blanks only.
    #[error("it is empty")]
    Empty,
    /// It has a character that no token has.
    #[error("it has a character other than visible ASCII, such as a blank between two words")]
    Character,
}

impl Token {
    /// Reads a token from the data of a Secret. Blanks and line breaks around it do not count.
    pub fn parse(data: &[u8]) -> Result<Self, InvalidToken> {
        let token = data.trim_ascii();
        if token.is_empty() {
            return Err(InvalidToken::Empty);
        }
        match std::str::from_utf8(token) {
            Ok(text) if token.iter().all(u8::is_ascii_graphic) => Ok(Self(text.to_owned().into())),
            _ => Err(InvalidToken::Character),
        }
    }

    /// The value of the header `Authorization`. It is marked as sensitive, and wiped when its last copy is dropped.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Token {}", self.0.expose_secret()).into_bytes());
        let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The text with the token masked in it, in any case of letters: NetBird lower-cases what it quotes.
    pub(super) fn redact(&self, text: &str) -> String {
        let token = Zeroizing::new(self.0.expose_secret().to_ascii_lowercase());
        let lower = Zeroizing::new(text.to_ascii_lowercase());
        let (mut redacted, mut rest) = (String::with_capacity(text.len()), 0);
        for (at, _) in lower.match_indices(token.as_str()) {
            redacted.push_str(&text[rest..at]);
            redacted.push_str("****");
            rest = at + token.len();
        }
        redacted.push_str(&text[rest..]);
        redacted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use static_assertions::assert_not_impl_any;

    use super::*;

    assert_not_impl_any!(Token: std::fmt::Debug, std::fmt::Display, serde::Serialize, Clone, ToString);

    fn header(data: &[u8]) -> Result<HeaderValue, InvalidToken> {
        Token::parse(data).map(|token| token.header().unwrap())
    }

    proptest! {
        #[test]
        fn blanks_around_a_token_do_not_count(token in "[!-~]{1,60}", before in "[ \t\r\n]{0,3}", after in "[ \t\r\n]{0,3}") {
            let header = header(format!("{before}{token}{after}").as_bytes()).unwrap();
            prop_assert!(header.is_sensitive());
            prop_assert_eq!(header.to_str().unwrap().strip_prefix("Token "), Some(token.as_str()));
        }

        #[test]
        fn what_is_read_is_a_header_and_nothing_makes_two(data: Vec<u8>) {
            if let Ok(header) = header(&data) {
                prop_assert!(header.as_bytes()[6..].iter().all(u8::is_ascii_graphic));
            }
        }

        #[test]
        fn a_quoted_token_is_masked(before in "\\PC{0,20}", token in "[!-)+-~]{4,40}", after in "\\PC{0,20}") {
            let text = format!("{before}{}{after}{token}", token.to_lowercase());
            let redacted = Token::parse(token.as_bytes()).unwrap().redact(&text);
            prop_assert!(!redacted.to_ascii_lowercase().contains(&token.to_lowercase()), "{}", redacted);
            prop_assert!(redacted.contains("****"));
        }
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        for empty in ["", " ", "\n\t\r\n"] {
            assert_eq!(header(empty.as_bytes()), Err(InvalidToken::Empty), "{empty:?}");
        }
        for wrong in [&b"a b"[..], b"a\nb", b"a\0", b"\xff", "nbp_ä".as_bytes(), b"a\x7fb"] {
            assert_eq!(header(wrong), Err(InvalidToken::Character), "{wrong:?}");
        }
    }
}
