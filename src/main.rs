//! The command line: flags and wiring.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use futures::future::Either;
use kube::{Client, client::ClientBuilder};
use prometheus_client::registry::Registry;
use setupkey_operator::{
    api::{self, Lifetime, metadata::MANAGER},
    controller::{
        self, Clock, Environment, Scope, SystemClock,
        election::{Candidate, Leadership},
        health::Readiness,
        metrics::Metrics,
    },
    key::ledger,
    rest,
    serve::{self, Limits, health},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Network setup keys as a Kubernetes resource.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller, which keeps a Secret and a status for every SetupKey.
    ///
    /// The cluster is the one of KUBECONFIG, or the one that the process runs in.
    Controller(ControllerFlags),
    /// Serve NetBird's REST API for setup keys over the SetupKeys of one namespace.
    ///
    /// It has no rights of its own: each request is made with the token that the client sends.
    Api(ApiFlags),
    /// Print the CustomResourceDefinitions as YAML.
    Crds {
        /// Write each to a file of its own in this folder instead.
        #[arg(long, value_name = "PATH")]
        folder: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct ControllerFlags {
    /// Namespace to work in; may be given several times. Without it, all namespaces.
    #[arg(long = "namespace", value_name = "NAME", env = "SETUPKEY_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,

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

#[derive(clap::Args)]
struct ApiFlags {
    /// Namespace whose SetupKeys are served. Default: the one of the kubeconfig, or of the pod.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: Option<String>,

    /// How many seconds the answer to a creation may wait for the controller to issue the key.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    issue_timeout: u64,

    #[command(flatten)]
    serve: serve::Flags,

    #[command(flatten)]
    log: LogFlags,
}

#[derive(clap::Args)]
struct LogFlags {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged, as in RUST_LOG: a level (error, warn, info, debug, trace), or target=level pairs.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info,kube_runtime=warn")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A lifetime of a minute at least: `lastSeen` is in whole seconds, and written once per third.
fn peer_lifetime(text: &str) -> Result<Lifetime, String> {
    let lifetime: Lifetime = text.parse()?;
    if lifetime < Lifetime::minutes(1) {
        return Err(format!("{lifetime} is shorter than 1m"));
    }
    Ok(lifetime)
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Controller(flags) => run_controller(flags),
        Command::Api(flags) => run_api(flags),
        Command::Crds { folder: None } => {
            api::crd_manifests().iter().for_each(|crd| print!("{}", crd.text));
            Ok(())
        }
        Command::Crds { folder: Some(folder) } => api::crd_manifests().iter().try_for_each(|crd| {
            let path = folder.join(&crd.file);
            std::fs::write(&path, &crd.text).with_context(|| format!("{} cannot be written", path.display()))
        }),
    }
}

#[tokio::main]
async fn run_controller(flags: ControllerFlags) -> anyhow::Result<()> {
    flags.log.start()?;
    let listener = TcpListener::bind(flags.health_address)
        .await
        .with_context(|| format!("--health-address {} cannot be listened on", flags.health_address))?;
    let config = find_cluster().await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new(Arc::clone(&clock), flags.metrics_max_keys);
    let client = ClientBuilder::try_from(controller::tuned(config)).context("the way to the cluster cannot be used")?;
    let client = client.with_layer(&metrics.count_requests()).build();
    let scope = match flags.namespaces.as_slice() {
        [] => Scope::Cluster,
        namespaces => Scope::Namespaces(namespaces.to_vec()),
    };

    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let (resign, probes) = (CancellationToken::new(), CancellationToken::new());
    let (leadership, election) = stand_for_election(&client, &flags, resign.clone());
    let readiness = Arc::new(Readiness::default());
    let not_ready = {
        let readiness = Arc::clone(&readiness);
        move || readiness.missing()
    };
    let health = tokio::spawn(health::serve(listener, not_ready, metrics.registry(), probes.clone()));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?scope, "the controller starts");
    let (peer_lifetime, orphan_age) = (flags.peer_lifetime.as_duration(), ledger::ORPHAN_AGE);
    let environment = Environment { client, clock, leadership, readiness, metrics, peer_lifetime, orphan_age };
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
    health.await.context("the probe server panicked")?.context("the probe server failed")?;
    tracing::info!("the controller has ended");
    Ok(())
}

#[tokio::main]
async fn run_api(flags: ApiFlags) -> anyhow::Result<()> {
    flags.log.start()?;
    let patience = Duration::from_secs(flags.issue_timeout);
    let limits = Limits::default();
    // The wait for the controller comes on top of what any call may take.
    let limits = Limits { request: limits.request + patience, shutdown: limits.shutdown + patience, ..limits };
    let probes = flags.serve.listen_for_probes().await?;
    let server = flags.serve.listen(limits.clone()).await?;
    let config = find_cluster().await?;
    let namespace = flags.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let cluster =
        rest::Cluster::without_identity(&config, namespace).context("the way to the cluster cannot be used")?;
    let (mut registry, requests) = (Registry::default(), serve::metrics::Requests::default());
    requests.register(&mut registry);

    let (shutdown, end_of_probes) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let reached = health::once_reached({
        let cluster = cluster.clone();
        move || {
            let cluster = cluster.clone();
            async move { cluster.is_reached().await }
        }
    });
    let health = tokio::spawn(health::serve(probes, reached, Arc::new(registry), end_of_probes.clone()));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace = cluster.namespace(), "the REST API starts");
    let router = rest::router(rest::Service { cluster, patience, requests }, &limits);
    server.run(router, shutdown).await.context("the REST API failed")?;
    end_of_probes.cancel();
    health.await.context("the probe server panicked")?.context("the probe server failed")?;
    tracing::info!("the REST API has ended");
    Ok(())
}

async fn find_cluster() -> anyhow::Result<kube::Config> {
    kube::Config::infer()
        .await
        .context("no cluster to work with: set KUBECONFIG to a kubeconfig file, or run in a pod with a ServiceAccount")
}

/// The candidacy runs while the returned future is polled. Without election, it waits to resign.
fn stand_for_election(
    client: &Client,
    flags: &ControllerFlags,
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

impl LogFlags {
    fn start(&self) -> anyhow::Result<()> {
        let filter =
            EnvFilter::try_new(&self.log).with_context(|| format!("--log {:?} is not a log filter", self.log))?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let builder = builder.with_ansi(std::io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => builder.init(),
            LogFormat::Json => builder.json().flatten_event(true).init(),
        }
        Ok(())
    }
}

/// The handlers are in place when this returns; the future waits for a signal.
fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("no handler for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no handler for SIGINT")?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("shutting down: what is under way is finished");
        shutdown.cancel();
    })
}
