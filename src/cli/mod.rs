//! What the subcommands share: flags, the way to the cluster, the log, signals.

pub mod api;
pub mod controller;
pub mod enroll;
pub mod enrollment;

use std::io::IsTerminal;

use anyhow::Context as _;
use clap::ValueEnum;
use kube::{Client, client::ClientBuilder};
use setupkey_operator::{
    api::Lifetime,
    cluster::{CountRequests, Scope, tuned},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Where to work.
#[derive(clap::Args)]
pub struct ScopeFlags {
    /// Namespace to work in; may be given several times. Without it, all namespaces.
    #[arg(long = "namespace", value_name = "NAME", env = "SETUPKEY_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
}

impl ScopeFlags {
    fn scope(&self) -> Scope {
        match self.namespaces.as_slice() {
            [] => Scope::Cluster,
            namespaces => Scope::Namespaces(namespaces.to_vec()),
        }
    }
}

/// What is logged, and how.
#[derive(clap::Args)]
pub struct LogFlags {
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

impl LogFlags {
    fn start(&self) -> anyhow::Result<()> {
        let filter = &self.log;
        let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a log filter"))?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let builder = builder.with_ansi(std::io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => builder.init(),
            LogFormat::Json => builder.json().flatten_event(true).init(),
        }
        Ok(())
    }
}

async fn find_cluster() -> anyhow::Result<kube::Config> {
    kube::Config::infer()
        .await
        .context("no cluster to work with: set KUBECONFIG to a kubeconfig file, or run in a pod with a ServiceAccount")
}

/// The way to the cluster, with its requests counted.
async fn client(count: &CountRequests) -> anyhow::Result<Client> {
    let client =
        ClientBuilder::try_from(tuned(find_cluster().await?)).context("the way to the cluster cannot be used")?;
    Ok(client.with_layer(count).build())
}

/// A lifetime of a minute at least: `lastSeen` is in whole seconds, and written once per third.
fn peer_lifetime(text: &str) -> Result<Lifetime, String> {
    at_least(Lifetime::minutes(1), text)
}

fn at_least(least: Lifetime, text: &str) -> Result<Lifetime, String> {
    let lifetime: Lifetime = text.parse()?;
    if lifetime < least { Err(format!("{lifetime} is shorter than {least}")) } else { Ok(lifetime) }
}

/// The handlers are in place when this returns; the future waits for a signal.
fn cancel_on_signal(
    shutdown: CancellationToken,
    what_happens: &'static str,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("no handler for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no handler for SIGINT")?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("shutting down: {what_happens}");
        shutdown.cancel();
    })
}
