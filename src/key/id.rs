use std::fmt;

/// The alphabet of base32hex in lower case, as in the ids of NetBird (xid).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// The public id of a key: 20 characters of `[0-9a-v]`. It names the key and its ledger. It admits no peer.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(String);

impl KeyId {
    /// Makes an id of 20 random bytes; 5 bits of each are used.
    pub fn from_random_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
    }

    /// Reads an id; `None` when the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 20 && text.bytes().all(|byte| ALPHABET.contains(&byte));
        valid.then(|| Self(text.to_owned()))
    }

    /// The id as it stands in the status.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_id_reads_back_as_itself(bytes: [u8; 20]) {
            let id = KeyId::from_random_bytes(bytes);
            prop_assert_eq!(KeyId::parse(id.as_str()), Some(id));
        }
    }

    #[test]
    fn what_is_no_id_is_not_read() {
        for text in ["", "dc2dqmtqmd2tbgsp86m", "dc2dqmtqmd2tbgsp86m00", "DC2DQMTQMD2TBGSP86M0", "zc2dqmtqmd2tbgsp86m0"]
        {
            assert_eq!(KeyId::parse(text), None, "{text}");
        }
    }
}
