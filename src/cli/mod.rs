//! What the subcommands share: flags, the way to the cluster, the log, signals.

pub mod controller;
pub mod enroll;
pub mod enrollment;

use std::{io::IsTerminal, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;
use kube::{Client, client::ClientBuilder};
use setupkey_operator::cluster::{CountRequests, Scope, tuned};
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

/// The way to the cluster, with its requests counted.
async fn client(count: &CountRequests) -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.context(
        "no cluster to work with: set KUBECONFIG to a kubeconfig file, or run in a pod with a ServiceAccount",
    )?;
    let client = ClientBuilder::try_from(tuned(config)).context("the way to the cluster cannot be used")?;
    Ok(client.with_layer(count).build())
}

/// A span of time in Go's syntax, such as 10m.
fn duration(text: &str) -> Result<Duration, String> {
    let duration: kube::core::Duration = text.parse().map_err(|_| "not a time such as 10m or 1h30m".to_owned())?;
    let seconds = Duration::from_secs(1);
    if duration.is_negative() { None } else { Some(Duration::from(duration)) }
        .filter(|duration| *duration >= seconds)
        .ok_or_else(|| "at least 1s".to_owned())
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
