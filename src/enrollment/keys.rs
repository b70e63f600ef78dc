//! The `SetupKey`s, found by the digest of the key.
//!
//! A cache, so it may be behind. A stale object only loses the swap, and a refusal from it changes nothing.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use kube::{Resource, ResourceExt, core::DeserializeGuard};

use super::watch::Cache;
use crate::{
    api::{PendingPeer, SetupKey},
    key::{Digest, PeerName, ledger::Applicant},
};

/// How long it is remembered that a machine was pending: as long as the watch of Peers may be behind that of keys.
const REMEMBERED: Duration = Duration::from_secs(30);

/// An object by namespace and name.
pub type ObjectName = (String, String);

/// The cache. Its reads are look-ups in a map.
#[derive(Default)]
pub struct Keys(RwLock<Index>);

#[derive(Default)]
struct Index {
    keys: HashMap<ObjectName, Arc<SetupKey>>,
    /// Normally one key for each digest.
    names: HashMap<String, Vec<ObjectName>>,
    recorded: Recorded,
}

impl Keys {
    /// The key that is recognised by this digest.
    pub fn find(&self, digest: &Digest) -> Option<Arc<SetupKey>> {
        let index = self.read();
        index.names.get(digest.as_str())?.iter().find_map(|name| index.keys.get(name).cloned())
    }

    /// The key as it was last seen.
    pub fn get(&self, name: &ObjectName) -> Option<Arc<SetupKey>> {
        self.read().keys.get(name).cloned()
    }

    /// Whether a machine is known to be on its way to become a Peer: it is pending in this object, or was a moment ago.
    pub fn expects(&self, key: &SetupKey, applicant: &Applicant) -> bool {
        let name = PeerName::of(&applicant.public_key);
        let pending = key.status.as_ref().map_or(&[][..], |status| &status.pending);
        pending.iter().any(|entry| entry.name == name.as_str() && entry.token_digest == applicant.token.as_str())
            || self.read().recorded.holds(key, &name, &applicant.token)
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache<DeserializeGuard<SetupKey>> for Keys {
    type Record = SetupKey;

    fn record(object: DeserializeGuard<SetupKey>) -> Option<SetupKey> {
        let mut key = object.0.inspect_err(|error| {
            let (namespace, name) = (error.metadata.namespace.as_deref(), error.metadata.name.as_deref());
            tracing::warn!(?namespace, ?name, %error, "a SetupKey that cannot be read admits nobody");
        });
        if let Ok(key) = &mut key {
            let metadata = key.meta_mut();
            metadata.managed_fields = None;
            metadata.labels = None;
            metadata.annotations = None;
            if let Some(status) = &mut key.status {
                status.conditions = Vec::new();
            }
        }
        key.ok()
    }

    fn apply(&self, key: SetupKey) {
        self.write().insert(key);
    }

    fn remove(&self, namespace: &str, name: &str) {
        self.write().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn replace(&self, namespace: Option<&str>, keys: Vec<SetupKey>) {
        let mut index = self.write();
        let gone = index.keys.keys().filter(|(of, _)| namespace.is_none_or(|namespace| namespace == of));
        let mut gone: std::collections::HashSet<_> = gone.cloned().collect();
        for key in &keys {
            gone.remove(&name_of(key));
        }
        gone.iter().for_each(|name| index.remove(name));
        keys.into_iter().for_each(|key| index.insert(key));
    }
}

impl Index {
    fn insert(&mut self, key: SetupKey) {
        let name = name_of(&key);
        let before = self.keys.get(&name).cloned();
        if let Some(before) = &before {
            self.recorded.note(before, &key);
        }
        let (old, new) = (before.as_deref().and_then(digest_of), digest_of(&key).map(str::to_owned));
        if old != new.as_deref() {
            if let Some(old) = old {
                self.forget(old, &name);
            }
            if let Some(new) = new {
                self.names.entry(new).or_default().push(name.clone());
            }
        }
        self.keys.insert(name, Arc::new(key));
    }

    fn remove(&mut self, name: &ObjectName) {
        if let Some(key) = self.keys.remove(name)
            && let Some(digest) = digest_of(&key)
        {
            self.forget(digest, name);
        }
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

/// Machines that were pending a moment ago, so that they exist as Peers although the other cache may not show them yet.
#[derive(Default)]
struct Recorded {
    machines: HashMap<(String, String), (String, Instant)>,
    /// In the order in which they came.
    order: std::collections::VecDeque<((String, String), Instant)>,
}

impl Recorded {
    fn note(&mut self, before: &SetupKey, after: &SetupKey) {
        let pending = |key: &SetupKey| key.status.as_ref().map_or(Vec::new(), |status| status.pending.clone());
        let now = Instant::now();
        let still = pending(after);
        let uid = after.uid().unwrap_or_default();
        for PendingPeer { name, token_digest, .. } in pending(before) {
            if before.uid() == after.uid() && !still.iter().any(|entry| entry.name == name) {
                let machine = (uid.clone(), name);
                self.machines.insert(machine.clone(), (token_digest, now));
                self.order.push_back((machine, now));
            }
        }
        while let Some((machine, at)) = self.order.front()
            && now - *at > REMEMBERED
        {
            if self.machines.get(machine).is_some_and(|(_, last)| last == at) {
                self.machines.remove(machine);
            }
            self.order.pop_front();
        }
    }

    fn holds(&self, key: &SetupKey, name: &PeerName, token: &Digest) -> bool {
        let machine = (key.uid().unwrap_or_default(), name.to_string());
        let found = self.machines.get(&machine);
        found.is_some_and(|(known, at)| known == token.as_str() && at.elapsed() <= REMEMBERED)
    }
}

/// Namespace and name of a key.
pub fn name_of(key: &SetupKey) -> ObjectName {
    (key.namespace().unwrap_or_default(), key.name_any())
}

fn digest_of(key: &SetupKey) -> Option<&str> {
    key.status.as_ref()?.digest.as_deref()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::key::PublicKey;

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

    fn found(keys: &Keys, of: &str) -> Option<String> {
        keys.find(&digest(of)).map(|key| key.name_any())
    }

    fn issued(name: &str, value: &str) -> SetupKey {
        key(name, json!({ "digest": digest(value).as_str() }))
    }

    #[test]
    fn a_key_is_found_by_its_present_digest_only() {
        let keys = Keys::default();
        keys.apply(key("office", json!({})));
        assert_eq!(found(&keys, "first"), None);
        keys.apply(issued("office", "first"));
        assert_eq!(found(&keys, "first").as_deref(), Some("office"));
        keys.apply(issued("office", "second"));
        assert_eq!((found(&keys, "first"), found(&keys, "second").as_deref()), (None, Some("office")));
        keys.remove("n", "office");
        assert_eq!(found(&keys, "second"), None);
        assert!(keys.read().names.is_empty());
    }

    #[test]
    fn a_new_list_replaces_its_own_namespace_and_no_other() {
        let keys = Keys::default();
        keys.apply(issued("gone", "gone"));
        keys.apply(issued("stays", "stays"));
        keys.replace(Some("other"), Vec::new());
        assert!(found(&keys, "gone").is_some());
        keys.replace(Some("n"), vec![issued("stays", "stays"), issued("new", "new")]);
        assert_eq!(found(&keys, "gone"), None);
        assert!(found(&keys, "stays").is_some() && found(&keys, "new").is_some());
        keys.replace(None, Vec::new());
        assert_eq!(found(&keys, "stays"), None);
    }

    #[test]
    fn who_was_pending_is_expected_with_the_same_token_only() {
        let public_key = PublicKey::from_bytes([0; 32]);
        let applicant = |token: &str| Applicant {
            key: digest("key"),
            public_key: public_key.clone(),
            hostname: String::new(),
            extra_dns_labels: Vec::new(),
            token: digest(token),
        };
        let entry = json!({
            "number": 1, "name": PeerName::of(&public_key).as_str(), "publicKey": public_key.to_string(), "hostname": "ada",
            "tokenDigest": digest("token").as_str(), "since": "2026-11-24T06:00:00Z",
        });
        let keys = Keys::default();
        let (pending, cleared) = (key("office", json!({ "pending": [entry] })), key("office", json!({})));
        assert!(keys.expects(&pending, &applicant("token")));
        assert!(!keys.expects(&pending, &applicant("another")));
        assert!(!keys.expects(&cleared, &applicant("token")));
        keys.apply(pending);
        keys.apply(cleared.clone());
        assert!(keys.expects(&cleared, &applicant("token")));
        assert!(!keys.expects(&cleared, &applicant("another")));
        assert!(!keys.expects(&key("another", json!({})), &applicant("token")));
    }
}
