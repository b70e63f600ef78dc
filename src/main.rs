//! The command line: flags and wiring.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kube::Client;
use setupkey_operator::{
    api,
    controller::{self, Scope, SystemClock, health},
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
    Crds,
}

#[derive(clap::Args)]
struct ControllerFlags {
    /// Namespace to work in; may be given several times. Without it, all namespaces.
    #[arg(long = "namespace", value_name = "NAME", env = "SETUPKEY_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,

    /// Address for /healthz and /readyz.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8081")]
    health_address: SocketAddr,

    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged, as in RUST_LOG: a level (error, warn, info, debug, trace), or target=level pairs.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
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
        Command::Crds => {
            print!("{}", api::crd_manifest());
            Ok(())
        }
    }
}

#[tokio::main]
async fn run_controller(flags: ControllerFlags) -> anyhow::Result<()> {
    start_logging(&flags.log, flags.log_format)?;
    let listener = TcpListener::bind(flags.health_address)
        .await
        .with_context(|| format!("--health-address {} cannot be listened on", flags.health_address))?;
    let client = Client::try_default().await.context(
        "no cluster to work with: set KUBECONFIG to a kubeconfig file, or run in a pod with a ServiceAccount",
    )?;
    let scope = match flags.namespaces.as_slice() {
        [] => Scope::Cluster,
        namespaces => Scope::Namespaces(namespaces.to_vec()),
    };

    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let readiness = Arc::new(health::Readiness::default());
    let probes = CancellationToken::new();
    let health = tokio::spawn(health::serve(listener, Arc::clone(&readiness), probes.clone()));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?scope, "the controller starts");
    controller::run(client, scope, Arc::new(SystemClock), readiness, shutdown).await;
    // The probes outlive the passes, so that the kubelet sees a process that ends, not one that hangs.
    probes.cancel();
    health.await.context("the probe server panicked")?.context("the probe server failed")?;
    tracing::info!("the controller has ended");
    Ok(())
}

fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a log filter"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
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
