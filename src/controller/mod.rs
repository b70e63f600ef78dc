//! The controller: it keeps the Secret and the status of every `SetupKey` as the planner wants them.
//!
//! Two watches fill two caches: the `SetupKey`s, and the metadata of the Secrets that carry our label. Any change of
//! either, and any moment that a key waits for, leads to one pass over one key ([`reconcile`]). A pass asks
//! [`plan`](crate::key::plan) what to do, does it, and asks again, until there is nothing to do but wait. A settled key
//! costs no request: both caches together tell that it is settled.
//!
//! A cache may be behind. Three things make that harmless: a pass waits until the caches show this process's own last
//! writes ([`unseen`]); every write but a creation carries the version it was decided on, so that a decision made from
//! an old object fails instead of doing harm; and a key's value is replaced only after the `SetupKey` was read afresh.

mod call;
mod clock;
pub mod health;
mod notify;
mod observe;
mod reconcile;
mod retry;
mod unseen;
mod watch;
mod write;

use std::{convert::Infallible, sync::Arc};

use futures::{StreamExt, future::join_all};
use kube::{
    Client,
    runtime::controller::{Action, Config, Controller},
};
use tokio_util::sync::CancellationToken;

pub use clock::{Clock, SystemClock};

use health::Readiness;
use notify::Notifier;
use reconcile::Context;

/// Keys worked on at the same time, per watched scope. Each has at most one request in flight.
const CONCURRENCY: u16 = 32;

/// What the controller works on.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every namespace.
    Cluster,
    /// These namespaces, each with watches of its own, so that no right on the whole cluster is needed.
    Namespaces(Vec<String>),
}

/// Runs the controller until `shutdown` is cancelled; then finishes the passes under way and returns.
///
/// `readiness` turns ready once all caches are filled.
pub async fn run(
    client: Client,
    scope: Scope,
    clock: Arc<dyn Clock>,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) {
    let namespaces = match scope {
        Scope::Cluster => vec![None],
        Scope::Namespaces(namespaces) => namespaces.into_iter().map(Some).collect(),
    };
    readiness.expect(namespaces.len());
    let (notifier, publisher) = Notifier::new(client.clone());
    let loops = namespaces.into_iter().map(|namespace| {
        watch_and_reconcile(
            client.clone(),
            namespace,
            Arc::clone(&clock),
            notifier.clone(),
            Arc::clone(&readiness),
            shutdown.clone(),
        )
    });
    let publisher = tokio::spawn(publisher.run());
    join_all(loops).await;
    // The last notifier is gone, so the publisher ends once it has sent what is left.
    drop(notifier);
    if let Err(error) = publisher.await {
        tracing::warn!(%error, "the event publisher ended early");
    }
}

async fn watch_and_reconcile(
    client: Client,
    namespace: Option<String>,
    clock: Arc<dyn Clock>,
    notifier: Notifier,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) {
    let watched = watch::start(&client, namespace.as_deref());
    let context = Arc::new(Context::new(client, clock, notifier, &watched));

    let filled = tokio::spawn({
        let filled = watched.filled.clone();
        async move {
            if filled.wait().await {
                readiness.reached();
            }
        }
    });

    Controller::for_stream(watched.key_changes, watched.keys)
        .watches_stream(watched.secret_changes, watch::keys_of_secret)
        .reconcile_all_on(watched.relists)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile::reconcile, |_, never: &Infallible, _| -> Action { match *never {} }, context)
        .for_each(|result| async move {
            // A key that was deleted while it waited for a pass is the usual case, and no error.
            if let Err(error) = result {
                tracing::debug!(%error, "pass not made");
            }
        })
        .await;
    filled.abort();
}
