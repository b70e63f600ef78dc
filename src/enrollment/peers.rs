//! The Peers, found by name: of each, only what an answer is made from. And what is known of those that are to come.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use chrono::{DateTime, Utc};
use kube::{ResourceExt, api::ObjectMeta, core::DeserializeGuard};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{Notify, watch as signal};

use super::{
    expected::{Entry, Expected},
    watch::Cache,
};
use crate::{
    api::{Peer, SetupKey, Timestamp},
    key::{
        Digest, PeerName,
        ledger::{Applicant, Existing},
    },
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
    /// The digest of its token, and whether it is being deleted.
    pub existing: Existing,
    /// The groups that it joined.
    pub groups: Vec<String>,
    /// Whether it is removed when it is not seen for a while.
    pub ephemeral: bool,
    /// The DNS labels that it brought.
    pub extra_dns_labels: Vec<String>,
    /// The uid of the key that it joined with.
    key: String,
    /// Which use of that key it was.
    number: i64,
    /// By what the API server has and by what this process wrote.
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    last: Option<DateTime<Utc>>,
    connected: bool,
}

impl Known {
    /// A Peer that cannot be read: it is there, and nobody's.
    fn unreadable(metadata: ObjectMeta) -> Self {
        Self {
            name: metadata.name.unwrap_or_default(),
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            existing: Existing { token: Digest::from_base64(""), leaving: metadata.deletion_timestamp.is_some() },
            key: String::new(),
            number: 0,
            seen: Mutex::default(),
            groups: Vec::new(),
            ephemeral: false,
            extra_dns_labels: Vec::new(),
        }
    }

    /// Whether this Peer has this token.
    pub fn has(&self, token: &Digest) -> bool {
        self.existing.token == *token
    }

    /// Whether it was made from this entry, or a later one of the same machine.
    pub fn is_of(&self, entry: &Entry) -> bool {
        self.namespace == entry.namespace && self.key == entry.key && self.number >= entry.number
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
        self.seen.lock()
    }
}

impl From<Peer> for Known {
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
            number: peer.spec.setup_key_ref.number,
            groups: peer.spec.groups,
            ephemeral: peer.spec.ephemeral,
            extra_dns_labels: peer.spec.extra_dns_labels,
        }
    }
}

/// The cache.
pub struct Peers {
    index: RwLock<Index>,
    changed: signal::Sender<()>,
}

#[derive(Default)]
struct Index {
    by_name: ByName,
    expected: Expected,
}

type ByName = HashMap<String, Vec<Arc<Known>>>;

impl Default for Peers {
    fn default() -> Self {
        Self { index: RwLock::default(), changed: signal::Sender::new(()) }
    }
}

impl Peers {
    /// The Peer of this name with this token, in whichever namespace; if there are several, the one in that namespace.
    pub fn find(&self, name: &str, token: &Digest, preferred: Option<&str>) -> Option<Arc<Known>> {
        let index = self.read();
        let mut found = index.by_name.get(name)?.iter().filter(|peer| peer.has(token)).cloned().collect::<Vec<_>>();
        found.sort_by_key(|peer| (preferred != Some(peer.namespace.as_str()), peer.existing.leaving));
        found.into_iter().next()
    }

    /// The Peer of this name in this namespace.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Known>> {
        self.read().get(namespace, name).cloned()
    }

    /// Whether it is certain, without a request, that there was no Peer of this name in this namespace by the time that
    /// the keys were what their cache shows.
    pub fn is_nobody(&self, namespace: &str, name: &str) -> bool {
        let index = self.read();
        index.get(namespace, name).is_none() && index.expected.is_all_shown(namespace, name)
    }

    /// Whether this machine is known to be on its way to become a Peer: it is pending, or was a moment ago.
    pub fn is_awaited(&self, key: &SetupKey, applicant: &Applicant) -> bool {
        let name = PeerName::of(&applicant.public_key);
        self.read().expected.is_awaited(key, name.as_str(), &applicant.token)
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

    /// Expects the Peers that are pending in a version of a key. Every version comes here, in its order, before anybody
    /// can see it.
    pub fn expect(&self, key: &SetupKey) {
        let Index { by_name, expected } = &mut *self.write();
        expected.note(key, Instant::now(), |entry| {
            by_name.get(&entry.name).is_some_and(|peers| peers.iter().any(|peer| peer.is_of(entry)))
        });
    }

    /// A key has gone.
    pub fn key_gone(&self, uid: &str) {
        self.write().expected.key_gone(uid, Instant::now());
    }

    /// The keys were listed, and versions of them may have been missed. Comes before anybody can see what was listed.
    pub fn keys_listed(&self, namespace: Option<&str>) {
        self.write().expected.keys_listed(namespace);
    }

    /// By what the watch of this namespace is told to list the Peers, for the first time and again.
    pub fn anew(&self, namespace: Option<&str>) -> Arc<Notify> {
        self.write().expected.anew(namespace)
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write()
    }
}

impl Index {
    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Known>> {
        self.by_name.get(name)?.iter().find(|peer| peer.namespace == namespace)
    }

    fn insert(&mut self, peer: Known) {
        self.expected.shown(&peer);
        insert(&mut self.by_name, peer);
    }
}

impl Cache<DeserializeGuard<Peer>> for Peers {
    type Record = Known;

    fn record(object: DeserializeGuard<Peer>) -> Known {
        object.0.map_or_else(|error| Known::unreadable(error.metadata), Known::from)
    }

    fn apply(&self, peer: Known) {
        self.write().insert(peer);
        self.changed.send_replace(());
    }

    fn remove(&self, namespace: &str, name: &str) {
        remove(&mut self.write().by_name, namespace, name);
        self.changed.send_replace(());
    }

    fn listing(&self, namespace: Option<&str>) {
        self.write().expected.listing(namespace);
    }

    fn replace(&self, namespace: Option<&str>, listed: Vec<Known>) {
        let mut index = self.write();
        let stay: HashSet<_> = listed.iter().map(|peer| (peer.namespace.clone(), peer.name.clone())).collect();
        let known = index.by_name.values().flatten().map(|peer| (peer.namespace.clone(), peer.name.clone()));
        let gone: Vec<_> = known
            .filter(|peer| namespace.is_none_or(|namespace| namespace == peer.0) && !stay.contains(peer))
            .collect();
        gone.iter().for_each(|(namespace, name)| remove(&mut index.by_name, namespace, name));
        listed.into_iter().for_each(|peer| index.insert(peer));
        index.expected.listed(namespace);
        drop(index);
        self.changed.send_replace(());
    }
}

/// What this process wrote of a heartbeat may be newer than what comes by the watch.
fn insert(peers: &mut ByName, peer: Known) {
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

fn remove(peers: &mut ByName, namespace: &str, name: &str) {
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
                "setupKeyRef": { "name": "office", "uid": "", "id": "", "use": 1 },
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
        assert!(peers.read().by_name.is_empty());
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
