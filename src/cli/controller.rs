//! `setupkey-operator controller`.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use anyhow::{Context as _, bail};
use futures::future::Either;
use kube::Client;
use setupkey_operator::{
    api::{Lifetime, metadata::MANAGER},
    cluster::{Clock, Readiness, SystemClock},
    controller::{
        self, Environment,
        election::{Candidate, Leadership},
        metrics::Metrics,
    },
    key::ledger,
    serve::admin,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{LogFlags, ScopeFlags, cancel_on_signal, client, peer_lifetime};

/// Flags of `setupkey-operator controller`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    #[command(flatten)]
    scope: ScopeFlags,

    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8081")]
    health_address: SocketAddr,

    /// How many SetupKeys have series of their own in /metrics; bounds what Prometheus must keep.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    metrics_max_keys: usize,

    /// How long a peer may not be seen before it is taken for gone, from 1m: ephemeral peers are removed, others read as
    /// not connected. The enrollment service must be told the same.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = peer_lifetime)]
    peer_lifetime: Lifetime,

    /// Let one of several processes work and the others stand by, by a Lease.
    #[arg(long)]
    leader_elect: bool,

    /// Namespace of the Lease.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "setupkey-system")]
    leader_election_namespace: String,

    #[command(flatten)]
    log: LogFlags,
}

/// Runs the controller until a signal comes.
#[tokio::main]
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    flags.log.start()?;
    let listener = TcpListener::bind(flags.health_address)
        .await
        .with_context(|| format!("--health-address {} cannot be listened on", flags.health_address))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new(Arc::clone(&clock), flags.metrics_max_keys);
    let client = client(&metrics.count_requests()).await?;
    let scope = flags.scope.scope();

    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone(), "passes under way are finished")?);
    let (resign, probes) = (CancellationToken::new(), CancellationToken::new());
    let (leadership, election) = stand_for_election(&client, &flags, resign.clone());
    let readiness = Arc::new(Readiness::default());
    let not_ready = {
        let readiness = Arc::clone(&readiness);
        move || readiness.missing()
    };
    let admin = tokio::spawn(admin::serve(listener, not_ready, metrics.registry(), probes.clone()));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?scope, "the controller starts");
    let (peer_lifetime, handover) = (flags.peer_lifetime.as_duration(), ledger::ORPHAN_AGE);
    let environment = Environment { client, clock, leadership, readiness, metrics, peer_lifetime, handover };
    let mut election = pin!(election);
    tokio::select! {
        // What is under way must not go on beside another leader, so nothing is finished here.
        _ = &mut election => bail!("the lease was lost; another process may lead now"),
        () = controller::run(environment, scope, shutdown) => {}
    }
    resign.cancel();
    election.await;
    // The probes outlive the passes, so that the kubelet sees a process that ends, not one that hangs.
    probes.cancel();
    admin.await.context("the probe server panicked")?.context("the probe server failed")?;
    tracing::info!("the controller has ended");
    Ok(())
}

/// The candidacy runs while the returned future is polled. Without election, it waits to resign.
fn stand_for_election(
    client: &Client,
    flags: &Flags,
    resign: CancellationToken,
) -> (Leadership, impl Future<Output = ()> + use<>) {
    if !flags.leader_elect {
        return (Leadership::alone(), Either::Left(async move { resign.cancelled().await }));
    }
    // The name of a pod may come back; the random part does not.
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let identity = format!("{host}_{:016x}", rand::random::<u64>());
    let (candidate, leadership) = Candidate::new(client.clone(), &flags.leader_election_namespace, MANAGER, identity);
    (
        leadership,
        Either::Right(async move {
            candidate.run(resign).await;
        }),
    )
}
