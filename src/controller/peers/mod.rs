//! Reconciling Peers: ephemeral ones that went quiet are removed, and finalizers that a dead replica left are taken off.
//!
//! A peer costs no request while nothing is due: the cache shows when it was last seen and whether it has the finalizer.

mod reconcile;

use std::{convert::Infallible, sync::Arc};

use futures::{StreamExt, future, stream};
use kube::runtime::controller::{Action, Config, Controller};
use tokio_util::sync::CancellationToken;

use super::{Environment, budget::Budget, passes, reference, watch::WatchedPeers, work::Work};
use crate::cluster::clock;
use reconcile::Context;

/// Peers in progress at the same time, per watched scope.
const CONCURRENCY: u16 = 16;

/// Reconciles the peers of one scope until `shutdown` is cancelled.
pub async fn run(environment: Environment, watched: WatchedPeers, budget: Budget, shutdown: CancellationToken) {
    let taken_up = stream::once(environment.leadership.clone().taken_up());
    let taken_up = taken_up.filter_map(|leads| future::ready(leads.then_some(())));
    let clock_steps = clock::steps(Arc::clone(&environment.clock));
    let (work, turns) = Work::new(&environment, watched.filled.clone(), budget);
    let context = Arc::new(Context::new(environment, &watched, work));
    let forgetful = Arc::clone(&context);
    let (caches, idle) = (watched.filled.clone(), shutdown.clone());
    let peers = Controller::for_stream(watched.changes, watched.peers)
        .reconcile_all_on(watched.relists)
        .reconcile_all_on(taken_up)
        .reconcile_all_on(clock_steps)
        .reconcile_on(turns.map(reference))
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile::reconcile, |_, never: &Infallible, _| -> Action { match *never {} }, context);
    let peers = passes(peers, move |peer| forgetful.forget(peer));
    tokio::select! { () = peers => {}, () = caches.shut_down_before(&idle) => {} }
}
