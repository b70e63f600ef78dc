//! `setupkey-operator api`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use setupkey_operator::{
    cluster::SystemClock,
    rest,
    serve::{self, Limits, admin},
};
use tokio_util::sync::CancellationToken;

use super::{LogFlags, cancel_on_signal, find_cluster};

/// Flags of `setupkey-operator api`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
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

/// Serves until a signal comes.
#[tokio::main]
pub async fn run(flags: Flags) -> anyhow::Result<()> {
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
    tokio::spawn(cancel_on_signal(shutdown.clone(), "requests under way are finished")?);
    let reached = admin::once_reached({
        let cluster = cluster.clone();
        move || {
            let cluster = cluster.clone();
            async move { cluster.is_reached().await }
        }
    });
    let admin = tokio::spawn(admin::serve(probes, reached, Arc::new(registry), end_of_probes.clone()));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace = cluster.namespace(), "the REST API starts");
    let router = rest::router(rest::Service { cluster, clock: Arc::new(SystemClock), patience, requests }, &limits);
    server.run(router, shutdown).await.context("the REST API failed")?;
    end_of_probes.cancel();
    admin.await.context("the probe server panicked")?.context("the probe server failed")?;
    tracing::info!("the REST API has ended");
    Ok(())
}
