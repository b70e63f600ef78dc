//! The controller: it keeps the Secret and the status of every `SetupKey` as the planner wants them, and reconciles the
//! peers that joined ([`peers`]).
//!
//! # Flow
//!
//! Watches fill caches: the `SetupKey`s, the metadata of the Secrets with our label, and the few fields of each Peer that
//! decisions depend on. A change of a key or its Secret leads to one pass over that key ([`reconcile`]), and so does a moment
//! that the key waits for. A pass asks [`plan`](crate::key::plan) for the next step, takes it, and asks again, until the
//! answer is to wait. A settled key costs no request, because the caches show that it is settled.
//!
//! # Caveats
//!
//! A cache may be behind. Three rules make that harmless:
//!
//! - A pass waits until the caches show this process's own last writes ([`own_writes`]).
//! - Every write but a creation has the version that it was decided on as its precondition.
//! - The value of a key is replaced only after the `SetupKey` was read from the API server.

pub mod authorities;
mod budget;
mod context;
pub mod election;
mod error;
mod fair_queue;
mod handover;
mod lanes;
pub mod metrics;
mod notify;
mod observe;
mod own_writes;
mod pass;
mod peers;
mod reconcile;
mod records;
mod retry;
mod watch;
mod work;
mod write;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt,
    future::{self, join_all},
    stream,
};
use kube::{
    Client,
    runtime::{
        controller::{self, Action, Config, Controller},
        reflector::{Lookup, ObjectRef},
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::netbird::Hosts,
    cluster::{Clock, ObjectName, Readiness, Scope, clock},
};
use authorities::Authorities;
use budget::Budget;
use context::Context;
use election::Leadership;
use lanes::Lanes;
use metrics::Metrics;
use notify::Notifier;
use records::Records;
use work::Work;

/// Keys in progress at the same time, per watched scope. Each has at most one request in flight.
const CONCURRENCY: u16 = 64;

/// Keys of one namespace in progress at the same time because of changes. At most 8 retries come on top, so places are left
/// for the keys of others.
const CONCURRENCY_OF_NAMESPACE: usize = 32;

/// Keys at authorities in progress at the same time. An authority may be slow to answer, and the other keys must not wait for
/// it.
const CONCURRENCY_OF_AUTHORITIES: usize = 32;

/// Upper bound for sending the last events at shutdown.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// What the controller runs with.
#[derive(Clone)]
pub struct Environment {
    /// The client of the API server.
    pub client: Client,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Whether this process leads. Until it does, it fills its caches and does nothing else.
    pub leadership: Leadership,
    /// Turns ready once all caches are filled.
    pub readiness: Arc<Readiness>,
    /// The metrics of this process.
    pub metrics: Metrics,
    /// How long a peer may go unseen before it counts as gone.
    pub peer_lifetime: Duration,
    /// How long a pending entry is left to the replica that committed it: [`HANDOVER`](crate::key::ledger::HANDOVER),
    /// unless replicas work to other times too.
    pub handover: Duration,
    /// How authorities are called.
    pub authorities: AuthoritySettings,
}

/// How authorities are called.
#[derive(Clone, Default)]
pub struct AuthoritySettings {
    /// The hosts that they may name.
    pub hosts: Hosts,
    /// The namespace of this process, where the tokens of `ClusterAuthority`s are.
    pub namespace: String,
    /// Whether keys may name `ClusterAuthority`s. It takes rights in the whole cluster, and of two operators in one cluster
    /// only one may report about them.
    pub of_cluster: bool,
    /// Takes the place of the interval of each authority, in tests.
    pub interval: Option<Duration>,
}

/// Runs the controller until `shutdown` is cancelled; then finishes the passes under way and returns.
pub async fn run(environment: Environment, scope: Scope, shutdown: CancellationToken) {
    let namespaces = scope.watched();
    environment.readiness.expect(namespaces.len());
    let (notifier, publisher) = Notifier::new(environment.client.clone(), environment.metrics.clone());
    let publisher = tokio::spawn(publisher.run());
    let budget = Budget::new();
    let authorities = Authorities::new(&environment, notifier.clone(), &namespaces);
    let links = authorities::Ending(Arc::clone(&authorities));
    let watches_of_authorities = Arc::clone(&authorities).run(namespaces.clone());
    let records = Arc::<Records>::default();
    let loops = namespaces.into_iter().map(|namespace| {
        let (environment, notifier, records) = (environment.clone(), notifier.clone(), Arc::clone(&records));
        let shared = Shared { notifier, records, authorities: Arc::clone(&authorities), budget: budget.clone() };
        watch_and_reconcile(environment, namespace, shared, shutdown.clone())
    });
    tokio::select! { _ = join_all(loops) => {}, () = budget.clone().run() => {}, () = watches_of_authorities => {} }
    // The links hold notifiers too.
    drop((links, authorities));
    // With the last notifier gone, the publisher ends once it has sent what is left.
    drop(notifier);
    match tokio::time::timeout(LAST_EVENTS, publisher).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the event publisher ended early"),
        Err(_) => tracing::debug!("some events could not be sent before the end and are lost"),
    }
}

/// What the loops of all scopes share.
struct Shared {
    notifier: Notifier,
    records: Arc<Records>,
    authorities: Arc<Authorities>,
    budget: Budget,
}

async fn watch_and_reconcile(
    environment: Environment,
    namespace: Option<String>,
    shared: Shared,
    shutdown: CancellationToken,
) {
    let Shared { notifier, records, authorities, budget } = shared;
    let watched = watch::start(&environment.client, namespace.as_deref());
    let filled = tokio::spawn({
        let (filled, readiness) = (watched.peers.filled.clone(), Arc::clone(&environment.readiness));
        async move {
            if filled.wait().await {
                readiness.reached();
            }
        }
    });
    // Each of these causes a pass over every key. A pass over a settled key costs no request.
    let metrics = environment.metrics.clone();
    metrics.watch(watched.keys.clone());
    records.watch(watched.keys.clone(), watched.filled.clone());
    let taken_up = stream::once(environment.leadership.clone().taken_up()).filter_map(move |leads| {
        metrics.leads(leads);
        future::ready(leads.then_some(()))
    });
    let clock_steps = clock::steps(Arc::clone(&environment.clock));
    let (work, turns) = Work::new(&environment, watched.filled.clone(), budget.clone());
    let (lanes, calls) = Lanes::of_namespaces(CONCURRENCY_OF_NAMESPACE);
    let (at_authorities, calls_at_authorities) = Lanes::of_all(CONCURRENCY_OF_AUTHORITIES);
    let woken = authorities.add(watched.keys.clone());
    let shared = context::Shared { notifier, records: Arc::clone(&records), authorities };
    let context = Arc::new(Context::new(environment.clone(), shared, &watched, work, (lanes, at_authorities)));
    let forgetful = Arc::clone(&context);
    let peers = peers::run(environment, watched.peers, budget, shutdown.clone());

    let caches = watched.filled.clone();
    let idle = shutdown.clone();
    let keys = Controller::for_stream(watched.key_changes, watched.keys)
        .watches_stream(watched.secret_changes, watch::keys_of_secret)
        .reconcile_all_on(records.disputes())
        .reconcile_all_on(watched.relists.inspect(move |()| records.listed()))
        .reconcile_all_on(taken_up)
        .reconcile_all_on(clock_steps)
        .reconcile_on(turns.map(reference))
        .reconcile_on(calls.map(reference))
        .reconcile_on(woken.map(reference))
        .reconcile_on(calls_at_authorities.map(reference))
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile::reconcile, |_, never: &Infallible, _| -> Action { match *never {} }, context);
    let keys = passes(keys, move |key| forgetful.forget(key));
    let keys = async {
        tokio::select! { () = keys => {}, () = caches.shut_down_before(&idle) => {} }
    };
    future::join(keys, peers).await;
    filled.abort();
}

/// An object of a controller's kind.
fn reference<K: Lookup<DynamicType = ()>>(object: ObjectName) -> ObjectRef<K> {
    ObjectRef::new(&object.name).within(&object.namespace)
}

/// Runs the passes of a controller until it ends, and drops what is remembered about objects that are gone.
async fn passes<T>(
    passes: impl Stream<Item = Result<T, controller::Error<Infallible, watcher::Error>>>,
    forget: impl Fn(&ObjectName),
) {
    passes
        .for_each(|result| {
            // Normal, and no error: an object was deleted while it waited for its next pass.
            if let Err(controller::Error::ObjectNotFound(gone)) = &result {
                forget(&ObjectName::new(gone.namespace.as_deref().unwrap_or_default(), &gone.name));
            } else if let Err(error) = &result {
                tracing::debug!(%error, "the pass was not made");
            }
            future::ready(())
        })
        .await;
}
