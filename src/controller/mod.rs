//! The controller: it keeps the Secret and the status of every `SetupKey` as the planner wants them, and reconciles the
//! peers that joined ([`peers`]).
//!
//! # Flow
//!
//! Watches fill caches: the `SetupKey`s, the metadata of the Secrets with our label, and the few fields of each Peer that
//! decisions depend on. Objects are packed there, and are decoded for a pass. A change of a key or its Secret puts the key into
//! a [`queue`], and so does a moment that the key waits for. The queue leads to one pass over that key ([`reconcile`]). A pass asks [`plan`](crate::key::plan) for the next step, takes it, and asks again, until the
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
mod queue;
mod reconcile;
mod records;
mod retry;
mod watch;
mod work;
mod write;

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{self, join_all},
    stream,
};
use kube::Client;
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
use queue::Queue;
use records::Records;
use watch::Filled;
use work::Work;

/// Keys in progress at the same time, per watched scope. Each has at most one request in flight.
const CONCURRENCY: usize = 64;

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
    let (queue, queue_of_peers) = (Arc::<Queue>::default(), Arc::<Queue>::default());
    let watched = watch::start(&environment.client, namespace.as_deref(), &queue, &queue_of_peers);
    let ready = {
        let (filled, readiness) = (watched.peers.filled.clone(), Arc::clone(&environment.readiness));
        async move {
            if filled.wait().await {
                readiness.reached();
            }
        }
    };
    let (keys, filled, watches) = (watched.keys.clone(), watched.filled.clone(), watched.watches);
    environment.metrics.watch(keys.clone());
    records.watch(keys.clone(), filled.clone());
    authorities.add(keys.clone(), Arc::clone(&queue));
    let (work, turns) = Work::new(&environment, filled.clone(), budget.clone());
    let (lanes, calls) = Lanes::of_namespaces(CONCURRENCY_OF_NAMESPACE);
    let (at_authorities, calls_at_authorities) = Lanes::of_all(CONCURRENCY_OF_AUTHORITIES);
    // Each of these causes a pass over every key. A pass over a settled key costs no request.
    let all = || queue.add_all(keys.names());
    let taken_up = async {
        let leads = environment.leadership.clone().taken_up().await;
        environment.metrics.leads(leads);
        if leads {
            all();
        }
    };
    let relisted = watched.relists.for_each(|()| {
        records.listed();
        all();
        future::ready(())
    });
    let clock_steps = clock::steps(Arc::clone(&environment.clock));
    let disputed_or_late = stream::select(records.disputes().boxed(), clock_steps.boxed());
    let called = stream::select(turns, stream::select(calls, calls_at_authorities));
    let called = future::join4(
        taken_up,
        relisted,
        disputed_or_late.for_each(|()| {
            all();
            future::ready(())
        }),
        called.for_each(|key| {
            queue.add(key.into());
            future::ready(())
        }),
    );
    let shared = context::Shared { notifier, records: Arc::clone(&records), authorities };
    let caches = (keys.clone(), watched.secrets, watched.own_writes);
    let context = Arc::new(Context::new(environment.clone(), shared, caches, work, (lanes, at_authorities)));
    let pass = |key| reconcile::reconcile(key, Arc::clone(&context));
    let keys = passes(&queue, CONCURRENCY, pass, called, &filled, &shutdown);
    let peers = peers::run(environment.clone(), watched.peers, budget, queue_of_peers, shutdown.clone());
    let watches = future::join(watches, ready);
    tokio::select! { _ = future::join(keys, peers) => {}, _ = watches => {} }
}

/// Makes the passes of a reconciler, once its caches are filled, until a shutdown. `called` adds objects to its queue.
async fn passes<F>(
    queue: &Queue,
    most: usize,
    pass: impl Fn(Arc<ObjectName>) -> F,
    called: impl Future,
    filled: &Filled,
    shutdown: &CancellationToken,
) where
    F: Future<Output = Option<Duration>>,
{
    let passes = async {
        tokio::select! {
            is_filled = filled.wait() => if is_filled {
                queue.run(most, pass, shutdown).await;
            },
            () = shutdown.cancelled() => {}
        }
    };
    tokio::select! { () = passes => {}, _ = called => {} }
}
