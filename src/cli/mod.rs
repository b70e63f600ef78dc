//! The subcommands, and what they share: flags, the client of the API server, the log, signals.

pub mod api;
pub mod controller;
pub mod enroll;
pub mod enrollment;
mod process;
mod serve;

use std::{io::IsTerminal, net::SocketAddr};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use kube::{Client, client::ClientBuilder};
use setupkey_operator::{
    api::Lifetime,
    cluster::{CountRequests, Scope, pages::LimitPages, tuned},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use process::{ProbeFlags, Process};
use serve::ServeFlags;

/// The namespaces in which a process works.
#[derive(clap::Args)]
pub struct ScopeFlags {
    /// Namespace to work in. It can be repeated. Default: all namespaces.
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

/// What is logged, and in which format.
#[derive(clap::Args)]
pub struct LogFlags {
    /// Format of log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// Log filter: a level (error, warn, info, debug or trace), or target=level pairs.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info,kube_runtime=warn")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object per line.
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

/// A client of the API server whose requests are counted.
async fn client(count: &CountRequests) -> anyhow::Result<Client> {
    let client =
        ClientBuilder::try_from(tuned(find_cluster().await?)).context("the client configuration cannot be used")?;
    Ok(client.with_layer(count).with_layer(&LimitPages).build())
}

/// A lifetime of at least a minute, because `lastSeen` is in whole seconds and written once per third of it.
fn peer_lifetime(text: &str) -> Result<Lifetime, String> {
    at_least(Lifetime::minutes(1), text)
}

fn at_least(least: Lifetime, text: &str) -> Result<Lifetime, String> {
    let lifetime: Lifetime = text.parse()?;
    if lifetime < least { Err(format!("{lifetime} is shorter than {least}")) } else { Ok(lifetime) }
}

/// Listens on the address that this flag gives.
async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| anyhow!("{flag} {address} cannot be listened on: {error}"))
}

/// Installs handlers for SIGTERM and SIGINT. The returned future waits for the first signal.
fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("received a signal; finishing the work in progress");
        shutdown.cancel();
    })
}
