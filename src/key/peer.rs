//! The name of a peer, and the object that an entry of `status.pending` becomes.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use data_encoding::BASE32_DNSSEC;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};

use super::ledger::Use;
use crate::api::{
    Peer, PeerSpec, PendingPeer, SetupKey, SetupKeyReference,
    metadata::{GROUP_LABEL_PREFIX, KEY_ID_LABEL, KEY_LABEL, MANAGED_BY_LABEL, MANAGER, PENDING_FINALIZER},
};

/// The public key of a machine: 32 bytes, as WireGuard has them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads the base64 of 32 bytes; `None` for anything else, other spellings of the same bytes included.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The public key of 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

/// The name of a Peer: `peer-` and 20 characters of `[0-9a-v]` of the SHA-256 of its public key. A machine has
/// the same name at every replica, so its Peer is created once.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerName(String);

impl PeerName {
    /// The name of the machine with this public key.
    pub fn of(key: &PublicKey) -> Self {
        Self(format!("peer-{:.20}", BASE32_DNSSEC.encode(&Sha256::digest(key.0))))
    }

    /// The name as it stands in `metadata.name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Peer {
    /// The Peer that an entry of `status.pending` becomes, with the groups that the key gives now.
    ///
    /// It has no owner reference: deleting the key leaves the peer alone.
    pub fn from_entry(key: &SetupKey, entry: &PendingPeer) -> Self {
        let name = key.metadata.name.clone().unwrap_or_default();
        let Use { key_id: id, number } = Use::in_key(key, entry);
        let mut labels = BTreeMap::from([
            (KEY_LABEL.to_owned(), name.clone()),
            (KEY_ID_LABEL.to_owned(), id.clone()),
            (MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned()),
        ]);
        labels.extend(key.spec.auto_groups.iter().map(|group| (format!("{GROUP_LABEL_PREFIX}{group}"), String::new())));
        Self {
            metadata: ObjectMeta {
                name: Some(entry.name.clone()),
                namespace: key.metadata.namespace.clone(),
                labels: Some(labels),
                finalizers: Some(vec![PENDING_FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: PeerSpec {
                public_key: entry.public_key.clone(),
                hostname: entry.hostname.clone(),
                groups: key.spec.auto_groups.clone(),
                extra_dns_labels: entry.extra_dns_labels.clone(),
                ephemeral: key.spec.ephemeral,
                setup_key_ref: SetupKeyReference {
                    name,
                    uid: key.metadata.uid.clone().unwrap_or_default(),
                    id,
                    number,
                },
                token_digest: entry.token_digest.clone(),
            },
            status: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `head -c 32 /dev/zero | base64`
    const ZEROES: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn a_public_key_is_the_base64_of_32_bytes_and_nothing_else() {
        assert_eq!(PublicKey::parse(ZEROES).unwrap().to_string(), ZEROES);
        let other_spelling = ZEROES.replace("A=", "B=");
        for text in ["", "AAAA", &ZEROES[1..], &format!("{ZEROES}\n"), ZEROES.trim_end_matches('='), &other_spelling] {
            assert_eq!(PublicKey::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_peer_names_the_use_that_it_was_made_from() {
        let mut key = SetupKey::new("office", serde_json::from_value(serde_json::json!({})).unwrap());
        key.metadata.uid = Some("u".to_owned());
        key.status.get_or_insert_default().id = Some("id-now".to_owned());
        let entry = |key_id: &str| {
            serde_json::from_value::<PendingPeer>(serde_json::json!({
                "keyId": key_id, "number": 3, "name": "peer-a", "publicKey": ZEROES, "hostname": "h",
                "tokenDigest": "", "since": "2026-11-24T06:00:00Z",
            }))
            .unwrap()
        };
        // An entry without a key id belongs to the key on record.
        for (key_id, id) in [("id-then", "id-then"), ("", "id-now")] {
            let reference = Peer::from_entry(&key, &entry(key_id)).spec.setup_key_ref;
            assert_eq!((reference.uid.as_str(), reference.id.as_str(), reference.number), ("u", id, 3));
        }
    }

    #[test]
    fn the_name_is_made_of_the_public_key_alone() {
        // 100 bits of: head -c 32 /dev/zero | sha256sum
        let name = PeerName::of(&PublicKey::from_bytes([0; 32]));
        assert_eq!(name.as_str(), "peer-cpk7lbfocauner4fo65o");
    }
}
