//! The subcommands, and what they share: flags, the client of the API server, the log, signals.

pub mod api;
pub mod controller;
pub mod enroll;
pub mod enrollment;
mod hostname;
mod key_file;
mod log;
mod process;
mod serve;
pub mod values;

use std::{collections::BTreeSet, io::IsTerminal, net::SocketAddr};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use kube::Client;
use setupkey_operator::{
    cluster::{CountRequests, Scope, connect, kubeconfig, pages::LimitPages, tuned},
    serve::listen as serve_on,
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
    /// Namespace to work in, or several, separated by commas. It can be repeated. Default: all namespaces.
    #[arg(long = "namespace", value_name = "NAME", env = "SETUPKEY_NAMESPACES", value_delimiter = ',',
        value_parser = values::namespace)]
    namespaces: Vec<String>,
}

impl ScopeFlags {
    /// Each namespace counts once, or a process would work on its objects twice at the same time.
    fn scope(&self) -> Scope {
        let namespaces: BTreeSet<_> = self.namespaces.iter().cloned().collect();
        if namespaces.is_empty() { Scope::Cluster } else { Scope::Namespaces(namespaces.into_iter().collect()) }
    }
}

/// What is logged, and in which format.
#[derive(clap::Args)]
pub struct LogFlags {
    /// Format of log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// Log filter: a level (error, warn, info, debug, trace or off), or target=level pairs, separated by commas.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info,kube_runtime=warn",
        value_parser = values::log_filter)]
    log: EnvFilter,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object per line.
    Json,
}

impl LogFlags {
    fn start(&self) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.log.clone()).with_writer(std::io::stderr);
        let builder = builder.with_ansi(std::io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => builder.fmt_fields(log::TextFields).init(),
            LogFormat::Json => builder.json().flatten_event(true).map_event_format(log::JsonLines).init(),
        }
    }
}

/// A client of the API server whose requests are counted.
fn client(count: &CountRequests) -> anyhow::Result<Client> {
    let config = tuned(kubeconfig::find()?);
    let client = connect(config).context("the client configuration cannot be used")?;
    Ok(client.with_layer(count).with_layer(&LimitPages).build())
}

/// Listens on the address that this flag gives.
fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    serve_on(address).map_err(|error| anyhow!("{flag} {address} cannot be listened on: {error}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_is_worked_in_once() {
        let names = ["b", "a", "b"].map(str::to_owned);
        let scope = ScopeFlags { namespaces: names.to_vec() }.scope();
        assert!(matches!(&scope, Scope::Namespaces(names) if names == &["a", "b"]), "{scope:?}");
        assert!(matches!(ScopeFlags { namespaces: Vec::new() }.scope(), Scope::Cluster));
    }
}
