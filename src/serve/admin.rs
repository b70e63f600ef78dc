//! `/healthz` and `/readyz` for the kubelet, `/metrics` for Prometheus.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Limits, Server};
use crate::cluster::openmetrics::{CONTENT_TYPE as OPENMETRICS, text_of};

/// The limits on clients: a kubelet, and a few that scrape. A stranger who takes all the connections it can get leaves half
/// of them, and the kubelet has another address.
fn limits() -> Limits {
    let short = Duration::from_secs(5);
    Limits {
        connections: 64,
        headers: short,
        stalled_answer: short,
        request: short,
        body: 1024,
        body_time: short,
        shutdown: Duration::from_secs(1),
    }
}

/// The text of `/readyz`: that of a process that is ready, or the reason why it is not.
pub type Readiness = Result<&'static str, &'static str>;

/// Serves the probes and the metrics until `shutdown` is cancelled.
///
/// `/healthz` answers as long as the runtime runs tasks. `/readyz` is a 503 with the reason while `readiness` is one.
pub async fn serve(
    listener: TcpListener,
    readiness: impl Fn() -> Readiness + Clone + Send + Sync + 'static,
    metrics: Arc<Registry>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let readyz = move || async move {
        readiness().map_or_else(|reason| (StatusCode::SERVICE_UNAVAILABLE, reason), |text| (StatusCode::OK, text))
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(expose).with_state(metrics));
    let limits = limits();
    let router = limits.apply(router);
    Server::new(listener, None, limits).run(router, shutdown).await
}

/// Not ready until `attempt` has succeeded once; it is repeated every second. The result is for [`serve`].
///
/// Later outages do not make the process unready. If every replica became unready at once, clients would get connection
/// errors instead of a 503 that says why.
pub fn once_reached<F: Future<Output = bool> + Send>(
    attempt: impl Fn() -> F + Send + 'static,
) -> impl Fn() -> Readiness + Clone + Send + Sync + 'static {
    let reached = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let reached = Arc::clone(&reached);
        async move {
            while !attempt().await {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            reached.store(true, Ordering::Release);
        }
    });
    move || if reached.load(Ordering::Acquire) { Ok("ok") } else { Err("the Kubernetes API has not been reached yet") }
}

async fn expose(State(metrics): State<Arc<Registry>>) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let text = text_of(&metrics).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text))
}
