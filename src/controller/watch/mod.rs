//! The watches, the caches that they fill, and the events that they pass on.

mod conflicts;
mod peer;

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt, channel::mpsc, future, stream::BoxStream};
use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::PartialObjectMeta,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::own_writes::{Kind, OwnWrites};
use crate::{
    api::{
        SetupKey,
        metadata::{KEY_LABEL, ROTATE_ANNOTATION},
    },
    cluster::{bound, call::log_restart, pages, scoped, strip},
};

pub use conflicts::Conflicts;
pub use peer::WatchedPeer;

/// A `SetupKey`, or the metadata of one that cannot be decoded. One such object must not stop the others.
pub type WatchedKey = DeserializeGuard<SetupKey>;

/// A Secret without its data.
pub type SecretMetadata = PartialObjectMeta<Secret>;

/// Which caches have been filled once.
///
/// The caches' own `wait_until_ready` does not do: when several tasks wait for one cache, it wakes only the last.
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

    /// Resolves if a shutdown is requested before the caches are filled. kube's `Controller` does not react to a graceful
    /// shutdown before its store is ready.
    pub async fn shut_down_before(&self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        if self.is_enough(&self.filled.borrow()) {
            future::pending().await
        }
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
    pub keys: Store<WatchedKey>,
    /// The cache of the metadata of Secrets with our label.
    pub secrets: Store<SecretMetadata>,
    /// Which caches are filled.
    pub filled: Filled,
    /// Our own writes that the caches do not show yet.
    pub own_writes: Arc<OwnWrites>,
    /// Each `SetupKey` that changed or went. The pass over one that went finds nothing, and ends its timer.
    pub key_changes: BoxStream<'static, Result<WatchedKey, watcher::Error>>,
    /// Each Secret that changed or went.
    pub secret_changes: BoxStream<'static, Result<SecretMetadata, watcher::Error>>,
    /// One item for each re-list of a cache.
    pub relists: BoxStream<'static, ()>,
    /// What is to be known for looking after peers.
    pub peers: WatchedPeers,
}

/// What the watches of one scope give of peers.
pub struct WatchedPeers {
    /// The cache of peers, as far as they are decided about.
    pub peers: Store<WatchedPeer>,
    /// The cache of `SetupKey`s.
    pub keys: Store<WatchedKey>,
    /// Which caches are filled.
    pub filled: Filled,
    /// Each peer that changed or went.
    pub changes: BoxStream<'static, Result<WatchedPeer, watcher::Error>>,
    /// One item for each re-list of the peers. Until then, a pass sees the old cache.
    pub relists: BoxStream<'static, ()>,
}

/// Sets up the watches; they run while the streams are polled.
pub fn start(client: &Client, namespace: Option<&str>) -> Watched {
    let own_writes = Arc::new(OwnWrites::default());
    let (relisted, relists) = mpsc::channel(1);
    let (filling, filled) = tokio::sync::watch::channel(HashSet::new());
    let signals = Signals { own_writes: Arc::clone(&own_writes), filled: Arc::new(filling), relisted };
    let (keys, keys_writer) = reflector::store();
    let (secrets, secrets_writer) = reflector::store();
    let everything = watcher::Config::default();
    let ours = everything.clone().labels(KEY_LABEL);
    let key_events = watch(scoped(client, namespace), everything.clone(), keys_writer, signals.clone());
    let secret_events = watch(scoped(client, namespace), ours, secrets_writer, signals.clone());
    let (peers, peers_writer) = reflector::store();
    let (relisted, peer_relists) = mpsc::channel(1);
    let signals = Signals { relisted, ..signals };
    let peer_events = watch(scoped(client, namespace), everything, peers_writer, signals);
    Watched {
        peers: WatchedPeers {
            peers,
            keys: keys.clone(),
            filled: Filled { filled: filled.clone(), needed: &[Kind::SetupKey, Kind::Secret, Kind::Peer] },
            changes: peer_events.touched_objects().boxed(),
            relists: peer_relists.boxed(),
        },
        keys,
        secrets,
        filled: Filled { filled, needed: &[Kind::SetupKey, Kind::Secret] },
        own_writes,
        key_changes: key_events.touched_objects().boxed(),
        secret_changes: secret_events.touched_objects().boxed(),
        relists: relists.boxed(),
    }
}

/// The keys that a change of a Secret may concern: the one in its label, and the one that owns it. They differ only if the
/// label or the owner reference was edited.
pub fn keys_of_secret(secret: SecretMetadata) -> Vec<ObjectRef<WatchedKey>> {
    let namespace = secret.namespace().unwrap_or_default();
    let labelled = secret.labels().get(KEY_LABEL).cloned();
    let owners = secret.owner_references().iter().filter(|owner| owner.kind == SetupKey::kind(&()));
    let owners = owners.map(|owner| owner.name.clone());
    let mut names: Vec<_> = labelled.into_iter().chain(owners).collect();
    names.dedup();
    names.into_iter().map(|name| ObjectRef::new(&name).within(&namespace)).collect()
}

/// A watch that fills a cache and then passes on what happened.
///
/// Its errors end here: the controller would stop handling every trigger while one watch fails.
fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    writer: Writer<K>,
    mut signals: Signals,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Watchable + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    pages::watch(api, config)
        .modify(K::strip)
        .reflect(writer)
        .filter_map(|event| {
            future::ready(match event {
                Ok(event) => Some(event),
                Err(error) => {
                    log_restart(K::KIND, &error);
                    None
                }
            })
        })
        .inspect(move |event| match event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => signals.own_writes.seen(K::KIND, object),
            // The cache has just been replaced as a whole. A change that the old watch missed, above all a deletion,
            // causes no event, so every key is reconciled again.
            watcher::Event::InitDone => {
                signals.own_writes.forget(K::KIND);
                signals.filled.send_if_modified(|filled| filled.insert(K::KIND));
                // A full channel already holds a signal.
                let _ = signals.relisted.try_send(());
            }
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        })
        .map(Ok)
}

/// Owners of a Secret that are kept. It has one, unless its owner references were edited.
const OWNERS: usize = 2;

/// A kind that is watched.
pub trait Watchable {
    /// Which one.
    const KIND: Kind;

    /// Drops the fields that no decision depends on, which are most of the object.
    fn strip(&mut self);
}

impl Watchable for WatchedKey {
    const KIND: Kind = Kind::SetupKey;

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
}

impl Watchable for SecretMetadata {
    const KIND: Kind = Kind::Secret;

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
}
