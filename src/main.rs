//! The command line: flags and wiring.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use futures::future::Either;
use kube::{Client, client::ClientBuilder};
use setupkey_operator::{
    api::{self, metadata::MANAGER},
    controller::{
        self, Clock, Environment, Scope, SystemClock,
        election::{Candidate, Leadership},
        health::Readiness,
        metrics::Metrics,
    },
    serve::health,
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

    /// Let one of several processes work and the others stand by, by a Lease.
    #[arg(long)]
    leader_elect: bool,

    /// Namespace of the Lease.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "setupkey-system")]
    leader_election_namespace: String,

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

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Controller(flags) => run_controller(flags),
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
    start_logging(&flags.log, flags.log_format)?;
    let listener = TcpListener::bind(flags.health_address)
        .await
        .with_context(|| format!("--health-address {} cannot be listened on", flags.health_address))?;
    let config = kube::Config::infer().await.context(
        "no cluster to work with: set KUBECONFIG to a kubeconfig file, or run in a pod with a ServiceAccount",
    )?;
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
    let environment = Environment { client, clock, leadership, readiness, metrics };
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

fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a log filter"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// The handlers are in place when this returns; the future waits for a signal.
fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("no handler for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no handler for SIGINT")?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("shutting down: passes under way are finished");
        shutdown.cancel();
    })
}
