//! `/healthz` and `/readyz`, for the kubelet, and `/metrics`, for Prometheus.

use std::{fmt, io, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The content type of [`text_of`].
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves the probes and the metrics until `shutdown` is cancelled.
///
/// `/healthz` answers as long as the process runs its tasks; `/readyz` once there is no sentence that says why not.
pub async fn serve(
    listener: TcpListener,
    not_ready: impl Fn() -> Option<&'static str> + Clone + Send + Sync + 'static,
    metrics: Arc<Registry>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let readyz = move || async move {
        not_ready().map_or((StatusCode::OK, "ok"), |reason| (StatusCode::SERVICE_UNAVAILABLE, reason))
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(expose).with_state(metrics));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn expose(State(metrics): State<Arc<Registry>>) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let text = text_of(&metrics).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text))
}

/// The metrics in OpenMetrics.
pub fn text_of(metrics: &Registry) -> Result<String, fmt::Error> {
    let mut written = String::new();
    text::encode(&mut written, metrics)?;
    Ok(written)
}
