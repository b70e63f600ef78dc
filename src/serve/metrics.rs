//! Metrics of the requests that clients send to a service.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Counters and latencies of HTTP requests. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct HttpRequests {
    total: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    /// Connections that were closed at once, because their address held too many places.
    pub turned_away: Counter,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    method: &'static str,
    /// The declared route, not the path of the request, so that clients cannot create series.
    path: String,
    code: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RouteLabels {
    method: &'static str,
    path: String,
}

impl Default for HttpRequests {
    fn default() -> Self {
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            total: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            turned_away: Counter::default(),
        }
    }
}

impl HttpRequests {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "setupkey_http_requests",
            "Requests of clients, by method, route and HTTP status",
            self.total.clone(),
        );
        registry.register(
            "setupkey_http_request_duration_seconds",
            "Time until a request was answered",
            self.seconds.clone(),
        );
        registry.register(
            "setupkey_http_connections_turned_away",
            "Connections closed at once, because their address already held as many as were free",
            self.turned_away.clone(),
        );
    }

    /// Middleware that counts each request and measures how long its answer takes.
    pub async fn count(State(requests): State<Self>, request: Request, next: Next) -> Response {
        let method = method(request.method().as_str());
        let path = request.extensions().get::<MatchedPath>();
        let path = path.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
        let started = Instant::now();
        let response = next.run(request).await;
        let code = response.status().as_u16();
        let seconds = requests.seconds.get_or_create(&RouteLabels { method, path: path.clone() });
        seconds.observe(started.elapsed().as_secs_f64());
        drop(seconds);
        requests.total.get_or_create(&RequestLabels { method, path, code }).inc();
        response
    }
}

/// A method as a label. Clients can invent methods, so unknown ones share a label.
fn method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}
