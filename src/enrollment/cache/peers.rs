//! The Peers, found by name, and the Peers that are expected.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use kube::core::DeserializeGuard;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch as signal};

use super::CachedPeer;
use crate::{
    api::{Peer, SetupKey},
    cluster::Lean,
    enrollment::watch::Index,
    key::{
        Digest, PeerName,
        expected::{Expected, Relist},
        ledger::Applicant,
    },
};

/// The cache.
pub struct Peers {
    contents: RwLock<Contents>,
    changed: signal::Sender<()>,
}

#[derive(Default)]
struct Contents {
    by_name: ByName,
    expected: Expected,
    /// Tells the watch of a namespace, or of all namespaces, to list the Peers.
    relist: HashMap<Option<String>, Arc<Notify>>,
}

type ByName = HashMap<String, Vec<Arc<CachedPeer>>>;

/// The Peers of a name and a token in all namespaces.
pub enum Found {
    /// There is none.
    Nothing,
    /// There is one.
    One(Arc<CachedPeer>),
    /// There are several, and none is taken. A token's digest can be read in a Peer and put into another.
    Several,
}

impl Default for Peers {
    fn default() -> Self {
        Self { contents: RwLock::default(), changed: signal::Sender::new(()) }
    }
}

impl Peers {
    /// The Peer of this name in this namespace, if this token is its own.
    pub fn own(&self, namespace: &str, name: &str, token: &Digest) -> Option<Arc<CachedPeer>> {
        self.get(namespace, name).filter(|peer| peer.has(token))
    }

    /// The Peer of this name with this token, in any namespace.
    pub fn find(&self, name: &str, token: &Digest) -> Found {
        let contents = self.contents.read();
        let mut found = contents.by_name.get(name).into_iter().flatten().filter(|peer| peer.has(token));
        match (found.next(), found.next()) {
            (None, _) => Found::Nothing,
            (Some(peer), None) => Found::One(Arc::clone(peer)),
            (Some(_), Some(_)) => Found::Several,
        }
    }

    /// The Peer of this name in this namespace.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<CachedPeer>> {
        self.contents.read().get(namespace, name).cloned()
    }

    /// Whether the caches show that no Peer of this name existed when the cached keys were current.
    pub fn has_none(&self, namespace: &str, name: &str) -> bool {
        let contents = self.contents.read();
        contents.get(namespace, name).is_none() && contents.expected.is_all_shown(namespace, name)
    }

    /// Whether this machine is about to become a Peer: it is pending, or was a moment ago.
    pub fn is_awaited(&self, key: &SetupKey, applicant: &Applicant) -> bool {
        let name = PeerName::of(&applicant.public_key);
        self.contents.read().expected.is_awaited(key, name.as_str(), &applicant.token, Instant::now())
    }

    /// Waits until there is a Peer of this name in this namespace.
    pub async fn arrival(&self, namespace: &str, name: &PeerName) -> Arc<CachedPeer> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(peer) = self.get(namespace, name.as_str()) {
                return peer;
            }
            // The sender is in `self`, so the channel is never closed.
            let _ = changed.changed().await;
        }
    }

    /// Expects the Peers that are pending in a version of a key. Every version is passed here, in order, before it can be
    /// found in the cache of keys.
    pub fn expect(&self, key: &SetupKey) {
        let Contents { by_name, expected, relist } = &mut *self.contents.write();
        let wanted = expected.note(key, Instant::now(), |entry| {
            by_name.get(&entry.name).is_some_and(|peers| peers.iter().any(|peer| peer.is_of(entry)))
        });
        if let Some(Relist(namespace)) = wanted {
            relist.entry(namespace).or_default().notify_one();
        }
    }

    /// A key was deleted.
    pub fn key_gone(&self, uid: &str) {
        self.contents.write().expected.key_gone(uid, Instant::now());
    }

    /// The keys were listed, and versions of them may have been missed. Is called before the listed keys can be found.
    pub fn keys_listed(&self, namespace: Option<&str>) {
        let mut contents = self.contents.write();
        let Relist(namespace) = contents.expected.keys_listed(namespace);
        contents.relist.entry(namespace).or_default().notify_one();
    }

    /// Tells the watch of this namespace to list the Peers, the first time and whenever it is to list them again.
    pub fn relist(&self, namespace: Option<&str>) -> Arc<Notify> {
        Arc::clone(self.contents.write().relist.entry(namespace.map(str::to_owned)).or_default())
    }
}

impl Contents {
    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<CachedPeer>> {
        self.by_name.get(name)?.iter().find(|peer| peer.namespace == namespace)
    }

    fn insert(&mut self, peer: CachedPeer) {
        self.expected.shown(&peer.name, |entry| peer.is_of(entry));
        insert(&mut self.by_name, peer);
    }
}

impl Index<Lean<DeserializeGuard<Peer>>> for Peers {
    type Cached = CachedPeer;

    fn cached(Lean(object): Lean<DeserializeGuard<Peer>>) -> CachedPeer {
        object.0.map_or_else(|error| CachedPeer::undecodable(error.metadata), CachedPeer::from)
    }

    fn apply(&self, peer: CachedPeer) {
        self.contents.write().insert(peer);
        self.changed.send_replace(());
    }

    fn delete(&self, namespace: &str, name: &str) {
        remove(&mut self.contents.write().by_name, namespace, name);
        self.changed.send_replace(());
    }

    fn listing(&self, namespace: Option<&str>) {
        self.contents.write().expected.listing(namespace);
    }

    fn reset(&self, namespace: Option<&str>, listed: Vec<CachedPeer>) {
        let mut contents = self.contents.write();
        let stay: HashSet<_> = listed.iter().map(|peer| (peer.namespace.clone(), peer.name.clone())).collect();
        let cached = contents.by_name.values().flatten().map(|peer| (peer.namespace.clone(), peer.name.clone()));
        let gone: Vec<_> = cached
            .filter(|peer| namespace.is_none_or(|namespace| namespace == peer.0) && !stay.contains(peer))
            .collect();
        gone.iter().for_each(|(namespace, name)| remove(&mut contents.by_name, namespace, name));
        listed.into_iter().for_each(|peer| contents.insert(peer));
        contents.expected.listed(namespace);
        drop(contents);
        self.changed.send_replace(());
    }
}

fn insert(peers: &mut ByName, peer: CachedPeer) {
    let of_name = peers.entry(peer.name.clone()).or_default();
    if let Some(old) = of_name.iter().find(|old| old.namespace == peer.namespace && old.uid == peer.uid) {
        peer.keep_later_heartbeat(old);
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
    use chrono::{DateTime, Utc};
    use serde_json::{Value, json};

    use super::*;

    fn peer(namespace: &str, token: &str, status: Value) -> CachedPeer {
        let peer = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer",
            "metadata": { "namespace": namespace, "name": "peer", "uid": namespace },
            "spec": {
                "publicKey": "", "hostname": "ada", "tokenDigest": Digest::of(token).as_str(),
                "setupKeyRef": { "name": "office", "uid": "u", "id": "id-1", "use": 1 },
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

    /// A version of the key in which this machine is pending, or not any more.
    fn key(pending: bool) -> SetupKey {
        let entry = json!({
            "keyId": "id-1", "number": 1, "name": "peer", "publicKey": "", "hostname": "ada",
            "tokenDigest": "", "since": "2026-11-24T06:00:00Z",
        });
        let pending: Vec<_> = pending.then_some(entry).into_iter().collect();
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "namespace": "n", "name": "office", "uid": "u" },
            "spec": {}, "status": { "pending": pending },
        }))
        .unwrap()
    }

    #[test]
    fn a_peer_is_found_by_name_and_token_in_any_namespace() {
        let peers = Peers::default();
        peers.apply(peer("a", "token of a", json!({})));
        peers.apply(peer("b", "token of b", json!({})));
        let found = |token: &str| match peers.find("peer", &Digest::of(token)) {
            Found::One(peer) => Some(peer.namespace.clone()),
            Found::Nothing | Found::Several => None,
        };
        assert_eq!(found("token of b").as_deref(), Some("b"));
        assert_eq!(found("another token"), None);
        peers.delete("b", "peer");
        assert_eq!(found("token of b"), None);
        peers.reset(Some("b"), Vec::new());
        assert_eq!(found("token of a").as_deref(), Some("a"));
        peers.reset(None, Vec::new());
        assert!(peers.contents.read().by_name.is_empty());
    }

    #[test]
    fn of_peers_with_the_same_token_each_is_its_own_in_its_namespace_only() {
        let (peers, token) = (Peers::default(), Digest::of("token"));
        let own = |namespace: &str| peers.own(namespace, "peer", &token).map(|peer| peer.namespace.clone());
        peers.apply(peer("a", "token", json!({})));
        assert_eq!((own("a").as_deref(), own("b")), (Some("a"), None));
        peers.apply(peer("b", "token", json!({})));
        assert!(matches!(peers.find("peer", &token), Found::Several));
        assert_eq!((own("a").as_deref(), own("b").as_deref()), (Some("a"), Some("b")));
        assert!(peers.own("a", "peer", &Digest::of("another")).is_none());
        peers.delete("a", "peer");
        assert!(matches!(peers.find("peer", &token), Found::One(peer) if peer.namespace == "b"));
    }

    #[test]
    fn a_heartbeat_that_was_written_here_counts_until_the_watch_shows_it() {
        let peers = Peers::default();
        let status = json!({ "connected": true, "lastSeen": at(0).to_rfc3339() });
        peers.apply(peer("n", "token", status.clone()));
        let cached = || peers.get("n", "peer").unwrap();
        assert!(cached().must_be_written(at(500), third()));
        peers.apply(peer("n", "token", status));
        assert!(!cached().must_be_written(at(510), third()));
        cached().was_not_written();
        assert!(cached().must_be_written(at(520), third()));
    }

    #[tokio::test]
    async fn there_is_certainly_no_peer_once_all_were_listed_and_none_is_expected() {
        let peers = Peers::default();
        let relist = peers.relist(None);
        assert!(!peers.has_none("n", "peer"), "nothing was listed");
        peers.keys_listed(None);
        relist.notified().await;
        peers.listing(None);
        peers.reset(None, Vec::new());
        assert!(peers.has_none("n", "peer"));
        peers.expect(&key(true));
        peers.expect(&key(false));
        assert!(!peers.has_none("n", "peer"), "its Peer was not shown yet");
        peers.apply(peer("n", "token", json!({})));
        peers.delete("n", "peer");
        assert!(peers.has_none("n", "peer"));
    }
}
