//! The watches, the caches they fill, and what they set off.

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
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::own_writes::{Kind, OwnWrites};
use crate::{
    api::{SetupKey, metadata::KEY_LABEL},
    cluster::{scoped, watch_backoff},
};

pub use peer::WatchedPeer;

/// Objects in one answer to a list. What an answer takes while it is read, the process keeps: at 10,000 keys, pages of 500
/// cost 6 MiB more.
pub const PAGE: u32 = 100;

/// A `SetupKey`, or what is left of one that cannot be read, so that it stops nobody else.
pub type WatchedKey = DeserializeGuard<SetupKey>;

/// A Secret without its data.
pub type SecretMetadata = PartialObjectMeta<Secret>;

/// Which caches have been filled once.
///
/// Not the caches' own `wait_until_ready`: of several that wait for one cache, it wakes only the last.
#[derive(Clone)]
pub struct Filled {
    filled: tokio::sync::watch::Receiver<HashSet<Kind>>,
    needed: &'static [Kind],
}

impl Filled {
    /// Waits until the caches that are needed are filled; false when they never will be, because the watches have ended.
    pub async fn wait(&self) -> bool {
        self.filled.clone().wait_for(|filled| self.is_enough(filled)).await.is_ok()
    }

    /// Waits for a shutdown that comes before the caches are filled. A controller that has not begun for want of its cache
    /// would not end by itself.
    pub async fn shut_down_before(&self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        if self.is_enough(&self.filled.borrow()) {
            future::pending().await
        }
    }

    fn is_enough(&self, filled: &HashSet<Kind>) -> bool {
        self.needed.iter().all(|kind| filled.contains(kind))
    }
}

/// What the watches tell to the rest of the controller, other than the changes themselves.
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
    /// Each `SetupKey` that changed.
    pub key_changes: BoxStream<'static, Result<WatchedKey, watcher::Error>>,
    /// Each Secret that changed or went.
    pub secret_changes: BoxStream<'static, Result<SecretMetadata, watcher::Error>>,
    /// One item when a cache was filled anew.
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
    /// Each peer that changed.
    pub changes: BoxStream<'static, Result<WatchedPeer, watcher::Error>>,
    /// One item when the cache of peers was filled anew: until then, a pass sees what was there before.
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
    let everything = watcher::Config::default().page_size(PAGE);
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
            changes: peer_events.applied_objects().boxed(),
            relists: peer_relists.boxed(),
        },
        keys,
        secrets,
        filled: Filled { filled, needed: &[Kind::SetupKey, Kind::Secret] },
        own_writes,
        key_changes: key_events.applied_objects().boxed(),
        secret_changes: secret_events.touched_objects().boxed(),
        relists: relists.boxed(),
    }
}

/// The keys that a change of a Secret may matter to: the one that it names, and the one that owns it. They differ only
/// when somebody has changed one of the two.
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
    watcher(api, config)
        .modify(K::strip)
        .backoff(watch_backoff())
        .reflect(writer)
        .filter_map(|event| {
            future::ready(match event {
                Ok(event) => Some(event),
                Err(error) => {
                    tracing::warn!(kind = %K::KIND, %error, "the watch failed and is started again");
                    None
                }
            })
        })
        .inspect(move |event| match event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => signals.own_writes.seen(K::KIND, object),
            // The cache has just been replaced as a whole. A change that the old watch missed, a deletion above all,
            // shows in no event, so every key is looked at once more.
            watcher::Event::InitDone => {
                signals.own_writes.forget(K::KIND);
                signals.filled.send_if_modified(|filled| filled.insert(K::KIND));
                // A full channel already holds a signal that nobody has taken up.
                let _ = signals.relisted.try_send(());
            }
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        })
        .map(Ok)
}

/// A kind that is watched.
pub trait Watchable {
    /// Which one.
    const KIND: Kind;

    /// Drops what no decision is made from, which is most of an object's size.
    fn strip(&mut self);
}

impl Watchable for WatchedKey {
    const KIND: Kind = Kind::SetupKey;

    fn strip(&mut self) {
        let metadata = self.meta_mut();
        metadata.managed_fields = None;
        metadata.labels = None;
        metadata.annotations = None;
        if let Ok(SetupKey { status: Some(status), .. }) = &mut self.0 {
            status.conditions.shrink_to_fit();
        }
    }
}

impl Watchable for SecretMetadata {
    const KIND: Kind = Kind::Secret;

    /// What is left says whose the Secret is, and in which version.
    fn strip(&mut self) {
        let metadata = std::mem::take(&mut self.metadata);
        let owners = metadata.owner_references.into_iter().flatten();
        let owners = owners.map(|owner| OwnerReference { api_version: String::new(), controller: None, ..owner });
        let owners: Vec<_> = owners.collect();
        // The label says the same as the owner, unless somebody has changed one of them; a map of one costs as much as
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
