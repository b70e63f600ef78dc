//! What a replica of the enrollment service writes, for tests that play the replica.

use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use setupkey_operator::{
    api::{Peer, PendingPeer, SetupKey, Timestamp, metadata::PENDING_FINALIZER},
    key::{Digest, PeerName, PublicKey},
};

use super::{Cluster, eventually};

/// A use of a key that a replica has committed.
pub fn entry(number: u8) -> PendingPeer {
    let public_key = PublicKey::from_bytes([number; 32]);
    PendingPeer {
        key_id: String::new(),
        number: number.into(),
        name: PeerName::of(&public_key).to_string(),
        public_key: public_key.to_string(),
        hostname: format!("host-{number}"),
        extra_dns_labels: Vec::new(),
        token_digest: Digest::of("token").to_string(),
        since: Timestamp::from(chrono::Utc::now()),
    }
}

/// A Peer that no replica has created.
pub fn any_peer() -> Peer {
    let key = SetupKey::new("any", serde_json::from_value(json!({})).expect("a spec"));
    Peer::from_entry(&key, &PendingPeer { key_id: "0".repeat(20), ..entry(1) })
}

/// Whether a Peer still has the finalizer that it was created with.
pub fn is_held(peer: &Peer) -> bool {
    peer.finalizers().iter().any(|finalizer| finalizer == PENDING_FINALIZER)
}

impl Cluster {
    /// A replica commits these uses and dies.
    pub async fn commit(&self, key: &str, entries: &[PendingPeer]) {
        let used = entries.iter().map(|entry| entry.number).max().unwrap_or_default();
        self.patch_status(key, json!({ "usedTimes": used, "pending": entries })).await;
    }

    /// A replica creates the Peer of an entry and does not release it.
    pub async fn create_peer(&self, key: &SetupKey, entry: &PendingPeer) -> Peer {
        self.unguarded_peers().create(&PostParams::default(), &Peer::from_entry(key, entry)).await.expect("a Peer")
    }

    /// A replica creates the Peer of an entry and releases it.
    pub async fn create_released_peer(&self, key: &SetupKey, entry: &PendingPeer) -> Peer {
        let mut peer = Peer::from_entry(key, entry);
        peer.metadata.finalizers = None;
        self.unguarded_peers().create(&PostParams::default(), &peer).await.expect("a Peer")
    }

    /// A replica writes when it last saw a Peer.
    pub async fn see(&self, peer: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.unguarded_peers().patch_status(peer, &PatchParams::default(), &patch).await.expect("a Peer that is seen");
    }

    /// Waits until the Peer does not exist any more.
    pub async fn peer_is_gone(&self, name: &str) {
        eventually(&format!("Peer {name} to be gone"), || async {
            self.peers().get_opt(name).await.ok()?.is_none().then_some(())
        })
        .await;
    }

    /// The names of the Peers that joined with this key.
    pub async fn peers_of(&self, key: &str) -> Vec<String> {
        let of = ListParams::default().labels(&format!("setupkey.dev/key={key}"));
        let peers = self.peers().list(&of).await.expect("the Peers");
        peers.items.into_iter().filter_map(|peer| peer.metadata.name).collect()
    }

    /// How often a key was used.
    pub async fn used(&self, key: &str) -> i64 {
        self.keys().get(key).await.expect("the SetupKey").status.unwrap_or_default().used_times
    }

    /// Waits until no entry is pending.
    pub async fn settled(&self, key: &str) -> SetupKey {
        eventually(&format!("SetupKey {key} to have no pending entry"), || async {
            let key = self.keys().get(key).await.ok()?;
            key.status.as_ref().is_none_or(|status| status.pending.is_empty()).then_some(key)
        })
        .await
    }
}
