//! `setupkey-operator enrollment`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use setupkey_operator::{
    api::Lifetime,
    cluster::{Readiness, SystemClock},
    enrollment::{Environment, Metrics, OWNER_TIME, Service, limits},
    serve::{self, admin},
};
use tokio_util::sync::CancellationToken;

use super::{LogFlags, ScopeFlags, cancel_on_signal, client, peer_lifetime};

/// Flags of `setupkey-operator enrollment`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    #[command(flatten)]
    serve: serve::Flags,

    #[command(flatten)]
    scope: ScopeFlags,

    /// How long an ephemeral peer stays that is not seen, as the controller has it. A heartbeat is written once per third
    /// of this.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = peer_lifetime)]
    peer_lifetime: Lifetime,

    /// How often requests from one address may fail in a minute before it is sent away; 0 is no limit. Behind a load
    /// balancer that hides the addresses of clients, all of them share one.
    #[arg(long, value_name = "NUMBER", default_value_t = 60)]
    failures_per_minute: u32,

    /// How long this process may create the Peers that it committed. Tests that let the controller come sooner say less.
    #[arg(long, value_name = "SECONDS", hide = true, default_value_t = OWNER_TIME.as_secs())]
    owner_time: u64,

    #[command(flatten)]
    log: LogFlags,
}

/// Serves until a signal comes, and then finishes what was committed.
#[tokio::main]
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    flags.log.start()?;
    let server = flags.serve.listen(limits()).await?;
    let probes = flags.serve.listen_for_probes().await?;
    let metrics = Metrics::default();
    let client = client(&metrics.count_requests()).await?;
    let scope = flags.scope.scope();

    let (shutdown, end_of_probes) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(cancel_on_signal(shutdown.clone(), "requests under way are finished")?);
    let readiness = Arc::new(Readiness::default());
    let not_ready = {
        let (readiness, shutdown) = (Arc::clone(&readiness), shutdown.clone());
        move || if shutdown.is_cancelled() { Some("the service ends") } else { readiness.missing() }
    };
    let admin = tokio::spawn(admin::serve(probes, not_ready, metrics.registry(), end_of_probes.clone()));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?scope, "the enrollment service starts");
    let environment = Environment {
        client,
        clock: Arc::new(SystemClock),
        readiness: Arc::clone(&readiness),
        metrics,
        peer_lifetime: flags.peer_lifetime.as_duration(),
        failures_per_minute: flags.failures_per_minute,
        owner_time: Duration::from_secs(flags.owner_time).min(OWNER_TIME),
    };
    let service = Service::start(environment, scope);
    server.run(service.router(), shutdown).await.context("the server failed")?;
    service.end().await;
    end_of_probes.cancel();
    admin.await.context("the probe server panicked")?.context("the probe server failed")?;
    tracing::info!("the enrollment service has ended");
    Ok(())
}
