//! The enrollment service: machines present a key and become Peers.
//!
//! Every replica serves, and none leads. What they share is the ledger in the status of each `SetupKey` ([`admission`]). Two
//! watches fill two [caches](cache), of keys and of Peers. Whatever can be answered from them is: a key that admits no
//! machine, a machine that is a peer already, a heartbeat that need not be written. So a refusal costs the API server
//! nothing, or one look-up if the public key is taken, and cannot be used to overload it.
//!
//! The service has no right on Secrets. It recognises a key by its digest.

mod admission;
mod answer;
mod api_server;
mod cache;
mod failures;
mod http;
mod metrics;
mod openapi;
mod request;
mod service;
mod watch;

use std::{sync::Arc, time::Duration};

use kube::Client;

pub use http::document;
pub use metrics::Metrics;
pub use request::parse;
pub use service::Service;

pub use crate::key::ledger::OWNER_TIME;
use crate::{
    cluster::{Clock, Readiness},
    protocol,
    serve::Limits,
};

/// The longest that a machine waits for an answer other than 503.
const PATIENCE: Duration = Duration::from_secs(20);

/// The limits on clients. Bodies are small, and a request may wait for the controller to roll its entry forward.
pub fn limits() -> Limits {
    Limits {
        body: protocol::limits::BODY,
        body_time: Duration::from_secs(5),
        request: PATIENCE + Duration::from_secs(5),
        ..Limits::default()
    }
}

/// What the service runs with.
#[derive(Clone)]
pub struct Environment {
    /// The client of the API server.
    pub client: Client,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Turns ready once all caches are filled.
    pub readiness: Arc<Readiness>,
    /// The metrics.
    pub metrics: Metrics,
    /// How long an ephemeral peer stays that is not seen. Heartbeats are written once per third of it.
    pub peer_lifetime: Duration,
    /// How often an address may fail in a minute; 0 is no limit.
    pub failures_per_minute: u32,
    /// How long a replica may create the Peers that it committed: [`OWNER_TIME`], or less in tests.
    pub owner_time: Duration,
}
