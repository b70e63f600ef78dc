use chrono::{DateTime, Utc};
use kube::{ResourceExt, api::ObjectMeta};
use parking_lot::Mutex;

use crate::{
    api::{Peer, Timestamp},
    key::{
        Digest,
        expected::Entry,
        ledger::{Existing, Use},
    },
    protocol::Enrolled,
};

/// The fields of a Peer from which requests are answered.
#[derive(Debug)]
pub struct CachedPeer {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID, by which it differs from a later Peer of the same name.
    pub uid: String,
    /// The digest of its token, and whether it is being deleted.
    pub existing: Existing,
    /// The groups that it joined.
    pub groups: Vec<String>,
    /// Whether it is removed when it is not seen for a while.
    pub ephemeral: bool,
    /// Its DNS labels.
    pub extra_dns_labels: Vec<String>,
    /// The UID of the key that it joined with.
    key: String,
    /// The use of that key.
    used: Use,
    /// What the API server has of its heartbeats, or this process has written.
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    last: Option<DateTime<Utc>>,
    connected: bool,
}

impl CachedPeer {
    /// A Peer that cannot be decoded: it exists, and no token is its own.
    pub fn undecodable(metadata: ObjectMeta) -> Self {
        Self {
            name: metadata.name.unwrap_or_default(),
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            existing: Existing { token: Digest::from_base64(""), leaving: metadata.deletion_timestamp.is_some() },
            groups: Vec::new(),
            ephemeral: false,
            extra_dns_labels: Vec::new(),
            key: String::new(),
            used: Use { key_id: String::new(), number: 0 },
            seen: Mutex::default(),
        }
    }

    /// Whether this Peer has this token.
    pub fn has(&self, token: &Digest) -> bool {
        self.existing.token == *token
    }

    /// Whether it was made from this entry, or from a later one of the same machine.
    pub fn is_of(&self, entry: &Entry) -> bool {
        entry.is_met_by(&self.namespace, &self.key, &self.used)
    }

    /// Notes a heartbeat. True if it must be written, because the last one was written at least `longest` ago.
    ///
    /// Of several heartbeats at the same time, one has to be written.
    pub fn must_be_written(&self, now: DateTime<Utc>, longest: chrono::Duration) -> bool {
        let mut seen = self.seen.lock();
        let fresh = seen.connected && seen.last.is_some_and(|last| (now - last).abs() < longest);
        if !fresh {
            *seen = Seen { last: Some(now), connected: true };
        }
        !fresh
    }

    /// Takes that back, because the write has failed.
    pub fn was_not_written(&self) {
        *self.seen.lock() = Seen::default();
    }

    /// Keeps the later heartbeat. This process may have written one that the watch does not show yet.
    pub fn keep_later_heartbeat(&self, of: &Self) {
        let older = *of.seen.lock();
        let mut seen = self.seen.lock();
        if older.last > seen.last {
            *seen = older;
        }
    }
}

impl From<Peer> for CachedPeer {
    fn from(peer: Peer) -> Self {
        let status = peer.status.as_ref();
        Self {
            name: peer.name_any(),
            namespace: peer.namespace().unwrap_or_default(),
            uid: peer.uid().unwrap_or_default(),
            existing: Existing::from(&peer),
            seen: Mutex::new(Seen {
                last: status.and_then(|status| status.last_seen).map(Timestamp::moment),
                connected: status.is_some_and(|status| status.connected),
            }),
            key: peer.spec.setup_key_ref.uid,
            used: Use { key_id: peer.spec.setup_key_ref.id, number: peer.spec.setup_key_ref.number },
            groups: peer.spec.groups,
            ephemeral: peer.spec.ephemeral,
            extra_dns_labels: peer.spec.extra_dns_labels,
        }
    }
}

impl From<&CachedPeer> for Enrolled {
    fn from(peer: &CachedPeer) -> Self {
        Self {
            name: peer.name.clone(),
            namespace: peer.namespace.clone(),
            groups: peer.groups.clone(),
            ephemeral: peer.ephemeral,
            extra_dns_labels: peer.extra_dns_labels.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn peer(status: Value) -> CachedPeer {
        let peer = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer",
            "metadata": { "namespace": "n", "name": "peer", "uid": "p" },
            "spec": {
                "publicKey": "", "hostname": "ada", "tokenDigest": Digest::of("token").as_str(),
                "setupKeyRef": { "name": "office", "uid": "u", "id": "id-1", "use": 2 },
            },
            "status": status,
        });
        serde_json::from_value::<Peer>(peer).unwrap().into()
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn third() -> chrono::Duration {
        chrono::Duration::seconds(200)
    }

    #[test]
    fn a_heartbeat_is_written_once_per_third_of_the_lifetime() {
        let new = peer(json!({}));
        assert!(new.must_be_written(at(0), third()));
        let seen = peer(json!({ "connected": true, "lastSeen": at(0).to_rfc3339() }));
        assert!(!seen.must_be_written(at(199), third()));
        assert!(seen.must_be_written(at(200), third()));
        assert!(!seen.must_be_written(at(201), third()));
        let lost = peer(json!({ "connected": false, "lastSeen": at(0).to_rfc3339() }));
        assert!(lost.must_be_written(at(1), third()));
    }

    #[test]
    fn a_peer_is_of_its_own_use_and_of_earlier_ones_of_the_same_key_id() {
        let entry = |key_id: &str, number| Entry {
            namespace: "n".to_owned(),
            name: "peer".to_owned(),
            key: "u".to_owned(),
            used: Use { key_id: key_id.to_owned(), number },
        };
        for (key_id, number, is_of) in [("id-1", 1, true), ("id-1", 2, true), ("id-1", 3, false), ("id-2", 2, false)] {
            assert_eq!(peer(json!({})).is_of(&entry(key_id, number)), is_of, "{key_id} {number}");
        }
    }

    #[test]
    fn no_token_is_that_of_a_peer_that_cannot_be_decoded() {
        let peer = CachedPeer::undecodable(ObjectMeta { name: Some("peer".to_owned()), ..ObjectMeta::default() });
        assert_eq!(peer.name, "peer");
        assert!(!peer.has(&Digest::of("")) && !peer.existing.leaving);
    }
}
