//! Peers that are created without the service.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::Utc;
use kube::api::ObjectMeta;
use setupkey_operator::{
    api::{Peer, PendingPeer, SetupKey},
    key::{Digest, PeerName, PublicKey},
};

/// A Peer of this key with a random identity. It has no finalizer, or the controller would be busy with releasing it.
pub fn any(key: &SetupKey) -> Peer {
    let public_key = PublicKey::from_bytes(rand::random());
    let token = BASE64_STANDARD.encode(rand::random::<[u8; 32]>());
    let entry = PendingPeer {
        key_id: String::new(),
        number: 1,
        name: PeerName::of(&public_key).to_string(),
        public_key: public_key.to_string(),
        hostname: "machine".to_owned(),
        extra_dns_labels: Vec::new(),
        token_digest: Digest::of(&token).to_string(),
        since: Utc::now().into(),
    };
    let peer = Peer::from_entry(key, &entry);
    Peer { metadata: ObjectMeta { finalizers: None, ..peer.metadata }, ..peer }
}
