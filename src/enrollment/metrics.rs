//! The metrics. No series names a key, a peer or a token.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::api_server::Swapped;
use crate::{
    cluster::{CountRequests, Requests, call::Error, openmetrics::text_of},
    serve,
};

/// The metrics of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    enrollments: Family<Labels, Counter>,
    seconds: Histogram,
    swaps: Family<Labels, Counter>,
    heartbeats: Family<Labels, Counter>,
    limited: Counter,
    /// Digests that stand on record for more than one key.
    pub disputed: Gauge,
    requests: Requests,
    /// Requests of clients.
    pub http: serve::metrics::HttpRequests,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let mut metrics = Self {
            registry: Arc::default(),
            enrollments: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.002, 2.0, 14)),
            swaps: Family::default(),
            heartbeats: Family::default(),
            limited: Counter::default(),
            disputed: Gauge::default(),
            requests: Requests::default(),
            http: serve::metrics::HttpRequests::default(),
        };
        registry.register(
            "setupkey_enrollments",
            "Requests to join, by result: admitted, known, refused, taken, leaving, extra_dns_labels, busy, invalid",
            metrics.enrollments.clone(),
        );
        registry.register(
            "setupkey_enrollment_duration_seconds",
            "Time until a machine that was admitted had its answer",
            metrics.seconds.clone(),
        );
        registry.register(
            "setupkey_ledger_swaps",
            "Attempts to write the ledger of a key, by result: done, lost to another writer, gone, failed",
            metrics.swaps.clone(),
        );
        registry.register(
            "setupkey_heartbeats",
            "Heartbeats, by result: written, fresh enough not to be written, unknown, ambiguous, busy",
            metrics.heartbeats.clone(),
        );
        registry.register(
            "setupkey_failures_limited",
            "Requests answered with 429, because their address had failed too often",
            metrics.limited.clone(),
        );
        registry.register(
            "setupkey_digests_disputed",
            "Digests that stand on record for more than one SetupKey; the oldest of these admits the machines",
            metrics.disputed.clone(),
        );
        metrics.requests.register(&mut registry);
        metrics.http.register(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }
}

impl Metrics {
    /// Counts a request to join by its result.
    pub fn enrolled(&self, result: &'static str) {
        self.enrollments.get_or_create(&Labels { result }).inc();
    }

    /// Observes how long an admission took.
    pub fn admitted_within(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// Counts an attempt to write the ledger.
    pub fn swapped(&self, swapped: &Result<Swapped, Error>) {
        let result = match swapped {
            Ok(Swapped::Done(_)) => "done",
            Ok(Swapped::Lost) => "lost",
            Ok(Swapped::Gone) => "gone",
            Err(_) => "failed",
        };
        self.swaps.get_or_create(&Labels { result }).inc();
    }

    /// Counts a heartbeat.
    pub fn heartbeat(&self, result: &'static str) {
        self.heartbeats.get_or_create(&Labels { result }).inc();
    }

    /// Counts a request that was answered with 429.
    pub fn limited(&self) {
        self.limited.inc();
    }

    /// Counts the requests of the client that gets this layer.
    pub fn count_requests(&self) -> CountRequests {
        self.requests.layer()
    }

    /// All of them, to be served.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// The metrics as text.
    pub fn expose(&self) -> Result<String, fmt::Error> {
        text_of(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_counted_by_its_result() {
        let metrics = Metrics::default();
        metrics.swapped(&Ok(Swapped::Lost));
        metrics.swapped(&Ok(Swapped::Gone));
        metrics.swapped(&Ok(Swapped::Lost));
        let text = metrics.expose().unwrap();
        for series in ["{result=\"lost\"} 2", "{result=\"gone\"} 1"] {
            assert!(text.contains(&format!("setupkey_ledger_swaps_total{series}")), "{text}");
        }
    }
}
