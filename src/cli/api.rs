//! `setupkey-operator api`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use prometheus_client::registry::Registry;
use setupkey_operator::{
    cluster::{SystemClock, kubeconfig},
    rest,
    serve::{Limits, admin, metrics::HttpRequests},
};

use super::{LogFlags, ProbeFlags, Process, ServeFlags, values};

/// Flags of `setupkey-operator api`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Namespace whose SetupKeys are served. Default: that of the kubeconfig or of the pod.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", value_parser = values::namespace)]
    namespace: Option<String>,

    /// How long the answer to a creation waits for the controller to issue the key, and the answer to a change or deletion of
    /// a key at NetBird for NetBird, in seconds from 1 to 60.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    issue_timeout: u64,

    #[command(flatten)]
    serve: ServeFlags,

    #[command(flatten)]
    probes: ProbeFlags,

    #[command(flatten)]
    log: LogFlags,
}

/// Serves until a signal comes.
#[tokio::main]
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    flags.log.start();
    let patience = Duration::from_secs(flags.issue_timeout);
    let limits = Limits::default();
    // A creation waits for the controller in addition to what any call may take.
    let limits = Limits { request: limits.request + patience, shutdown: limits.shutdown + patience, ..limits };
    let requests = HttpRequests::default();
    let server = flags.serve.bind(limits.clone()).await?.counting_in(&requests.turned_away);
    let config = kubeconfig::find()?;
    let namespace = match flags.namespace {
        Some(namespace) => namespace,
        None => values::namespace(&config.default_namespace)
            .map_err(|error| anyhow!("the namespace of the kubeconfig cannot be used: {error}; give --namespace"))?,
    };
    let cluster =
        rest::Cluster::without_identity(&config, namespace).context("the client configuration cannot be used")?;
    let mut registry = Registry::default();
    requests.register(&mut registry);
    let ready = admin::once_reached({
        let cluster = cluster.clone();
        move || {
            let cluster = cluster.clone();
            async move { cluster.is_reached().await }
        }
    });
    let process = Process::start(&flags.probes, ready, Arc::new(registry)).await?;

    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace = cluster.namespace(), "starting the REST API");
    let service = rest::Service { cluster, clock: Arc::new(SystemClock), patience, requests };
    server.run(rest::router(service, &limits), process.shutdown()).await.context("the REST API failed")?;
    process.end().await
}
