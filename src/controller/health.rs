//! `/healthz` and `/readyz`, for the kubelet, and `/metrics`, for Prometheus.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::{self, Metrics};

/// Whether the caches are filled. Not ready until every scope that is expected has been reached.
#[derive(Debug)]
pub struct Readiness {
    missing: AtomicUsize,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { missing: AtomicUsize::new(usize::MAX) }
    }
}

impl Readiness {
    /// Says how many scopes there are.
    pub(super) fn expect(&self, scopes: usize) {
        self.missing.store(scopes, Ordering::Release);
    }

    /// Says that the caches of one more scope are filled.
    pub(super) fn reached(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::info!("the caches are filled");
        }
    }

    /// Whether all caches are filled.
    pub fn is_ready(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }
}

/// Serves the probes and the metrics until `shutdown` is cancelled.
///
/// `/healthz` answers as long as the process runs its tasks; `/readyz` once the caches are filled.
pub async fn serve(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(expose).with_state(metrics));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not filled yet")
    }
}

async fn expose(State(metrics): State<Metrics>) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let text = metrics.expose().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}
