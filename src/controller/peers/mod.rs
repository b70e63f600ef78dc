//! Reconciling Peers: ephemeral ones that went quiet are removed, and finalizers that a dead replica left are taken off.
//!
//! A peer costs no request while nothing is due: the cache shows when it was last seen and whether it has the finalizer.

mod reconcile;

use std::sync::Arc;

use futures::{StreamExt, future, stream};
use tokio_util::sync::CancellationToken;

use super::{Environment, budget::Budget, passes, queue::Queue, watch::WatchedPeers, work::Work};
use crate::cluster::clock;
use reconcile::Context;

/// Peers in progress at the same time, per watched scope.
const CONCURRENCY: usize = 16;

/// Reconciles the peers of one scope until `shutdown` is cancelled.
pub async fn run(
    environment: Environment,
    watched: WatchedPeers,
    budget: Budget,
    queue: Arc<Queue>,
    shutdown: CancellationToken,
) {
    let leadership = environment.leadership.clone();
    let clock_steps = clock::steps(Arc::clone(&environment.clock));
    let (work, turns) = Work::new(&environment, watched.filled.clone(), budget);
    let context = Arc::new(Context::new(environment, &watched, work));
    let all = || queue.add_all(watched.peers.names());
    let taken_up = async {
        if leadership.taken_up().await {
            all();
        }
    };
    let called = future::join3(
        taken_up,
        stream::select(watched.relists, clock_steps).for_each(|()| {
            all();
            future::ready(())
        }),
        turns.for_each(|peer| {
            queue.add(peer.into());
            future::ready(())
        }),
    );
    let pass = |peer| reconcile::reconcile(peer, Arc::clone(&context));
    passes(&queue, CONCURRENCY, pass, called, &watched.filled, &shutdown).await;
}
