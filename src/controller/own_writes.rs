//! The process's own writes that its caches do not show yet. client-go calls these expectations.
//!
//! A pass that starts from a cache older than its own last write would decide from the past: it would mistake the key that it
//! has just put into the Secret for one that was tampered with. So a pass waits until the watch has delivered its writes.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use kube::{Resource, ResourceExt};
use parking_lot::{Mutex, MutexGuard};

use crate::cluster::version;

/// How long to wait for the watch to deliver a write. A watch that is later than that is broken. Decisions from an old cache
/// stay harmless then, because every write has a precondition.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// The resource.
    SetupKey,
    /// What holds the key.
    Secret,
    /// A machine that joined with it.
    Peer,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The writes that are waited for.
#[derive(Debug, Default)]
pub struct OwnWrites {
    writes: Mutex<HashMap<(Kind, String, String), Write>>,
}

#[derive(Debug)]
struct Write {
    resource_version: u64,
    at: Instant,
}

impl OwnWrites {
    /// Notes that this version was written, unless `cached` says that the cache shows it already: the watch may be
    /// faster than the answer. The cache is asked after the note was made, or a watch in between would be missed.
    pub fn wrote(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        written: &str,
        cached: impl FnOnce() -> Option<String>,
    ) {
        let Some(resource_version) = version(written) else { return };
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.writes().insert(key.clone(), Write { resource_version, at: Instant::now() });
        if cached().as_deref().and_then(version).is_some_and(|cached| cached >= resource_version) {
            self.writes().remove(&key);
        }
    }

    /// Notes that the watch has delivered this object.
    pub fn seen<K: Resource<DynamicType = ()>>(&self, kind: Kind, object: &K) {
        let mut writes = self.writes();
        if writes.is_empty() {
            return;
        }
        let key = (kind, object.namespace().unwrap_or_default(), object.name_any());
        let seen = object.meta().resource_version.as_deref().and_then(version);
        if writes.get(&key).is_some_and(|write| seen.is_none_or(|seen| seen >= write.resource_version)) {
            writes.remove(&key);
        }
    }

    /// Notes that the watch has re-listed all objects of this kind.
    pub fn forget(&self, kind: Kind) {
        self.writes().retain(|(of, ..), _| *of != kind);
    }

    /// How much longer to wait for our own last write of this object, or `None` when there is nothing to wait for.
    pub fn wait(&self, kind: Kind, namespace: &str, name: &str) -> Option<Duration> {
        let mut writes = self.writes();
        if writes.is_empty() {
            return None;
        }
        let key = (kind, namespace.to_owned(), name.to_owned());
        let left = LONGEST_WAIT.saturating_sub(writes.get(&key)?.at.elapsed());
        if left.is_zero() {
            writes.remove(&key);
            return None;
        }
        Some(left)
    }

    fn writes(&self) -> MutexGuard<'_, HashMap<(Kind, String, String), Write>> {
        self.writes.lock()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::api::ObjectMeta;

    use super::*;

    fn secret(resource_version: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some("s".to_owned()),
                namespace: Some("n".to_owned()),
                resource_version: Some(resource_version.to_owned()),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        }
    }

    #[test]
    fn a_write_is_waited_for_until_the_watch_brings_it() {
        let own_writes = OwnWrites::default();
        own_writes.wrote(Kind::Secret, "n", "s", "10", || Some("9".to_owned()));
        own_writes.seen(Kind::Secret, &secret("9"));
        assert!(own_writes.wait(Kind::Secret, "n", "s").is_some(), "the older version ended the wait");
        assert!(own_writes.wait(Kind::SetupKey, "n", "s").is_none(), "another kind waits too");
        own_writes.seen(Kind::Secret, &secret("11"));
        assert!(own_writes.wait(Kind::Secret, "n", "s").is_none());
    }

    #[test]
    fn a_watch_that_was_faster_is_not_waited_for() {
        let own_writes = OwnWrites::default();
        own_writes.wrote(Kind::Secret, "n", "s", "10", || Some("10".to_owned()));
        assert!(own_writes.wait(Kind::Secret, "n", "s").is_none());
    }

    #[test]
    fn a_fresh_list_ends_every_wait() {
        let own_writes = OwnWrites::default();
        own_writes.wrote(Kind::Secret, "n", "s", "10", || None);
        own_writes.forget(Kind::Secret);
        assert!(own_writes.wait(Kind::Secret, "n", "s").is_none());
    }
}
