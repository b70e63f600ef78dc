//! Whether a pass over a key is made now, and what follows from its end. The pass itself is in [`pass`](super::pass).

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Client, Resource, ResourceExt,
    runtime::{
        controller::Action,
        reflector::{ObjectRef, Store},
    },
};

use super::{
    Environment,
    authorities::Authorities,
    handover::Handover,
    lanes::Lanes,
    metrics::Metrics,
    notify::Notifier,
    own_writes::{Kind, OwnWrites},
    pass::{Pass, shortened},
    records::Records,
    retry::Gate,
    watch::{Conflicts, SecretMetadata, Watched, WatchedKey},
    work::{Work, action},
};
use crate::{
    api::SetupKey,
    cluster::{Clock, ObjectName},
    key::{
        plan::{LONGEST_SLEEP, Until, next_moment},
        transition::{Notice, Severity},
    },
};

/// What passes share.
pub struct Context {
    pub client: Client,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    pub notifier: Notifier,
    keys: Store<WatchedKey>,
    secrets: Store<SecretMetadata>,
    own_writes: Arc<OwnWrites>,
    pub records: Arc<Records>,
    pub authorities: Arc<Authorities>,
    handover: Handover,
    lanes: Lanes,
    at_authorities: Lanes,
    conflicts: Conflicts,
    work: Work,
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

    fn cached_secret(&self, key: &SetupKey) -> Option<Arc<SecretMetadata>> {
        let namespace = key.namespace().unwrap_or_default();
        self.secrets.get(&ObjectRef::new(key.secret_name()).within(&namespace))
    }

    /// How much longer to wait for the caches to show our own last writes.
    fn wait_for_own_writes(&self, key: &SetupKey) -> Option<Duration> {
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

/// Makes a pass. It never fails: an error is logged and retried.
pub async fn reconcile(triggered: Arc<WatchedKey>, context: Arc<Context>) -> Result<Action, Infallible> {
    if !context.work.may_begin().await {
        return Ok(Action::await_change());
    }
    let name = ObjectName::of(&*triggered);
    let visit = context.lanes.visit(&name);
    let at_authority = context.at_authorities.visit(&name);
    if let Ok(key) = &triggered.0
        && let Some(wait) = context.wait_for_own_writes(key)
    {
        return Ok(Action::requeue(wait));
    }
    // `triggered` was taken from the cache before that wait, so it may be older than our own last write.
    let Some(watched) = context.keys.get(&ObjectRef::from_obj(&*triggered)) else {
        return Ok(Action::await_change()); // The key is gone.
    };
    let key = match &watched.0 {
        Ok(key) => key,
        Err(error) => {
            let message = shortened(&format!("This SetupKey is left alone: {error}"));
            let notice = Notice { severity: Severity::Warning, reason: "NotHandled", action: "Reconcile", message };
            context.notifier.notify(&*watched, notice);
            context.forget(&name);
            return Ok(Action::await_change());
        }
    };
    let cached_secret = context.cached_secret(key);
    let started = Instant::now();
    let due = context.handover.look(key, started);
    let mut pass = Pass::new(&context, key, cached_secret, due.now, context.work.failures(&name));
    match context.work.gate(&name, &pass.seen()) {
        Gate::Closed(hold) => return Ok(hold),
        Gate::Called => {} // The budget limits retries.
        Gate::Open if visit.enter() && (key.spec.authority_ref.is_none() || at_authority.enter()) => {}
        Gate::Open => return Ok(Action::await_change()),
    }
    let mut end = pass.run().await;
    if context.conflicts.note(&pass.key, &pass.secret, started)
        && let Ok(Until::Retry) = end
    {
        end = Ok(Until::RetryAfter(LONGEST_SLEEP)); // The watch of conflicts ends the pause.
    }
    let now = context.clock.now();
    let handover = due.next.and_then(|next| Some(now + chrono::Duration::from_std(next).ok()?));
    let deadline = next_moment(&pass.key, now).into_iter().chain(handover).min();
    let (result, pause) = context.work.conclude(&name, pass.seen(), end, deadline);
    context.metrics.passed(result, started.elapsed());
    Ok(action(pause.into_iter().chain(due.next).min()))
}
