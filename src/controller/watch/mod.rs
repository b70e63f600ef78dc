//! The watches, the caches that they fill, and the passes that they ask for.

mod cache;
mod conflicts;
mod packed;
mod peer;

use std::{
    collections::HashSet,
    fmt::Debug,
    sync::{Arc, LazyLock},
};

use futures::{
    FutureExt, Stream, StreamExt, TryStreamExt,
    channel::mpsc,
    future::{self, BoxFuture},
    stream::BoxStream,
};
use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::PartialObjectMeta,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    authorities::AuthorityName,
    own_writes::{Kind, OwnWrites},
    queue::Queue,
};
use crate::{
    api::{
        SetupKey,
        metadata::{KEY_LABEL, ROTATE_ANNOTATION},
    },
    cluster::{Lean, ObjectName, bound, call::log_restart, pages, scoped, strip},
    key::claim::digests,
};

pub use cache::{Cache, Filling, Mark, Sort};
pub use conflicts::Conflicts;
pub use peer::WatchedPeer;

/// A `SetupKey`, or the metadata of one that cannot be decoded. One such object must not stop the others.
pub type WatchedKey = DeserializeGuard<SetupKey>;

/// A Secret without its data.
pub type SecretMetadata = PartialObjectMeta<Secret>;

/// Which caches have been filled once.
#[derive(Clone)]
pub struct Filled {
    filled: tokio::sync::watch::Receiver<HashSet<Kind>>,
    needed: &'static [Kind],
}

impl Filled {
    /// Waits until the caches that are needed are filled. False if the watches have ended before that.
    pub async fn wait(&self) -> bool {
        self.filled.clone().wait_for(|filled| self.is_enough(filled)).await.is_ok()
    }

    /// Caches that are filled, for tests.
    #[cfg(test)]
    pub fn from_the_start() -> Self {
        Self { filled: tokio::sync::watch::channel(HashSet::new()).1, needed: &[] }
    }

    /// Whether they are filled now.
    pub fn is_complete(&self) -> bool {
        self.is_enough(&self.filled.borrow())
    }

    fn is_enough(&self, filled: &HashSet<Kind>) -> bool {
        self.needed.iter().all(|kind| filled.contains(kind))
    }
}

/// The signals of the watches to the rest of the controller, besides the changes themselves.
#[derive(Clone)]
struct Signals {
    own_writes: Arc<OwnWrites>,
    filled: Arc<tokio::sync::watch::Sender<HashSet<Kind>>>,
    relisted: mpsc::Sender<()>,
}

/// What the watches of one scope give.
pub struct Watched {
    /// The cache of `SetupKey`s.
    pub keys: Cache<WatchedKey>,
    /// The cache of the metadata of Secrets with our label.
    pub secrets: Cache<SecretMetadata>,
    /// Which caches are filled.
    pub filled: Filled,
    /// Our own writes that the caches do not show yet.
    pub own_writes: Arc<OwnWrites>,
    /// One item for each re-list of a cache.
    pub relists: BoxStream<'static, ()>,
    /// What is to be known for looking after peers.
    pub peers: WatchedPeers,
    /// The watches themselves. They run while this is polled.
    pub watches: BoxFuture<'static, ()>,
}

/// What the watches of one scope give of peers.
pub struct WatchedPeers {
    /// The cache of peers, as far as they are decided about.
    pub peers: Cache<WatchedPeer>,
    /// The cache of `SetupKey`s.
    pub keys: Cache<WatchedKey>,
    /// Which caches are filled.
    pub filled: Filled,
    /// One item for each re-list of the peers. Until then, a pass sees the old cache.
    pub relists: BoxStream<'static, ()>,
}

/// Sets up the watches. They ask for a pass over each key that changed or went, whose Secret did, and over each such peer. The
/// pass over one that went finds nothing, and drops what is remembered about it.
pub fn start(client: &Client, namespace: Option<&str>, keys: &Arc<Queue>, peers: &Arc<Queue>) -> Watched {
    let own_writes = Arc::new(OwnWrites::default());
    let (relisted, relists) = mpsc::channel(1);
    let (filling, filled) = tokio::sync::watch::channel(HashSet::new());
    let signals = Signals { own_writes: Arc::clone(&own_writes), filled: Arc::new(filling), relisted };
    let everything = watcher::Config::default();
    let ours = everything.clone().labels(KEY_LABEL);
    let (of_keys, key_cache) = watch(scoped(client, namespace), everything.clone(), keys, signals.clone());
    let (of_secrets, secret_cache) = watch(scoped(client, namespace), ours, keys, signals.clone());
    let (relisted, peer_relists) = mpsc::channel(1);
    let (of_peers, peer_cache) = watch(scoped(client, namespace), everything, peers, Signals { relisted, ..signals });
    Watched {
        peers: WatchedPeers {
            peers: peer_cache,
            keys: key_cache.clone(),
            filled: Filled { filled: filled.clone(), needed: &[Kind::SetupKey, Kind::Secret, Kind::Peer] },
            relists: peer_relists.boxed(),
        },
        keys: key_cache,
        secrets: secret_cache,
        filled: Filled { filled, needed: &[Kind::SetupKey, Kind::Secret] },
        own_writes,
        relists: relists.boxed(),
        watches: future::join3(of_keys, of_secrets, of_peers).map(drop).boxed(),
    }
}

/// The keys that a change of a Secret may concern: the one in its label, and the one that owns it. They differ only if the
/// label or the owner reference was edited.
fn keys_of_secret(secret: &SecretMetadata) -> impl Iterator<Item = Arc<ObjectName>> {
    let namespace = secret.namespace().unwrap_or_default();
    let labelled = secret.labels().get(KEY_LABEL).cloned();
    let owners = secret.owner_references().iter().filter(|owner| owner.kind == SetupKey::kind(&()));
    let mut names: Vec<_> = labelled.into_iter().chain(owners.map(|owner| owner.name.clone())).collect();
    names.dedup();
    names.into_iter().map(move |name| ObjectName::new(namespace.clone(), name).into())
}

/// A watch that fills a cache and then asks for passes.
///
/// Its errors end here. It is started again after each.
fn watch<K>(
    api: Api<Lean<K>>,
    config: watcher::Config,
    queue: &Arc<Queue>,
    signals: Signals,
) -> (impl Future<Output = ()> + Send + 'static, Cache<K>)
where
    K: Watchable + Clone + Debug + Send + Sync + 'static,
    Lean<K>: DeserializeOwned,
{
    let (filling, queue) = (Filling::new(), Arc::clone(queue));
    let (cache, events) = (filling.cache(), pages::watch(api, config));
    (follow(events.map_ok(unwrapped), filling, queue, signals), cache)
}

fn unwrapped<K>(event: watcher::Event<Lean<K>>) -> watcher::Event<K> {
    match event {
        watcher::Event::Apply(Lean(object)) => watcher::Event::Apply(object),
        watcher::Event::Delete(Lean(object)) => watcher::Event::Delete(object),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(Lean(object)) => watcher::Event::InitApply(object),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

async fn follow<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    mut filling: Filling<K>,
    queue: Arc<Queue>,
    mut signals: Signals,
) where
    K: Watchable + Clone,
{
    let mut events = std::pin::pin!(events.modify(K::strip));
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                log_restart(K::KIND, &error);
                continue;
            }
        };
        let changed = filling.apply(&event);
        match &event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => {
                signals.own_writes.seen(K::KIND, object);
                queue.add_all(object.concerns(changed));
            }
            // The cache has just been replaced as a whole. A change that the old watch missed, above all a deletion,
            // causes no event, so every key is reconciled again.
            watcher::Event::InitDone => {
                signals.own_writes.forget(K::KIND);
                signals.filled.send_if_modified(|filled| filled.insert(K::KIND));
                // A full channel already holds a signal.
                let _ = signals.relisted.try_send(());
                // What is gone is in no cache any more. The key of a Secret is.
                if K::KIND != Kind::Secret {
                    queue.add_all(changed);
                }
            }
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        }
    }
}

/// Owners of a Secret that are kept. It has one, unless its owner references were edited.
const OWNERS: usize = 2;

/// A kind that is watched.
pub trait Watchable: Resource<DynamicType = ()> + Sized {
    /// Which one.
    const KIND: Kind;

    /// Whether its objects have marks.
    const HAS_MARKS: bool = false;

    /// Drops the fields that no decision depends on, which are most of the object.
    fn strip(&mut self);

    /// What it is found by, besides its name.
    fn marks(&self) -> Vec<Mark> {
        vec![]
    }

    /// The objects that a change of this one concerns, by the name of this one.
    fn concerns(&self, changed: Vec<Arc<ObjectName>>) -> Vec<Arc<ObjectName>> {
        changed
    }

    /// As it is kept in a cache.
    fn to_text(&self) -> Vec<u8>;

    /// The object of such a text.
    fn from_text(text: &[u8]) -> serde_json::Result<Self>;

    /// The text of a sample, which other texts are like.
    fn dictionary() -> &'static [u8];
}

fn text(object: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(object).expect("an object from the API server is JSON")
}

/// A key as most are: issued, and not used yet.
static SAMPLE_OF_A_KEY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let time = "2026-11-24T06:00:00Z";
    let condition = |type_: &str, reason: &str, message: &str| {
        json!({
            "type": type_, "status": "True", "reason": reason, "message": message, "observedGeneration": 1,
            "lastTransitionTime": time,
        })
    };
    let sample = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
        "metadata": {
            "name": "a", "namespace": "a", "uid": "a", "resourceVersion": "1", "generation": 1, "creationTimestamp": time,
        },
        "spec": { "type": "reusable", "expiresIn": "720h" },
        "status": {
            "observedGeneration": 1, "revision": 1, "id": "a", "key": "AAAAA****", "digest": "a", "state": "valid",
            "valid": true, "issuedAt": time, "expires": time, "usedTimes": 0, "updatedAt": time,
            "secret": { "name": "a", "key": "setup-key", "resourceVersion": "1" },
            "conditions": [
                condition("Ready", "Reconciled", "The cluster matches the spec."),
                condition("Valid", "Valid", "The key admits peers."),
            ],
        },
    });
    text(&serde_json::from_value::<SetupKey>(sample).expect("a SetupKey"))
});

impl Watchable for WatchedKey {
    const KIND: Kind = Kind::SetupKey;
    const HAS_MARKS: bool = true;

    fn strip(&mut self) {
        bound(self);
        // A patch of finalizers replaces the whole list.
        let named = self.0.as_ref().is_ok_and(|key| key.spec.authority_ref.is_some());
        let finalizers = self.meta_mut().finalizers.take().filter(|_| named);
        let request = self.meta_mut().annotations.take().and_then(|mut all| all.remove_entry(ROTATE_ANNOTATION));
        strip(self.meta_mut());
        self.meta_mut().finalizers = finalizers;
        // A time is shorter, and of what is none, the beginning is told.
        self.meta_mut().annotations = request.map(|(name, text)| [(name, text.chars().take(64).collect())].into());
        if let Ok(SetupKey { status: Some(status), .. }) = &mut self.0 {
            status.conditions.shrink_to_fit();
        }
    }

    fn marks(&self) -> Vec<Mark> {
        let Ok(key) = &self.0 else { return vec![Mark::new(Sort::Undecodable, ())] };
        let mut marks: Vec<_> = digests(key).map(|digest| Mark::new(Sort::Digest, digest)).collect();
        if let Some(authority) = AuthorityName::of_key(key) {
            marks.extend([authority.mark(), authority.mark_of_owner(&key.uid().unwrap_or_default())]);
        }
        marks
    }

    /// One that cannot be decoded is kept as its error and its metadata.
    fn to_text(&self) -> Vec<u8> {
        match &self.0 {
            Ok(key) => text(key),
            Err(InvalidObject { error, metadata }) => text(&(error, metadata)),
        }
    }

    fn from_text(text: &[u8]) -> serde_json::Result<Self> {
        if !text.starts_with(b"[") {
            return Ok(DeserializeGuard(Ok(serde_json::from_slice(text)?)));
        }
        let (error, metadata) = serde_json::from_slice(text)?;
        Ok(DeserializeGuard(Err(InvalidObject { error, metadata })))
    }

    fn dictionary() -> &'static [u8] {
        &SAMPLE_OF_A_KEY
    }
}

static SAMPLE_OF_A_SECRET: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let owner = json!({ "kind": "SetupKey", "name": "a", "uid": "a", "apiVersion": "", "blockOwnerDeletion": true });
    let metadata = json!({ "name": "a", "namespace": "a", "resourceVersion": "1", "ownerReferences": [owner] });
    text(&serde_json::from_value::<ObjectMeta>(metadata).expect("metadata"))
});

impl Watchable for SecretMetadata {
    const KIND: Kind = Kind::Secret;
    const HAS_MARKS: bool = true;

    /// Keeps the name, the version and the owners of our kind. A tenant chooses how many owners there are, and how long their
    /// names.
    fn strip(&mut self) {
        let metadata = std::mem::take(&mut self.metadata);
        let owners = metadata.owner_references.into_iter().flatten();
        let owners =
            owners.filter(|owner| owner.kind == SetupKey::kind(&()) && owner.name.len() + owner.uid.len() <= 512);
        let owners =
            owners.take(OWNERS).map(|owner| OwnerReference { api_version: String::new(), controller: None, ..owner });
        let owners: Vec<_> = owners.collect();
        // The label repeats the owner's name unless one of them was edited. A map with one entry costs as much memory as
        // all the rest.
        let label = metadata.labels.unwrap_or_default().remove_entry(KEY_LABEL);
        let label = label.filter(|(_, name)| owners.iter().all(|owner| owner.name != *name));
        self.types = None;
        self.metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            resource_version: metadata.resource_version,
            labels: label.map(|label| [label].into()),
            owner_references: Some(owners),
            ..ObjectMeta::default()
        };
    }

    fn marks(&self) -> Vec<Mark> {
        self.owner_references().iter().map(|owner| Mark::new(Sort::Owner, &owner.uid)).collect()
    }

    fn concerns(&self, _: Vec<Arc<ObjectName>>) -> Vec<Arc<ObjectName>> {
        keys_of_secret(self).collect()
    }

    fn to_text(&self) -> Vec<u8> {
        text(&self.metadata)
    }

    fn from_text(text: &[u8]) -> serde_json::Result<Self> {
        let metadata = serde_json::from_slice(text)?;
        Ok(Self { types: None, metadata, _phantom: std::marker::PhantomData })
    }

    fn dictionary() -> &'static [u8] {
        &SAMPLE_OF_A_SECRET
    }
}

#[cfg(test)]
mod tests;
