//! Series about each authority and the calls to it. No token and no key is ever a label.

use std::sync::{Arc, atomic::AtomicU64};

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

use crate::{api::Timestamp, authority::netbird::Observer};

/// The metrics of authorities. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct AuthorityMetrics {
    up: Family<AuthorityLabels, Gauge<u64, AtomicU64>>,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<OperationLabels, Histogram>,
    token_expires: Family<AuthorityLabels, Gauge>,
    leftovers_removed: Family<AuthorityLabels, Counter>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct AuthorityLabels {
    /// As in `ClusterAuthority/netbird` or `Authority/network/netbird`.
    authority: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OperationLabels {
    authority: String,
    operation: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    authority: String,
    operation: &'static str,
    /// The HTTP status, or a word when there was no answer that could be read.
    code: String,
}

impl AuthorityMetrics {
    /// The metrics, added to a registry.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let metrics = Self {
            up: Family::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            token_expires: Family::default(),
            leftovers_removed: Family::default(),
        };
        registry.register(
            "setupkey_authority_up",
            "1 while the keys of the authority can be listed and changed; only on the leader",
            metrics.up.clone(),
        );
        registry.register(
            "setupkey_authority_requests",
            "Calls to the authority, by operation and HTTP status",
            metrics.requests.clone(),
        );
        registry.register(
            "setupkey_authority_request_duration_seconds",
            "Duration of a call to the authority, without the time in which it waited for its turn",
            metrics.seconds.clone(),
        );
        registry.register(
            "setupkey_authority_token_expiration_timestamp_seconds",
            "When the access token of the authority expires; absent if NetBird does not tell",
            metrics.token_expires.clone(),
        );
        registry.register(
            "setupkey_authority_leftovers_removed",
            "Keys at the authority that a crash or a lost answer had left over, and that were deleted",
            metrics.leftovers_removed.clone(),
        );
        metrics
    }

    /// What counts the calls to this authority.
    pub fn observer(&self, authority: &str) -> Observer {
        let (metrics, authority) = (self.clone(), authority.to_owned());
        Arc::new(move |operation, code, seconds| {
            let labels = RequestLabels { authority: authority.clone(), operation, code: code.to_owned() };
            metrics.requests.get_or_create(&labels).inc();
            let labels = OperationLabels { authority: authority.clone(), operation };
            metrics.seconds.get_or_create(&labels).observe(seconds);
        })
    }

    /// Notes whether the authority can be used.
    pub fn up(&self, authority: &str, up: bool, token_expires: Option<Timestamp>) {
        let labels = AuthorityLabels { authority: authority.to_owned() };
        self.up.get_or_create(&labels).set(up.into());
        match token_expires {
            Some(expires) => drop(self.token_expires.get_or_create(&labels).set(expires.moment().timestamp())),
            None => drop(self.token_expires.remove(&labels)),
        }
    }

    /// Notes that a key was deleted that no status and no Secret knows.
    pub fn leftover_removed(&self, authority: &str) {
        self.leftovers_removed.get_or_create(&AuthorityLabels { authority: authority.to_owned() }).inc();
    }

    /// Drops the gauges of an authority that is deleted.
    pub fn gone(&self, authority: &str) {
        let labels = AuthorityLabels { authority: authority.to_owned() };
        self.up.remove(&labels);
        self.token_expires.remove(&labels);
    }
}
