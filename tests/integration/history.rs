//! Every version of a SetupKey and of its Secret, as watches show them.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{WatchEvent, WatchParams},
};
use parking_lot::Mutex;
use setupkey_operator::api::SetupKey;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Cluster, digest, eventually};

/// What happened to the key of a SetupKey. The versions of all objects are numbers of one count.
#[derive(Clone, Debug)]
enum Seen {
    /// The SetupKey has the first digest as the current one on record, and these for keys that were replaced.
    Key(Option<String>, BTreeSet<String>),
    /// The Secret holds the key with this digest.
    Secret(String),
}

/// The watches.
pub struct History {
    seen: Arc<Mutex<Vec<(u64, Seen)>>>,
    _watches: [AbortOnDropHandle<()>; 2],
}

fn number(version: Option<String>) -> u64 {
    version.and_then(|version| version.parse().ok()).expect("versions of the API server are numbers")
}

fn of_key(key: &SetupKey) -> Option<(u64, Seen)> {
    let status = key.status.clone().unwrap_or_default();
    let replaced = status.previous.into_iter().map(|previous| previous.digest).collect();
    Some((number(key.resource_version()), Seen::Key(status.digest, replaced)))
}

fn of_secret(secret: &Secret) -> Option<(u64, Seen)> {
    let value = secret.data.as_ref()?.get("setup-key")?;
    Some((number(secret.resource_version()), Seen::Secret(digest(std::str::from_utf8(&value.0).ok()?))))
}

/// Notes each version from now on, until it is dropped.
async fn follow<K>(
    api: Api<K>,
    name: &str,
    note: impl Fn(&K) -> Option<(u64, Seen)> + Send + Sync + 'static,
    seen: Arc<Mutex<Vec<(u64, Seen)>>>,
) -> AbortOnDropHandle<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let first = api.get(name).await.expect("an object to follow");
    let mut version = first.resource_version().expect("a version");
    seen.lock().extend(note(&first));
    let parameters = WatchParams::default().fields(&format!("metadata.name={name}"));
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let Ok(events) = api.watch(&parameters, &version).await else { continue };
            pin_mut!(events);
            while let Some(Ok(event)) = events.next().await {
                if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
                    version = object.resource_version().expect("a version");
                    seen.lock().extend(note(&object));
                }
            }
        }
    }))
}

impl History {
    /// Follows the SetupKey of this name and its Secret, which must exist.
    pub async fn of(cluster: &Cluster, name: &str) -> Self {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let keys = follow(cluster.keys(), name, of_key, Arc::clone(&seen)).await;
        let secrets = follow(cluster.secrets(), name, of_secret, Arc::clone(&seen)).await;
        Self { seen, _watches: [keys, secrets] }
    }

    /// Checks the whole history up to this version of the SetupKey: the key with this digest was never forgotten, and each
    /// key was in the Secret before it became the current one.
    pub async fn keeps(&self, cluster: &Cluster, name: &str, old: &str, point: &str) {
        let last = number(cluster.keys().get(name).await.expect("a key").resource_version());
        let mut seen = eventually("the watch to show the last version", || async {
            let seen = self.seen.lock().clone();
            seen.iter().any(|(version, seen)| *version == last && matches!(seen, Seen::Key(..))).then_some(seen)
        })
        .await;
        seen.sort_by_key(|(version, _)| *version);
        let mut held = BTreeSet::new();
        for (version, seen) in seen {
            match seen {
                Seen::Secret(digest) => drop(held.insert(digest)),
                Seen::Key(current, replaced) => {
                    let is_known = current.as_deref() == Some(old) || replaced.contains(old);
                    assert!(is_known, "{point}: version {version} has forgotten the replaced key");
                    let current = current.unwrap_or_else(|| panic!("{point}: version {version} has no key"));
                    assert!(held.contains(&current), "{point}: version {version} has a key that was in no Secret");
                }
            }
        }
    }
}
