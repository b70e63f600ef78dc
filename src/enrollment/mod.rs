//! The enrollment service: machines present a key and become Peers.
//!
//! Every replica serves, and none leads: what they share is the ledger in the status of each `SetupKey`
//! ([`admission`]). Two watches fill two caches, of [`keys`] and of [`peers`]. Whatever can be answered from them is:
//! a key that admits nobody, a machine that is a peer already, a heartbeat that need not be written. So a refusal costs
//! the API server nothing, and cannot be used to bother it.
//!
//! The service has no right on Secrets. It knows a key by its digest.

mod admission;
mod answer;
mod api_server;
mod cache;
mod failures;
mod http;
mod metrics;
mod request;
mod watch;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use kube::{Client, ResourceExt, core::DeserializeGuard};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use crate::key::ledger::OWNER_TIME;
use admission::{Admissions, Outcome};
use api_server::ApiServer;
use cache::{Keys, Peers};
use failures::Failures;
pub use http::document;
pub use metrics::Metrics;
pub use request::parse;

use crate::{
    api::{Peer, SetupKey},
    cluster::{Clock, Readiness, Scope, scoped},
    key::{
        Digest, PeerName,
        ledger::{self, Applicant, Refusal},
    },
    protocol,
    serve::Limits,
};

/// The longest that a machine waits for an answer other than "come again".
const PATIENCE: Duration = Duration::from_secs(20);

/// The same, for a machine that is known to be on its way to become a Peer, if its key admits nobody any more.
const ARRIVAL: Duration = Duration::from_secs(10);

/// The limits on clients. Bodies are small, and a request may wait for the controller to roll it forward.
pub fn limits() -> Limits {
    Limits { body: protocol::limits::BODY, request: PATIENCE + Duration::from_secs(5), ..Limits::default() }
}

/// What the service runs with.
#[derive(Clone)]
pub struct Environment {
    /// The way to the API server.
    pub client: Client,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Turns ready once all caches are filled.
    pub readiness: Arc<Readiness>,
    /// What is counted and shown.
    pub metrics: Metrics,
    /// How long an ephemeral peer stays that is not seen; heartbeats are written once per third of it.
    pub peer_lifetime: Duration,
    /// How often an address may fail in a minute; 0 is no limit.
    pub failures_per_minute: u32,
    /// How long a replica may create the Peers that it committed: [`OWNER_TIME`], other than in tests.
    pub owner_time: Duration,
}

/// The service, apart from the socket.
pub struct Service {
    admissions: Arc<Admissions>,
    failures: Failures,
    readiness: Arc<Readiness>,
    third: chrono::Duration,
    stop: CancellationToken,
}

/// How a call of a peer ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Called {
    Done,
    Unknown,
    Busy,
}

impl Service {
    /// Starts to fill the caches.
    pub fn start(environment: Environment, scope: Scope) -> Arc<Self> {
        let Environment { client, clock, readiness, metrics, peer_lifetime, failures_per_minute, owner_time } =
            environment;
        let (peers, stop) = (Arc::<Peers>::default(), CancellationToken::new());
        let keys = Arc::new(Keys::new(Arc::clone(&peers)));
        let scopes = scope.watched();
        readiness.expect(2 * scopes.len());
        for namespace in scopes {
            let (keys, key_api) =
                (Arc::clone(&keys), scoped::<DeserializeGuard<SetupKey>>(&client, namespace.as_deref()));
            let (peers, peer_api) =
                (Arc::clone(&peers), scoped::<DeserializeGuard<Peer>>(&client, namespace.as_deref()));
            let (of_keys, of_peers) = (once(&readiness), once(&readiness));
            // The keys are listed at once, and the Peers when the keys have been.
            let (relist_keys, relist_peers) = (Arc::new(Notify::new()), peers.relist(namespace.as_deref()));
            relist_keys.notify_one();
            let of = namespace.clone();
            let key_watch = async move { watch::fill(key_api, of.as_deref(), keys, relist_keys, of_keys).await };
            let peer_watch =
                async move { watch::fill(peer_api, namespace.as_deref(), peers, relist_peers, of_peers).await };
            tokio::spawn(stop.clone().run_until_cancelled_owned(key_watch));
            tokio::spawn(stop.clone().run_until_cancelled_owned(peer_watch));
        }
        let third = chrono::Duration::from_std(peer_lifetime / 3).unwrap_or(chrono::Duration::MAX);
        let admissions = Admissions::new(ApiServer::new(client), keys, peers, clock, metrics, owner_time);
        Arc::new(Self { admissions, failures: Failures::new(failures_per_minute), readiness, third, stop })
    }

    /// What clients can ask for.
    pub fn router(self: &Arc<Self>) -> Router {
        http::router(Arc::clone(self))
    }

    /// Finishes what was committed, once no request is under way any more.
    pub async fn end(&self) {
        self.admissions.end().await;
        self.stop.cancel();
    }

    async fn enroll(&self, applicant: Applicant) -> Outcome {
        let started = Instant::now();
        // Caches that are not filled know nobody.
        let outcome = if self.readiness.is_ready() { self.join(applicant).await } else { Outcome::BUSY };
        self.metrics().enrolled(outcome.label());
        if let Outcome::Joined { admitted: true, .. } = outcome {
            self.metrics().admitted_within(started.elapsed());
        }
        outcome
    }

    async fn join(&self, applicant: Applicant) -> Outcome {
        let (keys, peers, now) = (&self.admissions.keys, &self.admissions.peers, self.admissions.clock.now());
        let key = keys.find(&applicant.key);
        let namespace = key.as_ref().and_then(|key| key.namespace());
        let admits = key.as_ref().is_some_and(|key| ledger::admits(key, &applicant.key, now));
        let name = PeerName::of(&applicant.public_key);
        // A key that admits is a wish to be a peer in its namespace. Without one, the machine may be a peer anywhere.
        let known = peers.find(name.as_str(), &applicant.token, namespace.as_deref());
        let known = known.filter(|peer| !admits || Some(&peer.namespace) == namespace.as_ref());
        if let Some(outcome) = Outcome::by_token(known, &applicant.token, false) {
            return outcome;
        }
        match key {
            Some(key) if admits => self.admissions.admit(&key, applicant, Instant::now() + PATIENCE).await,
            Some(key) if peers.is_awaited(&key, &applicant) => {
                self.admissions
                    .arrival(&key.namespace().unwrap_or_default(), &applicant, Instant::now() + ARRIVAL)
                    .await
            }
            _ => Outcome::Not(Refusal::Refused),
        }
    }

    async fn heartbeat(&self, name: &str, token: &Digest) -> Called {
        if !self.readiness.is_ready() {
            return Called::Busy;
        }
        let now = self.admissions.clock.now();
        let Some(peer) = self.admissions.peers.find(name, token, None).filter(|peer| !peer.existing.leaving) else {
            self.metrics().heartbeat("unknown");
            return Called::Unknown;
        };
        if !peer.must_be_written(now, self.third) {
            self.metrics().heartbeat("fresh");
            return Called::Done;
        }
        let (result, called) = match self.admissions.objects.seen(&peer, now.into()).await {
            Ok(()) => ("written", Called::Done),
            Err(error) => {
                peer.was_not_written();
                match error.code() {
                    // It has gone, or another has come in its place.
                    Some(404 | 409) => ("unknown", Called::Unknown),
                    _ => {
                        tracing::warn!(%error, "a heartbeat is not written");
                        ("busy", Called::Busy)
                    }
                }
            }
        };
        self.metrics().heartbeat(result);
        called
    }

    async fn leave(&self, name: &str, token: &Digest) -> Called {
        if !self.readiness.is_ready() {
            return Called::Busy;
        }
        let Some(peer) = self.admissions.peers.find(name, token, None) else { return Called::Unknown };
        match self.admissions.objects.delete(&peer).await {
            Ok(()) => Called::Done,
            Err(error) if matches!(error.code(), Some(404 | 409)) => Called::Done,
            Err(error) => {
                tracing::warn!(%error, "a peer is asked to come again");
                Called::Busy
            }
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.admissions.metrics
    }

    /// How long an address must wait that has failed too often.
    fn wait(&self, address: IpAddr) -> Option<Duration> {
        self.failures.wait(address, std::time::Instant::now())
    }

    fn failed(&self, address: IpAddr) {
        self.failures.count(address, std::time::Instant::now());
    }
}

/// Tells the first of several calls.
fn once(readiness: &Arc<Readiness>) -> impl FnMut() + use<> {
    let mut readiness = Some(Arc::clone(readiness));
    move || {
        if let Some(readiness) = readiness.take() {
            readiness.reached();
        }
    }
}
