//! `setupkey-operator controller`.

use std::{pin::pin, sync::Arc};

use anyhow::bail;
use futures::future::Either;
use kube::Client;
use setupkey_operator::{
    api::{Lifetime, metadata::MANAGER},
    authority::netbird::{HostPattern, Hosts},
    cluster::{Clock, Readiness, Scope, SystemClock},
    controller::{
        self, AuthoritySettings, Environment,
        election::{Candidate, Leadership},
        metrics::Metrics,
    },
    key::ledger,
};
use tokio_util::sync::CancellationToken;

use super::{LogFlags, ProbeFlags, Process, ScopeFlags, client, values};

/// The text of `/readyz` on a standby. It is ready, because it takes over with warm caches.
const STANDS_BY: &str = "ok; this process stands by, and another one leads";

/// Flags of `setupkey-operator controller`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    #[command(flatten)]
    scope: ScopeFlags,

    #[command(flatten)]
    probes: ProbeFlags,

    /// How many SetupKeys get their own series in /metrics. This limits what Prometheus stores.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    metrics_max_keys: usize,

    /// How long after its last heartbeat a peer counts as gone, 1m to 8760h: an ephemeral peer is removed, any other reads
    /// as not connected. Use the same value for the enrollment service.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = values::peer_lifetime)]
    peer_lifetime: Lifetime,

    /// Elect a leader through a Lease. Only the leader works; the other processes stand by.
    #[arg(long)]
    leader_elect: bool,

    /// Name of the Lease. Installations in one namespace need a Lease each: of those that share one, only one works.
    #[arg(long, value_name = "NAME", default_value = MANAGER, value_parser = values::object_name)]
    leader_election_name: String,

    /// Namespace of the Lease, and of the Secrets with the tokens of ClusterAuthorities.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "setupkey-system",
        value_parser = values::namespace)]
    leader_election_namespace: String,

    /// Host that authorities may name: netbird.example.com, *.example.com, an address, or a network such as 10.0.0.0/8;
    /// several are separated by commas. Default: every host but loopback, link-local and multicast addresses.
    #[arg(long, value_name = "HOST", env = "SETUPKEY_AUTHORITY_HOSTS", value_delimiter = ',',
        value_parser = values::authority_host)]
    authority_hosts: Vec<HostPattern>,

    /// Allow authorities with http:// URLs. Their access token is then sent in the clear.
    #[arg(long)]
    allow_insecure_authorities: bool,

    #[command(flatten)]
    log: LogFlags,
}

/// Runs the controller until a signal comes.
#[tokio::main]
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    flags.log.start();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new(Arc::clone(&clock), flags.metrics_max_keys);
    let client = client(&metrics.count_requests())?;
    let scope = flags.scope.scope();

    let readiness = Arc::new(Readiness::default());
    let resign = CancellationToken::new();
    let (leadership, election) = stand_for_election(&client, &flags, resign.clone());
    let ready = {
        let (readiness, leadership) = (Arc::clone(&readiness), leadership.clone());
        move || readiness.check().map(|()| if leadership.holds() { "ok" } else { STANDS_BY })
    };
    let process = Process::start(&flags.probes, ready, metrics.registry()).await?;

    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?scope, "starting the controller");
    let (peer_lifetime, handover) = (flags.peer_lifetime.as_duration(), ledger::HANDOVER);
    let authorities = AuthoritySettings {
        hosts: Hosts::new(flags.authority_hosts.clone(), flags.allow_insecure_authorities),
        namespace: flags.leader_election_namespace.clone(),
        of_cluster: matches!(scope, Scope::Cluster),
        interval: None,
    };
    let environment =
        Environment { client, clock, leadership, readiness, metrics, peer_lifetime, handover, authorities };
    let mut election = pin!(election);
    tokio::select! {
        // Another leader may be at work already, so reconciliations in progress are dropped, not finished.
        _ = &mut election => bail!("the lease was lost; another process may lead now"),
        () = controller::run(environment, scope, process.shutdown()) => {}
    }
    resign.cancel();
    election.await;
    process.end().await
}

/// The candidate runs while the returned future is polled. Without leader election, that future waits for `resign`.
fn stand_for_election(
    client: &Client,
    flags: &Flags,
    resign: CancellationToken,
) -> (Leadership, impl Future<Output = ()> + use<>) {
    if !flags.leader_elect {
        return (Leadership::alone(), Either::Left(async move { resign.cancelled().await }));
    }
    // A pod can come back with the same name, so the identity has a random part.
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let identity = format!("{host}_{:016x}", rand::random::<u64>());
    let (candidate, leadership) =
        Candidate::new(client.clone(), &flags.leader_election_namespace, &flags.leader_election_name, identity);
    (
        leadership,
        Either::Right(async move {
            candidate.run(resign).await;
        }),
    )
}
