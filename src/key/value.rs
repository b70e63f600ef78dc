use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};

use super::Digest;

/// How many characters of a key are shown to people. NetBird: setupkey.go, HiddenKey.
const SHOWN: usize = 5;

/// The value of a setup key: an upper-case UUIDv4, which is what NetBird's clients parse.
///
/// It cannot be printed or serialized, and its memory is wiped when it is dropped. Its characters are read through
/// [`expose`](KeyValue::expose), which only the code that writes or answers a key calls.
pub struct KeyValue(SecretString);

/// What may be shown of a key without showing the key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fingerprint {
    /// Recognises the key.
    pub digest: Digest,
    /// The first 5 characters and `****`.
    pub mask: String,
}

impl KeyValue {
    /// Makes a key of 16 bytes, which must come from the operating system's generator.
    pub fn from_random_bytes(bytes: [u8; 16]) -> Self {
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let mut text = Zeroizing::new([0; uuid::fmt::Hyphenated::LENGTH]);
        Self(SecretString::from(uuid.hyphenated().encode_upper(text.as_mut()).to_owned()))
    }

    /// Reads a key from the data of a Secret; `None` when the bytes are not exactly a key as we write them.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(data).ok()?;
        let uuid = uuid::Uuid::try_parse(text).ok()?;
        let ours = Self::from_random_bytes(*uuid.as_bytes());
        (ours.expose() == text).then_some(ours)
    }

    /// The characters of the key.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The digest and the mask of this key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { digest: Digest::of(self.expose()), mask: format!("{}****", &self.expose()[..SHOWN]) }
    }

    /// The text with this key masked in it, plain and in base64. For messages of the API server, which may quote what it was
    /// sent.
    pub fn redact(&self, text: &str) -> String {
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(self.expose()));
        let mask = self.fingerprint().mask;
        text.replace(self.expose(), &mask).replace(encoded.as_str(), &mask)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use static_assertions::assert_not_impl_any;

    use super::*;

    assert_not_impl_any!(KeyValue: std::fmt::Debug, std::fmt::Display, serde::Serialize, Clone, ToString);

    proptest! {
        #[test]
        fn every_key_is_an_upper_case_uuid_of_version_4(bytes: [u8; 16]) {
            let key = KeyValue::from_random_bytes(bytes);
            let uuid: uuid::Uuid = key.expose().parse().unwrap();
            prop_assert_eq!(uuid.get_version_num(), 4);
            prop_assert_eq!(key.expose().to_uppercase(), key.expose());
        }

        #[test]
        fn a_key_is_read_back_as_itself(bytes: [u8; 16]) {
            let key = KeyValue::from_random_bytes(bytes);
            let read = KeyValue::parse(key.expose().as_bytes()).expect("our own key");
            prop_assert!(read.expose() == key.expose());
        }

        #[test]
        fn the_mask_shows_five_characters_and_the_digest_none(bytes: [u8; 16]) {
            let key = KeyValue::from_random_bytes(bytes);
            let Fingerprint { digest, mask } = key.fingerprint();
            prop_assert_eq!(&mask[..5], &key.expose()[..5]);
            prop_assert_eq!(&mask[5..], "****");
            prop_assert!(!digest.as_str().contains(&key.expose()[..13]));
        }

        #[test]
        fn what_is_not_exactly_our_format_is_no_key(text in "\\PC{0,40}") {
            prop_assume!(text.len() != 36);
            prop_assert!(KeyValue::parse(text.as_bytes()).is_none());
        }
    }

    #[test]
    fn other_spellings_of_a_uuid_are_no_key() {
        let key = "563A1F41-DB48-43E6-B871-0EF6B9304390";
        assert!(KeyValue::parse(key.as_bytes()).is_some());
        for other in [
            key.to_lowercase(),
            key.replace('-', ""),
            format!("{key}\n"),
            format!("{{{key}}}"),
            "563A1F41-DB48-13E6-B871-0EF6B9304390".to_owned(), // version 1
        ] {
            assert!(KeyValue::parse(other.as_bytes()).is_none(), "{other:?} was read as a key");
        }
    }

    #[test]
    fn the_mask_is_netbirds() {
        let key = KeyValue::parse(b"563A1F41-DB48-43E6-B871-0EF6B9304390").unwrap();
        assert_eq!(key.fingerprint().mask, "563A1****");
    }

    #[test]
    fn a_quoted_key_is_masked_plain_and_encoded() {
        let key = KeyValue::parse(b"563A1F41-DB48-43E6-B871-0EF6B9304390").unwrap();
        let message = format!("denied: {} and {}", key.expose(), BASE64_STANDARD.encode(key.expose()));
        assert_eq!(key.redact(&message), "denied: 563A1**** and 563A1****");
    }
}
