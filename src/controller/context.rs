//! What the passes over the keys of one scope share.

use std::{sync::Arc, time::Duration};

use kube::{Client, Resource, ResourceExt};

use super::{
    Environment,
    authorities::Authorities,
    handover::Handover,
    lanes::Lanes,
    metrics::Metrics,
    notify::Notifier,
    own_writes::{Kind, OwnWrites},
    records::Records,
    watch::{Cache, Conflicts, Mark, SecretMetadata, Sort, WatchedKey},
    work::Work,
};
use crate::{
    api::SetupKey,
    cluster::{Clock, ObjectName},
};

/// What passes share.
pub struct Context {
    pub client: Client,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    pub notifier: Notifier,
    pub(super) keys: Cache<WatchedKey>,
    pub(super) secrets: Cache<SecretMetadata>,
    pub(super) own_writes: Arc<OwnWrites>,
    pub records: Arc<Records>,
    pub authorities: Arc<Authorities>,
    pub(super) handover: Handover,
    pub(super) lanes: Lanes,
    pub(super) at_authorities: Lanes,
    pub(super) conflicts: Conflicts,
    pub(super) work: Work,
}

/// What the passes of all scopes share.
pub struct Shared {
    pub notifier: Notifier,
    pub records: Arc<Records>,
    pub authorities: Arc<Authorities>,
}

/// The caches of keys and of Secrets, and the writes that they do not show yet.
type Caches = (Cache<WatchedKey>, Cache<SecretMetadata>, Arc<OwnWrites>);

impl Context {
    /// The context for the watches of one scope.
    pub fn new(environment: Environment, shared: Shared, caches: Caches, work: Work, lanes: (Lanes, Lanes)) -> Self {
        let (keys, secrets, own_writes) = caches;
        let Shared { notifier, records, authorities } = shared;
        Self {
            conflicts: Conflicts::new(environment.client.clone(), work.retries()),
            lanes: lanes.0,
            at_authorities: lanes.1,
            work,
            client: environment.client,
            clock: environment.clock,
            metrics: environment.metrics,
            notifier,
            keys,
            secrets,
            own_writes,
            records,
            authorities,
            handover: Handover::new(environment.handover),
        }
    }

    /// Drops what is remembered about a key that is gone.
    pub fn forget(&self, key: &ObjectName) {
        self.work.forget(key);
        self.handover.forget(key);
        self.records.forget(key);
        self.conflicts.forget(key);
        self.lanes.leave(key);
        self.at_authorities.leave(key);
    }

    /// Whether this process still leads.
    pub fn leads(&self) -> bool {
        self.work.leads()
    }

    /// The metadata of the Secret of a key.
    pub fn cached_secret(&self, key: &SetupKey) -> Option<SecretMetadata> {
        self.secrets.get(&ObjectName::new(key.namespace().unwrap_or_default(), key.secret_name()))
    }

    /// A Secret that this key owns, whatever its name is.
    pub fn secret_owned_by(&self, key: &WatchedKey) -> Option<Arc<ObjectName>> {
        let owned = self.secrets.marked(Mark::new(Sort::Owner, key.uid()?));
        owned.into_iter().find(|secret| Some(&secret.namespace) == key.meta().namespace.as_ref())
    }

    /// How much longer to wait for the cache to show our own last write of this key.
    pub fn wait_for_key(&self, key: &ObjectName) -> Option<Duration> {
        self.own_writes.wait(Kind::SetupKey, &key.namespace, &key.name)
    }

    /// How much longer to wait for the cache to show our own last write of the Secret of this key.
    pub fn wait_for_secret(&self, key: &SetupKey) -> Option<Duration> {
        self.own_writes.wait(Kind::Secret, &key.namespace().unwrap_or_default(), key.secret_name())
    }

    /// Notes that this version of a key was written.
    pub fn wrote_key(&self, key: &SetupKey) {
        let name = ObjectName::of(key);
        let cached = || self.keys.get(&name)?.meta().resource_version.clone();
        let written = key.metadata.resource_version.as_deref().unwrap_or_default();
        self.own_writes.wrote(Kind::SetupKey, &name.namespace, &name.name, written, cached);
    }

    /// Notes that this version of a Secret was written.
    pub fn wrote_secret(&self, key: &SetupKey, written: &str) {
        let cached = || self.cached_secret(key)?.metadata.resource_version;
        let namespace = key.namespace().unwrap_or_default();
        self.own_writes.wrote(Kind::Secret, &namespace, key.secret_name(), written, cached);
    }
}
