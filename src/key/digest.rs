use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::Sha256;

/// The base64 of the SHA-256 of a key, by which it is recognised. NetBird: setupkey.go, GenerateSetupKey.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Digest(String);

impl Digest {
    /// The digest of a key's characters.
    pub fn of(key: &str) -> Self {
        use sha2::Digest as _;
        Self(BASE64_STANDARD.encode(Sha256::digest(key)))
    }

    /// A digest that was computed before, as it stands in an object.
    pub fn from_base64(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The digest as it stands in the status.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_base64_of_the_sha_256() {
        // printf abc | openssl dgst -sha256 -binary | base64
        assert_eq!(Digest::of("abc").as_str(), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }
}
