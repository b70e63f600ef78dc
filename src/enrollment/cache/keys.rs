//! The `SetupKey`s, found by the digest of the key.
//!
//! This is a cache, so it may be behind. That is harmless: a swap on a stale key is lost, and a refusal changes nothing. It
//! is filled by the watch and by this process's own writes. No version of a key is missed on the way. Before a version can
//! be found here, the Peers that are pending in it are [expected](crate::key::expected).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use kube::{Resource, ResourceExt, api::ObjectMeta, core::DeserializeGuard};
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use super::Peers;
use crate::{
    api::SetupKey,
    cluster::{Lean, ObjectName, bound, strip, version},
    enrollment::watch::Index,
    key::{
        Digest,
        claim::{by_age, digests},
    },
};

/// The cache. Its reads are look-ups in a map.
pub struct Keys {
    peers: Arc<Peers>,
    contents: RwLock<Contents>,
}

#[derive(Default)]
struct Contents {
    keys: HashMap<ObjectName, watch::Sender<Arc<SetupKey>>>,
    /// By the digest of a current key, or of a replaced one. Normally one `SetupKey` for each.
    names: HashMap<String, Vec<ObjectName>>,
    /// UIDs of keys whose history has a gap: a version could not be decoded, or a `usedTimes` went down for the same key id.
    /// A pending entry may have been missed, so every applicant is looked up at the API server.
    missed: HashSet<String>,
    /// How many digests have more than one key.
    disputed: Gauge,
}

/// A version of a key, to swap.
#[derive(Clone)]
pub struct KeyVersion {
    /// The key.
    pub key: Arc<SetupKey>,
    /// Whether every version up to this one was seen, so that the cached Peers and the expected ones are all there are.
    pub followed: bool,
}

impl Keys {
    /// An empty cache, which tells `peers` what to expect, and shows in `disputed` how many digests more than one key has.
    pub fn new(peers: Arc<Peers>, disputed: Gauge) -> Self {
        Self { peers, contents: RwLock::new(Contents { disputed, ..Contents::default() }) }
    }

    /// The key with this digest, which is that of the current key or of a replaced one. If there are several, it is the
    /// oldest, so that all replicas decide alike, whatever they saw first.
    pub fn find(&self, digest: &Digest) -> Option<Arc<SetupKey>> {
        let contents = self.contents.read();
        let keys = contents.names.get(digest.as_str())?.iter().filter_map(|name| contents.get(name));
        keys.min_by(|one, other| by_age(one, other))
    }

    /// The key with this uid, in a version that is not older than this one.
    pub fn get(&self, name: &ObjectName, uid: &str, oldest: u64) -> Option<KeyVersion> {
        let contents = self.contents.read();
        let key = contents.get(name).filter(|key| is(key, uid) && version_of(key) >= oldest)?;
        Some(KeyVersion { followed: !contents.missed.contains(uid), key })
    }

    /// Waits for that. `None` if the key is deleted.
    pub async fn wait_for(&self, name: &ObjectName, uid: &str, oldest: u64) -> Option<KeyVersion> {
        let mut key = self.contents.read().keys.get(name)?.subscribe();
        key.wait_for(|key| !is(key, uid) || version_of(key) >= oldest).await.ok()?;
        self.get(name, uid, oldest)
    }

    /// This process has written a key, on top of a version that was followed. The key may be deleted by now.
    pub fn written(&self, key: &Arc<SetupKey>) {
        let mut contents = self.contents.write();
        if contents.get(&ObjectName::of(&**key)).is_some_and(|cached| cached.uid() == key.uid()) {
            contents.insert(Arc::clone(key), &self.peers);
        }
    }

    /// The key of this name with this UID was found to be deleted.
    pub fn gone(&self, name: &ObjectName, uid: &str) {
        let mut contents = self.contents.write();
        if contents.get(name).is_some_and(|key| is(&key, uid)) {
            contents.remove(name, &self.peers);
        }
    }
}

impl Index<Lean<DeserializeGuard<SetupKey>>> for Keys {
    /// The metadata, if the key cannot be decoded.
    type Cached = Result<SetupKey, Box<ObjectMeta>>;

    fn cached(Lean(mut object): Lean<DeserializeGuard<SetupKey>>) -> Self::Cached {
        bound(&mut object);
        object.0.map(stripped).map_err(|error| {
            let (namespace, name) = (error.metadata.namespace.as_deref(), error.metadata.name.as_deref());
            tracing::warn!(?namespace, ?name, %error, "a SetupKey cannot be used and admits no machine");
            Box::new(error.metadata)
        })
    }

    fn apply(&self, key: Self::Cached) {
        self.contents.write().take(key, &self.peers);
    }

    fn delete(&self, namespace: &str, name: &str) {
        self.contents.write().remove(&ObjectName::new(namespace, name), &self.peers);
    }

    fn reset(&self, namespace: Option<&str>, keys: Vec<Self::Cached>) {
        let mut contents = self.contents.write();
        self.peers.keys_listed(namespace);
        let gone = contents.keys.keys().filter(|key| namespace.is_none_or(|namespace| namespace == key.namespace));
        let mut gone: HashSet<_> = gone.cloned().collect();
        for key in &keys {
            gone.remove(&key.as_ref().map_or_else(|metadata| ObjectName::from(&**metadata), ObjectName::of));
        }
        gone.iter().for_each(|name| contents.remove(name, &self.peers));
        keys.into_iter().for_each(|key| contents.take(key, &self.peers));
    }
}

impl Contents {
    fn get(&self, name: &ObjectName) -> Option<Arc<SetupKey>> {
        self.keys.get(name).map(|key| Arc::clone(&key.borrow()))
    }

    fn take(&mut self, key: Result<SetupKey, Box<ObjectMeta>>, peers: &Peers) {
        match key {
            Ok(key) => self.insert(Arc::new(key), peers),
            Err(metadata) => {
                self.hide(&ObjectName::from(&*metadata));
                self.missed.extend(metadata.uid);
            }
        }
    }

    /// A version from the watch may be older than one that this process has written.
    fn insert(&mut self, key: Arc<SetupKey>, peers: &Peers) {
        let name = ObjectName::of(&*key);
        let before = self.get(&name);
        if let Some(before) = before.as_ref().filter(|before| before.uid() == key.uid()) {
            if version_of(&key) < version_of(before) {
                return;
            }
            if counts_less(&key, before) {
                self.missed.extend(key.uid());
            }
        } else if before.is_some() {
            self.remove(&name, peers);
        }
        peers.expect(&key);
        let before = self.get(&name);
        let old: BTreeSet<_> = before.iter().flat_map(|before| digests(before)).collect();
        let new: BTreeSet<_> = digests(&key).collect();
        old.difference(&new).for_each(|digest| self.forget(digest, &name));
        new.difference(&old).for_each(|digest| self.remember((*digest).to_owned(), &name));
        match self.keys.get(&name) {
            Some(cached) => drop(cached.send_replace(key)),
            None => drop(self.keys.insert(name, watch::Sender::new(key))),
        }
    }

    fn remove(&mut self, name: &ObjectName, peers: &Peers) {
        if let Some(uid) = self.hide(name) {
            self.missed.remove(&uid);
            peers.key_gone(&uid);
        }
    }

    /// Makes a key impossible to find. Returns its UID.
    fn hide(&mut self, name: &ObjectName) -> Option<String> {
        let key = Arc::clone(&self.keys.remove(name)?.borrow());
        let digests: BTreeSet<_> = digests(&key).collect();
        digests.iter().for_each(|digest| self.forget(digest, name));
        key.uid()
    }

    fn remember(&mut self, digest: String, name: &ObjectName) {
        let names = self.names.entry(digest).or_default();
        names.push(name.clone());
        if names.len() == 2 {
            self.disputed.inc();
        }
        if let [first, .., last] = &names[..] {
            let (first, last) = (first.to_string(), last.to_string());
            tracing::warn!(first, last, "two SetupKeys have the same digest on record; the older one is used");
        }
    }

    fn forget(&mut self, digest: &str, name: &ObjectName) {
        if let Some(names) = self.names.get_mut(digest) {
            let before = names.len();
            names.retain(|of_digest| of_digest != name);
            if before == 2 && names.len() == 1 {
                self.disputed.dec();
            }
            if names.is_empty() {
                self.names.remove(digest);
            }
        }
    }
}

/// A key without what the service does not need. The status stays whole, because a swap replaces it as a whole.
pub fn stripped(mut key: SetupKey) -> SetupKey {
    strip(key.meta_mut());
    key
}

fn is(key: &SetupKey, uid: &str) -> bool {
    key.metadata.uid.as_deref() == Some(uid)
}

/// The resourceVersion of a key as a number, to compare which of two versions is newer.
pub fn version_of(key: &SetupKey) -> u64 {
    key.metadata.resource_version.as_deref().and_then(version).unwrap_or_default()
}

/// Whether a key counts fewer uses in this version than in the one before.
fn counts_less(key: &SetupKey, before: &SetupKey) -> bool {
    let uses = uses_by_id(key);
    uses_by_id(before).iter().any(|(id, used)| uses.get(id).is_some_and(|now| now < used))
}

/// The uses of the current key, and of the replaced ones, by their ids.
fn uses_by_id(key: &SetupKey) -> BTreeMap<Option<&str>, i64> {
    let current = key.status.as_ref().map(|status| (status.id.as_deref(), status.used_times));
    let previous = key.previous().iter().map(|previous| (Some(previous.id.as_str()), previous.used_times));
    current.into_iter().chain(previous).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key(name: &str, status: Value) -> SetupKey {
        let key = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "namespace": "n", "name": name, "uid": name }, "spec": {}, "status": status,
        });
        serde_json::from_value(key).unwrap()
    }

    fn digest(of: &str) -> Digest {
        Digest::of(of)
    }

    fn keys() -> Keys {
        Keys::new(Arc::default(), Gauge::default())
    }

    fn found(keys: &Keys, of: &str) -> Option<String> {
        keys.find(&digest(of)).map(|key| key.name_any())
    }

    fn issued(name: &str, value: &str) -> SetupKey {
        key(name, json!({ "digest": digest(value).as_str() }))
    }

    /// A key of this value, which has replaced these.
    fn rotated(name: &str, value: &str, replaced: &[(&str, i64)]) -> SetupKey {
        let previous = replaced.iter().map(|(value, used)| {
            let moment = "2026-11-24T06:00:00Z";
            json!({
                "id": value, "digest": digest(value).as_str(), "key": "AAAAA****", "expires": moment,
                "admitsUntil": moment, "usedTimes": used,
            })
        });
        key(name, json!({ "id": value, "digest": digest(value).as_str(), "previous": previous.collect::<Vec<_>>() }))
    }

    #[test]
    fn a_key_is_found_by_its_current_digest_and_by_those_that_it_replaced() {
        let keys = keys();
        keys.apply(Ok(rotated("office", "first", &[])));
        for replaced in [[("first", 0)].as_slice(), &[("first", 0), ("second", 0)]] {
            keys.apply(Ok(rotated("office", "third", replaced)));
            for (value, _) in replaced {
                assert_eq!(found(&keys, value).as_deref(), Some("office"), "{value}");
            }
            assert_eq!(found(&keys, "third").as_deref(), Some("office"));
        }
        keys.apply(Ok(rotated("office", "third", &[("second", 0)])));
        assert_eq!((found(&keys, "first"), found(&keys, "second").as_deref()), (None, Some("office")));
        keys.delete("n", "office");
        assert!(keys.contents.read().names.is_empty());
    }

    #[test]
    fn a_replaced_digest_of_an_older_key_is_disputed_too() {
        let keys = keys();
        let born = |mut key: SetupKey, created: &str| {
            key.metadata.creation_timestamp = serde_json::from_value(json!(created)).unwrap();
            Ok(key)
        };
        keys.apply(born(rotated("younger", "value", &[]), "2026-11-24T06:00:01Z"));
        keys.apply(born(rotated("older", "new", &[("value", 0)]), "2026-11-24T06:00:00Z"));
        assert_eq!((found(&keys, "value").as_deref(), keys.contents.read().disputed.get()), (Some("older"), 1));
        // Its overlap is over.
        keys.apply(born(rotated("older", "new", &[]), "2026-11-24T06:00:00Z"));
        assert_eq!((found(&keys, "value").as_deref(), keys.contents.read().disputed.get()), (Some("younger"), 0));
    }

    #[test]
    fn a_key_is_found_by_none_of_its_values_that_were_reissued() {
        let keys = keys();
        keys.apply(Ok(key("office", json!({}))));
        assert_eq!(found(&keys, "first"), None);
        keys.apply(Ok(issued("office", "first")));
        assert_eq!(found(&keys, "first").as_deref(), Some("office"));
        keys.apply(Ok(issued("office", "second")));
        assert_eq!((found(&keys, "first"), found(&keys, "second").as_deref()), (None, Some("office")));
        keys.delete("n", "office");
        assert_eq!(found(&keys, "second"), None);
        assert!(keys.contents.read().names.is_empty());
    }

    #[test]
    fn a_new_list_replaces_its_own_namespace_and_no_other() {
        let keys = keys();
        keys.apply(Ok(issued("gone", "gone")));
        keys.apply(Ok(issued("stays", "stays")));
        keys.reset(Some("other"), Vec::new());
        assert!(found(&keys, "gone").is_some());
        keys.reset(Some("n"), vec![Ok(issued("stays", "stays")), Ok(issued("new", "new"))]);
        assert_eq!(found(&keys, "gone"), None);
        assert!(found(&keys, "stays").is_some() && found(&keys, "new").is_some());
        keys.reset(None, Vec::new());
        assert_eq!(found(&keys, "stays"), None);
    }

    #[test]
    fn of_two_keys_with_one_digest_the_older_is_found_whatever_came_first() {
        let born = |name: &str, created: &str| {
            let mut key = issued(name, "value");
            key.metadata.creation_timestamp = serde_json::from_value(json!(created)).unwrap();
            Ok(key)
        };
        let (older, younger) = ("2026-11-24T06:00:00Z", "2026-11-24T06:00:01Z");
        for order in [[("older", older), ("younger", younger)], [("younger", younger), ("older", older)]] {
            let keys = keys();
            order.iter().for_each(|(name, created)| keys.apply(born(name, created)));
            assert_eq!((found(&keys, "value").as_deref(), keys.contents.read().disputed.get()), (Some("older"), 1));
            keys.delete("n", "older");
            assert_eq!((found(&keys, "value").as_deref(), keys.contents.read().disputed.get()), (Some("younger"), 0));
        }
    }

    fn version(of: &str, version: u64, used: i64) -> SetupKey {
        let mut key = issued(of, of);
        key.metadata.resource_version = Some(version.to_string());
        key.status.as_mut().unwrap().used_times = used;
        key
    }

    fn latest(keys: &Keys, oldest: u64) -> Option<(u64, bool)> {
        let latest = keys.get(&ObjectName::new("n", "office"), "office", oldest)?;
        Some((version_of(&latest.key), latest.followed))
    }

    #[test]
    fn a_version_that_was_written_here_is_not_undone_by_the_watch() {
        let keys = keys();
        keys.apply(Ok(version("office", 9, 1)));
        keys.written(&Arc::new(version("office", 10, 2)));
        keys.apply(Ok(version("office", 9, 1)));
        assert_eq!((latest(&keys, 10), latest(&keys, 11)), (Some((10, true)), None));
        let mut another = version("office", 11, 2);
        another.metadata.uid = Some("another".to_owned());
        keys.written(&Arc::new(another));
        keys.gone(&ObjectName::new("n", "office"), "another");
        assert_eq!(latest(&keys, 0), Some((10, true)));
        keys.gone(&ObjectName::new("n", "office"), "office");
        assert_eq!(latest(&keys, 0), None);
    }

    #[test]
    fn a_key_is_not_followed_if_a_version_is_missed_or_counts_less() {
        let keys = keys();
        keys.apply(Ok(version("office", 9, 1)));
        keys.apply(Err(Box::new(version("office", 10, 1).metadata)));
        assert_eq!(latest(&keys, 0), None);
        keys.apply(Ok(version("office", 11, 1)));
        assert_eq!(latest(&keys, 0), Some((11, false)));
        keys.delete("n", "office");
        keys.apply(Ok(version("office", 12, 1)));
        assert_eq!(latest(&keys, 0), Some((12, true)));
        keys.apply(Ok(version("office", 13, 0)));
        assert_eq!(latest(&keys, 0), Some((13, false)));
    }

    #[test]
    fn a_new_key_id_counts_from_the_beginning_and_nothing_is_missed() {
        let keys = keys();
        let version_with = |id: &str, number, used| {
            let mut key = version("office", number, used);
            key.status.as_mut().unwrap().id = Some(id.to_owned());
            Ok(key)
        };
        keys.apply(version_with("first", 9, 5));
        keys.apply(version_with("second", 10, 0));
        assert_eq!(latest(&keys, 0), Some((10, true)));
        keys.apply(version_with("second", 11, 2));
        keys.apply(version_with("second", 12, 1));
        assert_eq!(latest(&keys, 0), Some((12, false)));
    }

    #[test]
    fn a_rotation_misses_nothing_unless_a_replaced_key_counts_less() {
        let keys = keys();
        let version_with = |number: u64, replaced: &[(&str, i64)], used| {
            let mut key = rotated("office", if replaced.is_empty() { "first" } else { "second" }, replaced);
            key.metadata.resource_version = Some(number.to_string());
            key.status.as_mut().unwrap().used_times = used;
            Ok(key)
        };
        for (number, replaced, used, followed) in [
            (9, [].as_slice(), 5, true),
            (10, &[("first", 5)], 0, true),
            (11, &[("first", 6)], 2, true),
            (12, &[("first", 5)], 2, false),
        ] {
            keys.apply(version_with(number, replaced, used));
            assert_eq!(latest(&keys, 0), Some((number, followed)));
        }
    }

    #[tokio::test]
    async fn a_newer_version_is_waited_for() {
        let keys = Arc::new(keys());
        keys.apply(Ok(version("office", 9, 1)));
        let (name, waiting) = (ObjectName::new("n", "office"), Arc::clone(&keys));
        let newer = tokio::spawn(async move { waiting.wait_for(&name, "office", 10).await });
        tokio::task::yield_now().await;
        assert!(!newer.is_finished());
        keys.apply(Ok(version("office", 10, 1)));
        assert_eq!(version_of(&newer.await.unwrap().unwrap().key), 10);
        let (name, waiting) = (ObjectName::new("n", "office"), Arc::clone(&keys));
        let newer = tokio::spawn(async move { waiting.wait_for(&name, "office", 11).await });
        tokio::task::yield_now().await;
        keys.delete("n", "office");
        assert!(newer.await.unwrap().is_none());
    }
}
