//! The Peers, found by name: of each, only what an answer is made from.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use chrono::{DateTime, Utc};
use kube::{ResourceExt, core::DeserializeGuard};
use tokio::sync::watch as signal;

use super::watch::Cache;
use crate::{
    api::{Peer, Timestamp},
    key::{Digest, PeerName},
};

/// What is known of a Peer.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub namespace: String,
    /// By which it differs from a later one of the same name.
    pub uid: String,
    /// The digest of its token.
    pub token: String,
    /// The groups that it joined.
    pub groups: Vec<String>,
    /// Whether it is removed when it is not seen for a while.
    pub ephemeral: bool,
    /// The DNS labels that it brought.
    pub extra_dns_labels: Vec<String>,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// By what the API server has and by what this process wrote.
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    last: Option<DateTime<Utc>>,
    connected: bool,
}

impl Known {
    /// Whether this Peer has this token.
    pub fn has(&self, token: &Digest) -> bool {
        self.token == token.as_str()
    }

    /// Notes that the peer is there now; true when that must be written, as it was written longer ago than this.
    ///
    /// Of several calls at the same time, one is told to write.
    pub fn must_be_written(&self, now: DateTime<Utc>, longest: chrono::Duration) -> bool {
        let mut seen = self.seen();
        let fresh = seen.connected && seen.last.is_some_and(|last| (now - last).abs() < longest);
        if !fresh {
            *seen = Seen { last: Some(now), connected: true };
        }
        !fresh
    }

    /// Takes that back, because the write has failed.
    pub fn was_not_written(&self) {
        *self.seen() = Seen::default();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Peer> for Known {
    fn from(peer: Peer) -> Self {
        let status = peer.status.as_ref();
        Self {
            name: peer.name_any(),
            namespace: peer.namespace().unwrap_or_default(),
            uid: peer.uid().unwrap_or_default(),
            leaving: peer.metadata.deletion_timestamp.is_some(),
            seen: Mutex::new(Seen {
                last: status.and_then(|status| status.last_seen).map(Timestamp::instant),
                connected: status.is_some_and(|status| status.connected),
            }),
            token: peer.spec.token_digest,
            groups: peer.spec.groups,
            ephemeral: peer.spec.ephemeral,
            extra_dns_labels: peer.spec.extra_dns_labels,
        }
    }
}

/// The cache.
pub struct Peers {
    by_name: RwLock<HashMap<String, Vec<Arc<Known>>>>,
    changed: signal::Sender<()>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { by_name: RwLock::default(), changed: signal::Sender::new(()) }
    }
}

impl Peers {
    /// The Peer of this name with this token, in whichever namespace; if there are several, the one in that namespace.
    pub fn find(&self, name: &str, token: &Digest, preferred: Option<&str>) -> Option<Arc<Known>> {
        let peers = self.read();
        let mut found = peers.get(name)?.iter().filter(|peer| peer.has(token)).cloned().collect::<Vec<_>>();
        found.sort_by_key(|peer| (preferred != Some(peer.namespace.as_str()), peer.leaving));
        found.into_iter().next()
    }

    /// The Peer of this name in this namespace.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Known>> {
        self.read().get(name)?.iter().find(|peer| peer.namespace == namespace).cloned()
    }

    /// Waits until there is a Peer of this name in this namespace.
    pub async fn arrival(&self, namespace: &str, name: &PeerName) -> Arc<Known> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(peer) = self.get(namespace, name.as_str()) {
                return peer;
            }
            // The sender is ours, so there is always another change to come.
            let _ = changed.changed().await;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Vec<Arc<Known>>>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Vec<Arc<Known>>>> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache<DeserializeGuard<Peer>> for Peers {
    type Record = Known;

    fn record(object: DeserializeGuard<Peer>) -> Option<Known> {
        object.0.map(Known::from).ok()
    }

    fn apply(&self, peer: Known) {
        insert(&mut self.write(), peer);
        self.changed.send_replace(());
    }

    fn remove(&self, namespace: &str, name: &str) {
        remove(&mut self.write(), namespace, name);
        self.changed.send_replace(());
    }

    fn replace(&self, namespace: Option<&str>, listed: Vec<Known>) {
        let mut peers = self.write();
        let stay: HashSet<_> = listed.iter().map(|peer| (peer.namespace.clone(), peer.name.clone())).collect();
        let known = peers.values().flatten().map(|peer| (peer.namespace.clone(), peer.name.clone()));
        let gone: Vec<_> = known
            .filter(|peer| namespace.is_none_or(|namespace| namespace == peer.0) && !stay.contains(peer))
            .collect();
        gone.iter().for_each(|(namespace, name)| remove(&mut peers, namespace, name));
        listed.into_iter().for_each(|peer| insert(&mut peers, peer));
        drop(peers);
        self.changed.send_replace(());
    }
}

/// What this process wrote of a heartbeat may be newer than what comes by the watch.
fn insert(peers: &mut HashMap<String, Vec<Arc<Known>>>, peer: Known) {
    let of_name = peers.entry(peer.name.clone()).or_default();
    if let Some(old) = of_name.iter().find(|old| old.namespace == peer.namespace && old.uid == peer.uid) {
        let ours = *old.seen();
        let mut seen = peer.seen();
        if ours.last > seen.last {
            *seen = ours;
        }
    }
    of_name.retain(|old| old.namespace != peer.namespace);
    of_name.push(Arc::new(peer));
}

fn remove(peers: &mut HashMap<String, Vec<Arc<Known>>>, namespace: &str, name: &str) {
    if let Some(of_name) = peers.get_mut(name) {
        of_name.retain(|peer| peer.namespace != namespace);
        if of_name.is_empty() {
            peers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peer(namespace: &str, token: &str, status: serde_json::Value) -> Known {
        let peer = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer",
            "metadata": { "namespace": namespace, "name": "peer", "uid": namespace },
            "spec": {
                "publicKey": "", "hostname": "ada", "tokenDigest": Digest::of(token).as_str(),
                "setupKeyRef": { "name": "office", "uid": "", "id": "" },
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
    fn a_peer_is_found_by_name_and_token_in_whichever_namespace() {
        let peers = Peers::default();
        peers.apply(peer("a", "token of a", json!({})));
        peers.apply(peer("b", "token of b", json!({})));
        let found = |token: &str| peers.find("peer", &Digest::of(token), None).map(|peer| peer.namespace.clone());
        assert_eq!(found("token of b").as_deref(), Some("b"));
        assert_eq!(found("token of nobody"), None);
        peers.remove("b", "peer");
        assert_eq!(found("token of b"), None);
        peers.replace(Some("b"), Vec::new());
        assert_eq!(found("token of a").as_deref(), Some("a"));
        peers.replace(None, Vec::new());
        assert!(peers.read().is_empty());
    }

    #[test]
    fn a_heartbeat_is_written_once_per_third_of_the_lifetime() {
        let new = peer("n", "token", json!({}));
        assert!(new.must_be_written(at(0), third()));
        let seen = peer("n", "token", json!({ "connected": true, "lastSeen": at(0).to_rfc3339() }));
        assert!(!seen.must_be_written(at(199), third()));
        assert!(seen.must_be_written(at(200), third()));
        assert!(!seen.must_be_written(at(201), third()));
        let lost = peer("n", "token", json!({ "connected": false, "lastSeen": at(0).to_rfc3339() }));
        assert!(lost.must_be_written(at(1), third()));
    }

    #[test]
    fn what_was_written_here_counts_until_the_watch_shows_it() {
        let peers = Peers::default();
        let status = json!({ "connected": true, "lastSeen": at(0).to_rfc3339() });
        peers.apply(peer("n", "token", status.clone()));
        let known = || peers.get("n", "peer").unwrap();
        assert!(known().must_be_written(at(500), third()));
        peers.apply(peer("n", "token", status));
        assert!(!known().must_be_written(at(510), third()));
        known().was_not_written();
        assert!(known().must_be_written(at(520), third()));
    }
}
