//! Watches of Secrets that stand in the way: a key needs their name, and does not own them.
//!
//! Such a Secret does not have our label, so the watch of our own Secrets does not show it. A namespace that has conflicts
//! gets another watch, of the metadata of all its Secrets. It starts from the present and lists nothing, and only the names
//! that keys wait for are kept. Where there is no such watch, a conflict is found ended by a retry.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    api::SetupKey,
    cluster::{
        ObjectName,
        call::{Attempt, call, call_within},
        watch_backoff,
    },
    controller::retry::Retries,
    key::secret::{SecretView, is_orphan_of},
};

/// Namespaces that are watched at the same time. Each watch costs the API server a stream, and tenants choose how many
/// namespaces have conflicts.
const MOST: usize = 64;

/// A watch without conflicts is kept for up to twice as long, so conflicts that come and go do not start one each time.
const LINGER: Duration = Duration::from_secs(30);

/// How long the API server keeps a watch open, in seconds. The next one resumes where it ended.
const WATCH_SECONDS: u32 = 240;
/// A watch that is open for longer has lost its connection.
const LOST: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// The conflicts of one scope.
pub struct Conflicts(Arc<Shared>);

struct Shared {
    client: Client,
    retries: Arc<Retries>,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

struct Namespace {
    claims: Claims,
    /// Since when its watch shows each change.
    live: Option<Instant>,
    /// Ends with this.
    _watch: AbortOnDropHandle<()>,
}

impl Conflicts {
    /// No conflicts yet. Keys whose conflict ends are retried.
    pub fn new(client: Client, retries: Arc<Retries>) -> Self {
        Self(Arc::new(Shared { client, retries, namespaces: Mutex::default() }))
    }

    /// Notes what a pass that began at `began` has seen of the Secret. True if the key is in a conflict whose end the watch
    /// will show: it was there before the pass looked. Otherwise another pass has to look.
    pub fn note(&self, key: &SetupKey, secret: &SecretView, began: Instant) -> bool {
        let orphaned = match secret {
            SecretView::Foreign => false,
            SecretView::Orphaned => true,
            SecretView::Unread | SecretView::Absent | SecretView::Unchanged | SecretView::Owned(_) => {
                self.forget(&ObjectName::of(key));
                return false;
            }
        };
        let ObjectName { namespace, name } = ObjectName::of(key);
        let mut namespaces = self.0.namespaces.lock();
        if namespaces.len() >= MOST && !namespaces.contains_key(&namespace) {
            return false;
        }
        let found = namespaces.entry(namespace).or_insert_with_key(|namespace| Namespace {
            claims: Claims::default(),
            live: None,
            _watch: AbortOnDropHandle::new(tokio::spawn(watch(Arc::clone(&self.0), namespace.clone()))),
        });
        let uid = key.uid().unwrap_or_default();
        let claim = Claim { uid, secret: key.secret_name().to_owned(), orphaned, since: Instant::now() };
        let since = found.claims.insert(name, claim);
        since < began && found.live.is_some_and(|live| live < began)
    }

    /// Drops what is remembered about a key that is not in a conflict any more.
    pub fn forget(&self, key: &ObjectName) {
        if let Some(found) = self.0.namespaces.lock().get_mut(&key.namespace) {
            found.claims.remove(&key.name);
        }
    }
}

impl Drop for Conflicts {
    /// Ends the watches, which share the rest.
    fn drop(&mut self) {
        self.0.namespaces.lock().clear();
    }
}

impl Shared {
    /// Retries the keys of this namespace that `pick` returns.
    fn wake(&self, namespace: &str, pick: impl FnOnce(&Claims) -> Vec<String>) {
        let woken = self.namespaces.lock().get(namespace).map(|found| pick(&found.claims)).unwrap_or_default();
        for name in woken {
            self.retries.wake(&ObjectName::new(namespace, name));
        }
    }

    /// Notes that from now on the watch shows each change. What it missed, it cannot show.
    fn is_live(&self, namespace: &str, resumed: bool) {
        if let Some(found) = self.namespaces.lock().get_mut(namespace) {
            found.live = Some(Instant::now());
        }
        if resumed {
            self.wake(namespace, Claims::all);
        }
    }

    /// Resolves once there was no conflict in the namespace for a while. Then the namespace is forgotten.
    async fn idle(&self, namespace: &str) {
        let mut was_empty = false;
        loop {
            tokio::time::sleep(LINGER).await;
            let mut namespaces = self.namespaces.lock();
            let is_empty = namespaces.get(namespace).is_none_or(|found| found.claims.keys.is_empty());
            if is_empty && was_empty {
                namespaces.remove(namespace);
                return;
            }
            was_empty = is_empty;
        }
    }
}

/// Watches the Secrets of a namespace until there is no conflict in it.
async fn watch(shared: Arc<Shared>, namespace: String) {
    let secrets: Api<Secret> = Api::namespaced(shared.client.clone(), &namespace);
    let following = async {
        let (mut version, mut begun, mut pauses) = (None, false, watch_backoff());
        loop {
            match follow(&shared, &namespace, &secrets, &mut version, &mut begun).await {
                Ok(()) => pauses = watch_backoff(),
                Err(error) => {
                    if error.code() == Some(410) {
                        version = None;
                    }
                    tracing::debug!(namespace, %error, "the watch of conflicts failed and is started again");
                    tokio::time::sleep(pauses.next().unwrap_or(LINGER)).await;
                }
            }
        }
    };
    tokio::select! { () = following => {}, () = shared.idle(&namespace) => {} }
}

/// Follows one watch to its end, from this version, or from the present if there is none.
async fn follow(
    shared: &Shared,
    namespace: &str,
    secrets: &Api<Secret>,
    version: &mut Option<String>,
    begun: &mut bool,
) -> Result<(), crate::cluster::call::Error> {
    let from = match version {
        Some(version) => version.clone(),
        None => {
            // A list says which version is the present one, however short it is.
            let attempt = Attempt::to(format!("list a Secret of namespace {namespace}"));
            let listed = call(attempt, secrets.list_metadata(&ListParams::default().limit(1))).await?;
            let present = listed.metadata.resource_version.unwrap_or_default();
            shared.is_live(namespace, *begun);
            *begun = true;
            version.insert(present).clone()
        }
    };
    let attempt = Attempt::to(format!("watch the Secrets of namespace {namespace}"));
    call_within(LOST, attempt, async {
        let parameters = WatchParams::default().timeout(WATCH_SECONDS);
        let mut events = secrets.watch_metadata(&parameters, &from).await?.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(secret) | WatchEvent::Modified(secret) => {
                    let name = secret.name_any();
                    shared.wake(namespace, |claims| claims.changed_by(&name, &secret.metadata));
                    *version = secret.metadata.resource_version;
                }
                WatchEvent::Deleted(secret) => {
                    shared.wake(namespace, |claims| claims.of(&secret.name_any()));
                    *version = secret.metadata.resource_version;
                }
                WatchEvent::Bookmark(bookmark) => *version = Some(bookmark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
        Ok(())
    })
    .await
}

/// The keys of one namespace that need the name of a Secret which they do not own.
#[derive(Default)]
struct Claims {
    /// By the name of the key.
    keys: HashMap<String, Claim>,
    /// The names of the keys, by the name of the Secret.
    secrets: HashMap<String, BTreeSet<String>>,
}

struct Claim {
    uid: String,
    secret: String,
    /// Whether the Secret has lost its owner.
    orphaned: bool,
    since: Instant,
}

impl Claims {
    /// Adds a claim, and returns since when it has stood.
    fn insert(&mut self, key: String, mut claim: Claim) -> Instant {
        match self.keys.get(&key) {
            Some(old) if (&old.uid, &old.secret) == (&claim.uid, &claim.secret) => claim.since = old.since,
            Some(_) => self.remove(&key),
            None => {}
        }
        let since = claim.since;
        self.secrets.entry(claim.secret.clone()).or_default().insert(key.clone());
        self.keys.insert(key, claim);
        since
    }

    fn remove(&mut self, key: &str) {
        let Some(claim) = self.keys.remove(key) else { return };
        let Some(keys) = self.secrets.get_mut(&claim.secret) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.secrets.remove(&claim.secret);
        }
    }

    fn all(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// The keys that wait for this Secret.
    fn of(&self, secret: &str) -> Vec<String> {
        self.secrets.get(secret).into_iter().flatten().cloned().collect()
    }

    /// Those of them for which this change of the Secret makes a difference. A Secret may change all the time.
    fn changed_by(&self, secret: &str, metadata: &ObjectMeta) -> Vec<String> {
        let matters = |key: &String| {
            let claim = &self.keys[key];
            let owned = metadata.owner_references.iter().flatten().any(|owner| owner.uid == claim.uid);
            owned || is_orphan_of(metadata, key) != claim.orphaned
        };
        self.secrets.get(secret).into_iter().flatten().filter(|key| matters(key)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(uid: &str, secret: &str) -> Claim {
        Claim { uid: uid.to_owned(), secret: secret.to_owned(), orphaned: false, since: Instant::now() }
    }

    fn metadata(owner: Option<&str>) -> ObjectMeta {
        let owners = owner.map(|uid| json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid }]));
        serde_json::from_value(json!({
            "labels": { "setupkey.dev/key": "a" }, "annotations": { "setupkey.dev/id": "0123456789abcdefghij" },
            "ownerReferences": owners,
        }))
        .unwrap()
    }

    #[test]
    fn a_secret_that_goes_concerns_each_key_that_waits_for_it() {
        let mut claims = Claims::default();
        claims.insert("a".to_owned(), claim("1", "shared"));
        claims.insert("b".to_owned(), claim("2", "shared"));
        claims.insert("c".to_owned(), claim("3", "other"));
        assert_eq!(claims.of("shared"), ["a", "b"]);
        claims.remove("a");
        claims.insert("b".to_owned(), claim("4", "other"));
        assert_eq!((claims.of("shared"), claims.of("other")), (vec![], vec!["b".to_owned(), "c".to_owned()]));
        claims.remove("b");
        claims.remove("c");
        assert!(claims.keys.is_empty() && claims.secrets.is_empty(), "it remembers what is over");
    }

    #[test]
    fn a_change_of_a_secret_concerns_the_key_that_it_is_handed_over_to() {
        let mut claims = Claims::default();
        claims.insert("a".to_owned(), claim("1", "shared"));
        claims.insert("b".to_owned(), claim("2", "shared"));
        assert_eq!(claims.changed_by("shared", &metadata(Some("0"))), Vec::<String>::new());
        assert_eq!(claims.changed_by("shared", &metadata(Some("2"))), ["b"]);
        assert_eq!(claims.changed_by("shared", &metadata(None)), ["a"], "it has lost its owner");
        assert_eq!(claims.changed_by("another", &metadata(Some("1"))), Vec::<String>::new());
    }

    #[test]
    fn a_claim_stands_since_it_was_first_made_by_the_same_key() {
        let mut claims = Claims::default();
        let first = claims.insert("a".to_owned(), claim("1", "shared"));
        assert_eq!(claims.insert("a".to_owned(), claim("1", "shared")), first);
        assert!(claims.insert("a".to_owned(), claim("2", "shared")) > first);
    }
}
