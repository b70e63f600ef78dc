//! One pass over one key: look, ask the planner, do what it says, ask again.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        controller::Action,
        reflector::{ObjectRef, Store},
    },
};

use super::{
    Environment,
    election::Leadership,
    metrics::{Metrics, PassResult},
    notify::Notifier,
    observe,
    orphans::{self, Orphans},
    own_writes::{Kind, OwnWrites},
    retry::{Retries, Seen},
    watch::{Filled, SecretMetadata, Watched, WatchedKey},
    write::{self, Written},
};
use crate::{
    api::SetupKey,
    cluster::{
        Clock, ObjectName,
        call::{Attempt, Error, call},
    },
    key::{
        ledger::{self, Use},
        plan::{Observed, Step, Until, plan},
        secret::SecretView,
        transition::notices,
    },
};

/// More writes than any way from any state to a settled one takes.
const MOST_STEPS: usize = 8;

/// What passes share.
pub struct Context {
    client: Client,
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    metrics: Metrics,
    notifier: Notifier,
    keys: Store<WatchedKey>,
    secrets: Store<SecretMetadata>,
    filled: Filled,
    own_writes: Arc<OwnWrites>,
    orphans: Orphans,
    retries: Retries,
}

impl Context {
    /// The context for the watches of one scope.
    pub fn new(environment: Environment, notifier: Notifier, watched: &Watched) -> Self {
        let Environment { client, clock, leadership, metrics, orphan_age, .. } = environment;
        Self {
            client,
            clock,
            leadership,
            metrics,
            notifier,
            keys: watched.keys.clone(),
            secrets: watched.secrets.clone(),
            filled: watched.filled.clone(),
            own_writes: Arc::clone(&watched.own_writes),
            orphans: Orphans::new(orphan_age),
            retries: Retries::default(),
        }
    }

    /// Lets go of what is remembered of a key that is gone.
    pub fn forget(&self, namespace: Option<&str>, name: &str) {
        let key = ObjectName::new(namespace.unwrap_or_default(), name);
        self.retries.forget(&key);
        self.orphans.forget(&key);
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

    fn wrote_key(&self, key: &SetupKey) {
        let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
        let cached = || self.keys.get(&ObjectRef::new(&name).within(&namespace))?.meta().resource_version.clone();
        let written = key.metadata.resource_version.as_deref().unwrap_or_default();
        self.own_writes.wrote(Kind::SetupKey, &namespace, &name, written, cached);
    }

    fn wrote_secret(&self, key: &SetupKey, written: &str) {
        let cached = || self.cached_secret(key)?.metadata.resource_version.clone();
        let namespace = key.namespace().unwrap_or_default();
        self.own_writes.wrote(Kind::Secret, &namespace, key.secret_name(), written, cached);
    }
}

/// Makes a pass. It never fails: what went wrong is logged and tried again.
pub async fn reconcile(triggered: Arc<WatchedKey>, context: Arc<Context>) -> Result<Action, Infallible> {
    if !context.leadership.holds() {
        return Ok(Action::await_change()); // every key is looked at once this process leads
    }
    if !context.filled.wait().await {
        return Ok(Action::await_change()); // the process is ending
    }
    if let Ok(key) = &triggered.0
        && let Some(wait) = context.wait_for_own_writes(key)
    {
        return Ok(Action::requeue(wait));
    }
    // `triggered` was taken from the cache before there was nothing left to wait for, so it may be older than our own
    // last write.
    let Some(watched) = context.keys.get(&ObjectRef::from_obj(&*triggered)) else {
        return Ok(Action::await_change()); // it is gone
    };
    let key = match &watched.0 {
        Ok(key) => key,
        Err(error) => {
            let (namespace, name) = (watched.namespace().unwrap_or_default(), watched.name_any());
            tracing::warn!(namespace, name, %error, "this SetupKey cannot be read and is left alone");
            return Ok(Action::await_change());
        }
    };
    let name = ObjectName::of(key);
    let cached_secret = context.cached_secret(key);
    let seen = |key: &SetupKey| -> Seen {
        let secret = cached_secret.as_ref().and_then(|secret| secret.metadata.resource_version.clone());
        (key.metadata.resource_version.clone(), secret)
    };
    let due = context.orphans.look(key, Instant::now());
    if let Some(wait) = context.retries.hold(&name, &seen(key)) {
        return Ok(Action::requeue(wait));
    }

    let mut pass =
        Pass { context: &context, key: Cow::Borrowed(key), confirmed: false, cached_secret: cached_secret.clone() };
    let started = Instant::now();
    // What else is wrong with a key does not keep its peers waiting.
    let result = match pass.run().await {
        Ok(until) if !due.now.is_empty() => pass.roll_forward(&due.now).await.map(|()| until),
        result => result,
    };
    let (result, wait) = match result {
        Ok(Until::Change) => {
            context.retries.forget(&name);
            (PassResult::Settled, None)
        }
        Ok(Until::Moment(moment)) => {
            context.retries.forget(&name);
            let wait = (moment - context.clock.now()).to_std().unwrap_or_default();
            (PassResult::Settled, Some(wait.max(Duration::from_millis(1))))
        }
        Ok(Until::Retry) => {
            let wait = context.retries.failed(name, seen(&pass.key), None);
            (PassResult::Stalled, Some(wait))
        }
        Err(error) if error.code() == Some(404) => {
            context.retries.forget(&name);
            (PassResult::Settled, None) // the SetupKey is gone
        }
        Err(error) => {
            let wait = context.retries.failed(name, seen(&pass.key), error.pause());
            let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
            let result = if error.code() == Some(409) {
                tracing::debug!(namespace, name, %error, "somebody was faster; tried again");
                PassResult::Conflict
            } else {
                tracing::warn!(namespace, name, %error, "tried again in {} ms", wait.as_millis());
                PassResult::Error
            };
            (result, Some(wait))
        }
    };
    context.metrics.passed(result, started.elapsed());
    let wait = wait.into_iter().chain(due.next).min();
    Ok(wait.map_or_else(Action::await_change, Action::requeue))
}

/// What a fresh look at the `SetupKey` gave.
#[derive(Eq, PartialEq)]
enum Confirmed {
    Unchanged,
    Changed,
}

/// A pass under way.
struct Pass<'a> {
    context: &'a Context,
    key: Cow<'a, SetupKey>,
    /// Whether `key` was read from the API server in this pass, and nothing has spoken against it since.
    confirmed: bool,
    cached_secret: Option<Arc<SecretMetadata>>,
}

impl Pass<'_> {
    async fn run(&mut self) -> Result<Until, Error> {
        let (mut refusal, mut outdated, mut counted) = (None, false, None);
        let mut secret = match observe::in_cache(&self.key, self.cached_secret.as_ref()) {
            Some(secret) => secret,
            None => self.look(&mut refusal).await?,
        };
        for _ in 0..MOST_STEPS {
            let observed = Observed { key: &self.key, secret: &secret, refusal: refusal.as_deref(), counted };
            let written = match plan(observed, self.context.clock.now()) {
                Step::Wait(until) => return Ok(until),
                Step::WriteStatus(status) => {
                    self.write_status(&status).await?;
                    continue;
                }
                Step::CountPeers(id) => {
                    counted = Some(observe::count_peers(&self.context.client, &self.key, &id).await?);
                    continue;
                }
                Step::CreateSecret(issue) => write::create_secret(&self.context.client, &self.key, &issue).await?,
                Step::ReplaceKey { .. } if !self.confirmed => {
                    // The old value stops working with this, so it is not done on the word of a cache.
                    if self.confirm().await? == Confirmed::Changed {
                        secret = self.look(&mut refusal).await?;
                    }
                    continue;
                }
                Step::ReplaceKey { issue, resource_version } => {
                    write::replace_key(&self.context.client, &self.key, &issue, &resource_version).await?
                }
                Step::RestoreMetadata { patch, resource_version: _ } => {
                    let SecretView::Owned(owned) = &secret else { continue };
                    write::restore_metadata(&self.context.client, &self.key, owned, &patch).await?
                }
            };
            match written {
                Written::Secret(owned) => {
                    self.context.wrote_secret(&self.key, &owned.resource_version);
                    secret = SecretView::Owned(*owned);
                }
                Written::Refused(why) => refusal = Some(why),
                Written::Outdated(_) if !outdated => {
                    outdated = true;
                    self.confirmed = false;
                    secret = self.look(&mut refusal).await?;
                }
                // Twice in one pass: somebody else is at it. The next try is worth a pause.
                Written::Outdated(error) => return Err(error),
            }
        }
        Err(Error::Unsettled(MOST_STEPS))
    }

    /// Reads the Secret from the API server. Being refused is something to report, not to fail with.
    async fn look(&self, refusal: &mut Option<String>) -> Result<SecretView, Error> {
        match observe::live(&self.context.client, &self.key, self.cached_secret.as_ref()).await {
            Err(error) => match error.refusal() {
                Some(why) => {
                    *refusal = Some(why.to_owned());
                    Ok(SecretView::Unknown)
                }
                None => Err(error),
            },
            view => view,
        }
    }

    /// Reads the `SetupKey` from the API server.
    async fn confirm(&mut self) -> Result<Confirmed, Error> {
        let (namespace, name) = (self.key.namespace().unwrap_or_default(), self.key.name_any());
        let keys: Api<SetupKey> = Api::namespaced(self.context.client.clone(), &namespace);
        let found = call(Attempt::on("read SetupKey", &namespace, &name), keys.get(&name)).await?;
        let same = found.metadata.resource_version == self.key.metadata.resource_version;
        self.key = Cow::Owned(found);
        self.confirmed = true;
        Ok(if same { Confirmed::Unchanged } else { Confirmed::Changed })
    }

    /// Creates the Peers of these entries and clears them, if they are still pending: on a key just read, for what is no
    /// longer pending may have been a Peer that was sent away.
    async fn roll_forward(&mut self, numbers: &BTreeSet<Use>) -> Result<(), Error> {
        let uid = self.key.uid();
        self.confirm().await?;
        let Some(swap) = ledger::clear(&self.key, numbers).filter(|_| self.key.uid() == uid) else { return Ok(()) };
        let before = self.key.pending().len();
        orphans::create_peers(&self.context.client, &self.key, numbers).await?;
        let written = orphans::write_swap(&self.context.client, &self.key, &swap).await?;
        let count = before - swap.pending.len();
        self.context.wrote_key(&written);
        self.context.metrics.rolled_forward(count);
        let (namespace, name) = (written.namespace().unwrap_or_default(), written.name_any());
        tracing::info!(namespace, name, count, "enrollments that nobody completed are completed");
        self.key = Cow::Owned(written);
        Ok(())
    }

    async fn write_status(&mut self, status: &crate::api::SetupKeyStatus) -> Result<(), Error> {
        let written = write::write_status(&self.context.client, &self.key, status).await?;
        self.context.wrote_key(&written);
        for notice in notices(&self.key, status) {
            self.context.notifier.notify(&written, notice);
        }
        self.key = Cow::Owned(written);
        Ok(())
    }
}
