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
