//! What a peer is called, and how its object looks.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use data_encoding::BASE32_DNSSEC;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};

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

/// The name of a Peer: `peer-` and 20 characters of `[0-9a-v]` of the SHA-256 of its public key. The name
/// follows from the machine alone, so two writers cannot create two Peers for it.
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

/// The Peer that an entry of `status.pending` becomes, with the groups that the key gives now.
///
/// It has no owner: whatever happens to the key, the peer stays.
pub fn peer_of(key: &SetupKey, pending: &PendingPeer) -> Peer {
    let name = key.metadata.name.clone().unwrap_or_default();
    // An entry from before entries named their key belongs to the key on record.
    let on_record = || key.status.as_ref().and_then(|status| status.id.clone()).unwrap_or_default();
    let id = if pending.key_id.is_empty() { on_record() } else { pending.key_id.clone() };
    let mut labels = BTreeMap::from([
        (KEY_LABEL.to_owned(), name.clone()),
        (KEY_ID_LABEL.to_owned(), id.clone()),
        (MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned()),
    ]);
    labels.extend(key.spec.auto_groups.iter().map(|group| (format!("{GROUP_LABEL_PREFIX}{group}"), String::new())));
    Peer {
        metadata: ObjectMeta {
            name: Some(pending.name.clone()),
            namespace: key.metadata.namespace.clone(),
            labels: Some(labels),
            finalizers: Some(vec![PENDING_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: PeerSpec {
            public_key: pending.public_key.clone(),
            hostname: pending.hostname.clone(),
            groups: key.spec.auto_groups.clone(),
            extra_dns_labels: pending.extra_dns_labels.clone(),
            ephemeral: key.spec.ephemeral,
            setup_key_ref: SetupKeyReference {
                name,
                uid: key.metadata.uid.clone().unwrap_or_default(),
                id,
                number: pending.number,
            },
            token_digest: pending.token_digest.clone(),
        },
        status: None,
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
    fn the_name_is_made_of_the_public_key_alone() {
        // 100 bits of: head -c 32 /dev/zero | sha256sum
        let name = PeerName::of(&PublicKey::from_bytes([0; 32]));
        assert_eq!(name.as_str(), "peer-cpk7lbfocauner4fo65o");
    }
}
