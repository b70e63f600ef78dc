use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::zeroize::Zeroizing;
use sha2::Sha256;

/// The base64 of the SHA-256 of a key, by which it is recognised. NetBird: setupkey.go, GenerateSetupKey.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Digest(String);

impl Digest {
    /// The digest of a key's characters, or of whatever else a data key holds.
    pub fn of(key: impl AsRef<[u8]>) -> Self {
        use sha2::Digest as _;
        Self(BASE64_STANDARD.encode(Sha256::digest(key)))
    }

    /// The digest of a key as a machine presents it. Keys are upper-case, and people type them in any case. NetBird:
    /// peer.go, AddPeer.
    pub fn of_presented(key: &str) -> Self {
        Self::of(Zeroizing::new(key.to_uppercase()).as_str())
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
    #[test]
    fn a_presented_key_is_recognised_in_any_case() {
        let key = "563A1F41-DB48-43E6-B871-0EF6B9304390";
        for presented in [key, &key.to_lowercase(), "563a1F41-dB48-43e6-B871-0EF6B9304390"] {
            assert_eq!(Digest::of_presented(presented), Digest::of(key), "{presented}");
        }
    }
}
