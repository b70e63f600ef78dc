//! The `SetupKey`s, found by the digest of the key.
//!
//! A cache, so it may be behind. A stale object only loses the swap, and a refusal from it changes nothing. It is filled
//! by the watch, and what this process has written itself it knows at once. No version of a key is missed on the way, and
//! before one can be seen here, the Peers that are pending in it are [expected](super::expected).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kube::{Resource, ResourceExt, api::ObjectMeta, core::DeserializeGuard};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use super::{peers::Peers, watch::Cache};
use crate::{
    api::SetupKey,
    cluster::{ObjectName, version},
    key::Digest,
};

/// The cache. Its reads are look-ups in a map.
pub struct Keys {
    peers: Arc<Peers>,
    index: RwLock<Index>,
}

#[derive(Default)]
struct Index {
    keys: HashMap<ObjectName, watch::Sender<Arc<SetupKey>>>,
    /// Normally one key for each digest.
    names: HashMap<String, Vec<ObjectName>>,
    /// The uids of keys of which a version could not be read, or counted less than the one before: what was pending in it
    /// is not known, or is numbered anew.
    missed: HashSet<String>,
}

/// A key as it is known, to swap.
#[derive(Clone)]
pub struct Basis {
    pub key: Arc<SetupKey>,
    /// Whether every version up to this one has been seen, so that it is known whom it has admitted.
    pub followed: bool,
}

impl Keys {
    /// Knows no key yet. The Peers that keys admit are expected by `peers`.
    pub fn new(peers: Arc<Peers>) -> Self {
        Self { peers, index: RwLock::default() }
    }

    /// The key that is recognised by this digest.
    pub fn find(&self, digest: &Digest) -> Option<Arc<SetupKey>> {
        let index = self.read();
        index.names.get(digest.as_str())?.iter().find_map(|name| index.get(name))
    }

    /// The key with this uid, in a version that is not older than this one.
    pub fn get(&self, name: &ObjectName, uid: &str, oldest: u64) -> Option<Basis> {
        let index = self.read();
        let key = index.get(name).filter(|key| is(key, uid) && version_of(key) >= oldest)?;
        Some(Basis { followed: !index.missed.contains(uid), key })
    }

    /// Waits for that. `None` when the key has gone.
    pub async fn wait_for(&self, name: &ObjectName, uid: &str, oldest: u64) -> Option<Basis> {
        let mut key = self.read().keys.get(name)?.subscribe();
        key.wait_for(|key| !is(key, uid) || version_of(key) >= oldest).await.ok()?;
        self.get(name, uid, oldest)
    }

    /// This process has written a key, and knew the version before. It may be gone by now.
    pub fn written(&self, key: &Arc<SetupKey>) {
        let mut index = self.write();
        if index.get(&ObjectName::of(&**key)).is_some_and(|known| known.uid() == key.uid()) {
            index.insert(Arc::clone(key), &self.peers);
        }
    }

    /// There is no key of this name with this uid any more.
    pub fn gone(&self, name: &ObjectName, uid: &str) {
        let mut index = self.write();
        if index.get(name).is_some_and(|key| is(&key, uid)) {
            index.remove(name, &self.peers);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write()
    }
}

impl Cache<DeserializeGuard<SetupKey>> for Keys {
    /// Of one that cannot be read, what it is called.
    type Record = Result<SetupKey, Box<ObjectMeta>>;

    fn record(object: DeserializeGuard<SetupKey>) -> Self::Record {
        object.0.map(stripped).map_err(|error| {
            let (namespace, name) = (error.metadata.namespace.as_deref(), error.metadata.name.as_deref());
            tracing::warn!(?namespace, ?name, %error, "a SetupKey that cannot be read admits nobody");
            Box::new(error.metadata)
        })
    }

    fn apply(&self, key: Self::Record) {
        self.write().take(key, &self.peers);
    }

    fn remove(&self, namespace: &str, name: &str) {
        self.write().remove(&ObjectName::new(namespace, name), &self.peers);
    }

    fn replace(&self, namespace: Option<&str>, keys: Vec<Self::Record>) {
        let mut index = self.write();
        self.peers.keys_listed(namespace);
        let gone = index.keys.keys().filter(|key| namespace.is_none_or(|namespace| namespace == key.namespace));
        let mut gone: HashSet<_> = gone.cloned().collect();
        for key in &keys {
            gone.remove(&key.as_ref().map_or_else(|metadata| ObjectName::from(&**metadata), ObjectName::of));
        }
        gone.iter().for_each(|name| index.remove(name, &self.peers));
        keys.into_iter().for_each(|key| index.take(key, &self.peers));
    }
}

impl Index {
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

    /// What comes by the watch may be older than what this process has written itself.
    fn insert(&mut self, key: Arc<SetupKey>, peers: &Peers) {
        let name = ObjectName::of(&*key);
        let before = self.get(&name);
        if let Some(before) = before.as_ref().filter(|before| before.uid() == key.uid()) {
            if version_of(&key) < version_of(before) {
                return;
            }
            if key.used_times() < before.used_times() {
                self.missed.extend(key.uid());
            }
        } else if before.is_some() {
            self.remove(&name, peers);
        }
        peers.expect(&key);
        let (old, new) = (self.get(&name), digest_of(&key).map(str::to_owned));
        let old = old.as_deref().and_then(digest_of);
        if old != new.as_deref() {
            if let Some(old) = old {
                self.forget(old, &name);
            }
            if let Some(new) = new {
                self.names.entry(new).or_default().push(name.clone());
            }
        }
        match self.keys.get(&name) {
            Some(known) => drop(known.send_replace(key)),
            None => drop(self.keys.insert(name, watch::Sender::new(key))),
        }
    }

    fn remove(&mut self, name: &ObjectName, peers: &Peers) {
        if let Some(uid) = self.hide(name) {
            self.missed.remove(&uid);
            peers.key_gone(&uid);
        }
    }

    /// Nobody finds it any more. Returns its uid.
    fn hide(&mut self, name: &ObjectName) -> Option<String> {
        let key = Arc::clone(&self.keys.remove(name)?.borrow());
        if let Some(digest) = digest_of(&key) {
            self.forget(digest, name);
        }
        key.uid()
    }

    fn forget(&mut self, digest: &str, name: &ObjectName) {
        if let Some(names) = self.names.get_mut(digest) {
            names.retain(|known| known != name);
            if names.is_empty() {
                self.names.remove(digest);
            }
        }
    }
}

/// What the service needs of a key. The status stays whole, for it is replaced as a whole.
pub fn stripped(mut key: SetupKey) -> SetupKey {
    let metadata = key.meta_mut();
    metadata.managed_fields = None;
    metadata.labels = None;
    metadata.annotations = None;
    key
}

fn is(key: &SetupKey, uid: &str) -> bool {
    key.metadata.uid.as_deref() == Some(uid)
}

/// The version of a key, by which it is told which of two is newer.
pub fn version_of(key: &SetupKey) -> u64 {
    key.metadata.resource_version.as_deref().and_then(version).unwrap_or_default()
}

fn digest_of(key: &SetupKey) -> Option<&str> {
    key.status.as_ref()?.digest.as_deref()
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
        Keys::new(Arc::default())
    }

    fn found(keys: &Keys, of: &str) -> Option<String> {
        keys.find(&digest(of)).map(|key| key.name_any())
    }

    fn issued(name: &str, value: &str) -> SetupKey {
        key(name, json!({ "digest": digest(value).as_str() }))
    }

    #[test]
    fn a_key_is_found_by_its_present_digest_only() {
        let keys = keys();
        keys.apply(Ok(key("office", json!({}))));
        assert_eq!(found(&keys, "first"), None);
        keys.apply(Ok(issued("office", "first")));
        assert_eq!(found(&keys, "first").as_deref(), Some("office"));
        keys.apply(Ok(issued("office", "second")));
        assert_eq!((found(&keys, "first"), found(&keys, "second").as_deref()), (None, Some("office")));
        keys.remove("n", "office");
        assert_eq!(found(&keys, "second"), None);
        assert!(keys.read().names.is_empty());
    }

    #[test]
    fn a_new_list_replaces_its_own_namespace_and_no_other() {
        let keys = keys();
        keys.apply(Ok(issued("gone", "gone")));
        keys.apply(Ok(issued("stays", "stays")));
        keys.replace(Some("other"), Vec::new());
        assert!(found(&keys, "gone").is_some());
        keys.replace(Some("n"), vec![Ok(issued("stays", "stays")), Ok(issued("new", "new"))]);
        assert_eq!(found(&keys, "gone"), None);
        assert!(found(&keys, "stays").is_some() && found(&keys, "new").is_some());
        keys.replace(None, Vec::new());
        assert_eq!(found(&keys, "stays"), None);
    }

    fn version(of: &str, version: u64, used: i64) -> SetupKey {
        let mut key = issued(of, of);
        key.metadata.resource_version = Some(version.to_string());
        key.status.as_mut().unwrap().used_times = used;
        key
    }

    fn basis(keys: &Keys, oldest: u64) -> Option<(u64, bool)> {
        let basis = keys.get(&ObjectName::new("n", "office"), "office", oldest)?;
        Some((version_of(&basis.key), basis.followed))
    }

    #[test]
    fn what_was_written_here_is_not_undone_by_the_watch() {
        let keys = keys();
        keys.apply(Ok(version("office", 9, 1)));
        keys.written(&Arc::new(version("office", 10, 2)));
        keys.apply(Ok(version("office", 9, 1)));
        assert_eq!((basis(&keys, 10), basis(&keys, 11)), (Some((10, true)), None));
        let mut another = version("office", 11, 2);
        another.metadata.uid = Some("another".to_owned());
        keys.written(&Arc::new(another));
        keys.gone(&ObjectName::new("n", "office"), "another");
        assert_eq!(basis(&keys, 0), Some((10, true)));
        keys.gone(&ObjectName::new("n", "office"), "office");
        assert_eq!(basis(&keys, 0), None);
    }

    #[test]
    fn a_key_is_not_followed_of_which_a_version_is_missed_or_counts_less() {
        let keys = keys();
        keys.apply(Ok(version("office", 9, 1)));
        keys.apply(Err(Box::new(version("office", 10, 1).metadata)));
        assert_eq!(basis(&keys, 0), None);
        keys.apply(Ok(version("office", 11, 1)));
        assert_eq!(basis(&keys, 0), Some((11, false)));
        keys.remove("n", "office");
        keys.apply(Ok(version("office", 12, 1)));
        assert_eq!(basis(&keys, 0), Some((12, true)));
        keys.apply(Ok(version("office", 13, 0)));
        assert_eq!(basis(&keys, 0), Some((13, false)));
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
        keys.remove("n", "office");
        assert!(newer.await.unwrap().is_none());
    }
}
