//! `/metrics`, in OpenMetrics.

mod authorities;
mod keys;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

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

use super::watch::{Cache, WatchedKey};
use crate::{
    cluster::{Clock, CountRequests, Requests, openmetrics::text_of},
    key::rotation::Reason,
};
use authorities::AuthorityMetrics;
use keys::Keys;

/// The metrics of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    keys: Arc<Keys>,
    passes: Family<PassLabels, Counter>,
    pass_seconds: Histogram,
    leads: Gauge<u64, AtomicU64>,
    peers_removed: Counter,
    rolled_forward: Counter,
    events_dropped: Counter,
    rotations: Family<RotationLabels, Counter>,
    requests: Requests,
    authorities: AuthorityMetrics,
}

/// How a pass over a key ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PassResult {
    /// There was nothing left to do.
    Settled,
    /// A person must act.
    Stalled,
    /// Another writer was faster; it is retried.
    Conflict,
    /// It failed; it is retried.
    Error,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PassLabels {
    result: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RotationLabels {
    reason: &'static str,
}

impl Metrics {
    /// Metrics that show at most `most_keys` keys one by one.
    pub fn new(clock: Arc<dyn Clock>, most_keys: usize) -> Self {
        let mut registry = Registry::default();
        let keys = Arc::new(Keys::new(clock, most_keys));
        let passes = Family::<PassLabels, Counter>::default();
        let pass_seconds = Histogram::new(exponential_buckets(0.000_1, 4.0, 10));
        let leads = Gauge::default();
        let requests = Requests::default();
        registry.register(
            "setupkey_reconcile",
            "Passes over a SetupKey, by result: settled, stalled, conflict, error",
            passes.clone(),
        );
        registry.register("setupkey_reconcile_duration_seconds", "Duration of a pass", pass_seconds.clone());
        registry.register("setupkey_leader", "1 while this process leads, 0 while it stands by", leads.clone());
        let (peers_removed, rolled_forward) = (Counter::default(), Counter::default());
        registry.register(
            "setupkey_peers_removed",
            "Ephemeral peers that were removed because they were not seen for their lifetime",
            peers_removed.clone(),
        );
        registry.register(
            "setupkey_enrollments_rolled_forward",
            "Enrollments that the controller completed because the replica that admitted the peer did not",
            rolled_forward.clone(),
        );
        let events_dropped = Counter::default();
        registry.register(
            "setupkey_events_dropped",
            "Events that were not sent because too many waited, of their namespace or in all",
            events_dropped.clone(),
        );
        let rotations = Family::<RotationLabels, Counter>::default();
        registry.register(
            "setupkey_rotations",
            "Keys that were replaced by the next revision, by reason: schedule, request",
            rotations.clone(),
        );
        // From 0 on, so that the first rotation is seen as an increase.
        for reason in [Reason::Schedule, Reason::Request] {
            drop(rotations.get_or_create(&RotationLabels { reason: reason.label() }));
        }
        requests.register(&mut registry);
        let authorities = AuthorityMetrics::new(&mut registry);
        registry.register_collector(Box::new(Arc::clone(&keys)));
        Self {
            registry: Arc::new(registry),
            keys,
            passes,
            pass_seconds,
            leads,
            peers_removed,
            rolled_forward,
            events_dropped,
            rotations,
            requests,
            authorities,
        }
    }

    /// The metrics of authorities.
    pub(super) fn authorities(&self) -> &AuthorityMetrics {
        &self.authorities
    }

    /// Shows the keys of this cache.
    pub(super) fn watch(&self, keys: Cache<WatchedKey>) {
        self.keys.add(keys);
    }

    pub(super) fn passed(&self, result: PassResult, took: Duration) {
        let result = match result {
            PassResult::Settled => "settled",
            PassResult::Stalled => "stalled",
            PassResult::Conflict => "conflict",
            PassResult::Error => "error",
        };
        self.passes.get_or_create(&PassLabels { result }).inc();
        self.pass_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn peer_removed(&self) {
        self.peers_removed.inc();
    }

    pub(super) fn rolled_forward(&self, enrollments: usize) {
        self.rolled_forward.inc_by(enrollments as u64);
    }

    pub(super) fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    pub(super) fn rotated(&self, reason: Reason) {
        self.rotations.get_or_create(&RotationLabels { reason: reason.label() }).inc();
    }

    pub(super) fn leads(&self, leads: bool) {
        self.leads.set(leads.into());
    }

    /// A layer for the client whose requests are to be counted.
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
