//! What the passes over the keys of one scope share.

use std::{sync::Arc, time::Duration};

use kube::{
    Client, Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use super::{
    Environment,
    authorities::Authorities,
    handover::Handover,
    lanes::Lanes,
    metrics::Metrics,
    notify::Notifier,
    own_writes::{Kind, OwnWrites},
    records::Records,
    watch::{Conflicts, SecretMetadata, Watched, WatchedKey},
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
    pub(super) keys: Store<WatchedKey>,
    pub(super) secrets: Store<SecretMetadata>,
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

impl Context {
    /// The context for the watches of one scope.
    pub fn new(environment: Environment, shared: Shared, watched: &Watched, work: Work, lanes: (Lanes, Lanes)) -> Self {
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
            keys: watched.keys.clone(),
            secrets: watched.secrets.clone(),
            own_writes: Arc::clone(&watched.own_writes),
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

    pub fn cached_secret(&self, key: &SetupKey) -> Option<Arc<SecretMetadata>> {
        let namespace = key.namespace().unwrap_or_default();
        self.secrets.get(&ObjectRef::new(key.secret_name()).within(&namespace))
    }

    /// A Secret that this key owns, whatever its name is.
    pub fn secret_owned_by(&self, key: &WatchedKey) -> Option<Arc<SecretMetadata>> {
        let (namespace, uid) = (key.namespace(), key.uid()?);
        let owned = |secret: &SecretMetadata| secret.owner_references().iter().any(|owner| owner.uid == uid);
        self.secrets.find(|secret| secret.namespace() == namespace && owned(secret))
    }

    /// How much longer to wait for the caches to show our own last writes.
    pub fn wait_for_own_writes(&self, key: &SetupKey) -> Option<Duration> {
        let namespace = key.namespace().unwrap_or_default();
        let for_key = self.own_writes.wait(Kind::SetupKey, &namespace, &key.name_any());
        for_key.or_else(|| self.own_writes.wait(Kind::Secret, &namespace, key.secret_name()))
    }

    /// Notes that this version of a key was written.
    pub fn wrote_key(&self, key: &SetupKey) {
        let ObjectName { namespace, name } = ObjectName::of(key);
        let cached = || self.keys.get(&ObjectRef::new(&name).within(&namespace))?.meta().resource_version.clone();
        let written = key.metadata.resource_version.as_deref().unwrap_or_default();
        self.own_writes.wrote(Kind::SetupKey, &namespace, &name, written, cached);
    }

    /// Notes that this version of a Secret was written.
    pub fn wrote_secret(&self, key: &SetupKey, written: &str) {
        let cached = || self.cached_secret(key)?.metadata.resource_version.clone();
        let namespace = key.namespace().unwrap_or_default();
        self.own_writes.wrote(Kind::Secret, &namespace, key.secret_name(), written, cached);
    }
}
