//! `setupkey-operator enrollment`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use setupkey_operator::{
    api::Lifetime,
    cluster::{Readiness, SystemClock},
    enrollment::{Environment, Metrics, OWNER_TIME, Service, limits},
};

use super::{LogFlags, ProbeFlags, Process, ScopeFlags, ServeFlags, client, values};

/// Flags of `setupkey-operator enrollment`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    #[command(flatten)]
    serve: ServeFlags,

    #[command(flatten)]
    probes: ProbeFlags,

    #[command(flatten)]
    scope: ScopeFlags,

    /// How long after its last heartbeat an ephemeral peer is removed, 1m to 8760h. Use the same value for the controller. A heartbeat
    /// is written at most once per third of this time.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = values::peer_lifetime)]
    peer_lifetime: Lifetime,

    /// Failed requests per minute from one address before further failures get 429; 0 means no limit. Behind a load
    /// balancer that hides the clients' addresses, all clients share one limit.
    #[arg(long, value_name = "NUMBER", default_value_t = 60)]
    failures_per_minute: u32,

    /// How long this replica may create the Peers of its entries. Tests set less, so that the controller takes over sooner.
    #[arg(long, value_name = "SECONDS", hide = true, default_value_t = OWNER_TIME.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=OWNER_TIME.as_secs()))]
    owner_time: u64,

    #[command(flatten)]
    log: LogFlags,
}

/// Serves until a signal comes, and then creates the Peers of all committed entries.
#[tokio::main]
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    flags.log.start();
    let metrics = Metrics::default();
    let server = flags.serve.bind(limits()).await?.counting_in(&metrics.http.turned_away);
    let client = client(&metrics.count_requests())?;
    let scope = flags.scope.scope();
    let readiness = Arc::new(Readiness::default());
    let ready = {
        let readiness = Arc::clone(&readiness);
        move || readiness.check().map(|()| "ok")
    };
    let process = Process::start(&flags.probes, ready, metrics.registry()).await?;

    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?scope, "starting the enrollment service");
    let environment = Environment {
        client,
        clock: Arc::new(SystemClock),
        readiness,
        metrics,
        peer_lifetime: flags.peer_lifetime.as_duration(),
        failures_per_minute: flags.failures_per_minute,
        owner_time: Duration::from_secs(flags.owner_time),
    };
    let service = Service::start(environment, scope);
    server.run(service.router(), process.shutdown()).await.context("the server failed")?;
    service.end().await;
    process.end().await
}
