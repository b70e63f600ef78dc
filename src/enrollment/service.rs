use std::{net::IpAddr, sync::Arc, time::Duration};

use kube::{Client, ResourceExt, core::DeserializeGuard};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Environment, PATIENCE,
    admission::{Admissions, Outcome},
    api_server::ApiServer,
    cache::{CachedPeer, Found, Keys, Peers},
    failures::Failures,
    metrics::Metrics,
    watch,
};
use crate::{
    api::{Peer, SetupKey},
    cluster::{Clock, Lean, Readiness, Scope, scoped},
    key::{
        Digest, PeerName,
        ledger::{self, Applicant, Refusal},
    },
};

/// How long a retry waits for the Peer of an admission that is in progress elsewhere, when the key itself no longer admits
/// machines.
const ARRIVAL: Duration = Duration::from_secs(10);

/// The service, without the socket.
pub struct Service {
    api: ApiServer,
    keys: Arc<Keys>,
    peers: Arc<Peers>,
    admissions: Arc<Admissions>,
    failures: Failures,
    clock: Arc<dyn Clock>,
    readiness: Arc<Readiness>,
    pub(super) metrics: Metrics,
    /// Heartbeats are written once in this time: a third of the lifetime of a peer.
    third: chrono::Duration,
    stop: CancellationToken,
}

/// How a call of a peer ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Called {
    /// Done.
    Done,
    /// There is no such peer, or the token is not its own.
    Unknown,
    /// The call names no namespace, and several have such a peer.
    Ambiguous,
    /// The machine may ask again soon.
    Busy,
}

/// The Peer that a call names.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its namespace. In the calls of the first version there is none.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
}

impl Service {
    /// Starts to fill the caches.
    pub fn start(environment: Environment, scope: Scope) -> Arc<Self> {
        let Environment { client, clock, readiness, metrics, peer_lifetime, failures_per_minute, owner_time } =
            environment;
        let (peers, stop) = (Arc::<Peers>::default(), CancellationToken::new());
        let keys = Arc::new(Keys::new(Arc::clone(&peers), metrics.disputed.clone()));
        follow(&client, scope, &keys, &peers, &readiness, &stop);
        let api = ApiServer::new(client);
        let admissions = Admissions::new(
            api.clone(),
            Arc::clone(&keys),
            Arc::clone(&peers),
            Arc::clone(&clock),
            metrics.clone(),
            owner_time,
        );
        Arc::new(Self {
            api,
            keys,
            peers,
            admissions,
            failures: Failures::new(failures_per_minute),
            clock,
            readiness,
            metrics,
            third: chrono::Duration::from_std(peer_lifetime / 3).unwrap_or(chrono::Duration::MAX),
            stop,
        })
    }

    /// Completes what was committed, once no request is in progress any more.
    pub async fn end(&self) {
        self.admissions.end().await;
        self.stop.cancel();
    }

    /// A machine asks to join.
    pub async fn enroll(&self, applicant: Applicant) -> Outcome {
        let started = Instant::now();
        // Caches that are not filled would refuse every machine.
        let outcome = if self.readiness.is_ready() { self.join(applicant).await } else { Outcome::BUSY };
        self.metrics.enrolled(outcome.label());
        if let Outcome::Joined { admitted: true, .. } = outcome {
            self.metrics.admitted_within(started.elapsed());
        }
        outcome
    }

    /// Whether this machine presents a good key and is refused all the same, after a look-up at the API server. As far as the
    /// caches show: its public key has joined with another token, or the key does not allow DNS labels.
    pub fn refuses_by_look_up(&self, applicant: &Applicant) -> bool {
        let Some(key) = self.keys.find(&applicant.key) else { return false };
        let name = PeerName::of(&applicant.public_key);
        let peer = self.peers.get(&key.namespace().unwrap_or_default(), name.as_str());
        let refused = match peer {
            Some(peer) => !peer.has(&applicant.token),
            None => !applicant.extra_dns_labels.is_empty() && !key.spec.allow_extra_dns_labels,
        };
        refused && ledger::admits(&key, &applicant.key, self.clock.now()) && !self.peers.is_awaited(&key, applicant)
    }

    async fn join(&self, applicant: Applicant) -> Outcome {
        let key = self.keys.find(&applicant.key);
        let name = PeerName::of(&applicant.public_key);
        let own = match &key {
            // A key admits to its own namespace. A Peer in another one says nothing, not even when the key admits no more.
            Some(key) => self.peers.own(&key.namespace().unwrap_or_default(), name.as_str(), &applicant.token),
            // A key that is gone has no namespace, so the machine's Peer may be in any.
            None => match self.peers.find(name.as_str(), &applicant.token) {
                Found::One(peer) => Some(peer),
                Found::Nothing | Found::Several => None,
            },
        };
        if let Some(outcome) = Outcome::by_token(own, &applicant.token, false) {
            return outcome;
        }
        let admits = key.as_ref().is_some_and(|key| ledger::admits(key, &applicant.key, self.clock.now()));
        match key {
            Some(key) if admits => self.admissions.admit(&key, applicant, Instant::now() + PATIENCE).await,
            Some(key) if self.peers.is_awaited(&key, &applicant) => {
                let namespace = key.namespace().unwrap_or_default();
                Outcome::of_arrival(&self.peers, &namespace, &applicant, Instant::now() + ARRIVAL).await
            }
            Some(_) | None => Outcome::Not(Refusal::Refused),
        }
    }

    /// The Peer that a call is about, if the token is its own.
    fn called(&self, Named { namespace, name }: Named<'_>, token: &Digest) -> Result<Arc<CachedPeer>, Called> {
        if !self.readiness.is_ready() {
            return Err(Called::Busy);
        }
        match namespace {
            Some(namespace) => self.peers.own(namespace, name, token).ok_or(Called::Unknown),
            None => match self.peers.find(name, token) {
                Found::One(peer) => Ok(peer),
                Found::Nothing => Err(Called::Unknown),
                Found::Several => Err(Called::Ambiguous),
            },
        }
    }

    /// A peer says that it is still there.
    pub async fn heartbeat(&self, named: Named<'_>, token: &Digest) -> Called {
        let now = self.clock.now();
        let peer = match self.called(named, token) {
            Ok(peer) if peer.existing.leaving => Err(Called::Unknown),
            called => called,
        };
        let peer = match peer {
            Ok(peer) => peer,
            Err(called) => {
                self.metrics.heartbeat(match called {
                    Called::Busy => "busy",
                    Called::Ambiguous => "ambiguous",
                    Called::Done | Called::Unknown => "unknown",
                });
                return called;
            }
        };
        if !peer.must_be_written(now, self.third) {
            self.metrics.heartbeat("fresh");
            return Called::Done;
        }
        let (result, called) = match self.api.seen(&peer, now.into()).await {
            Ok(()) => ("written", Called::Done),
            Err(error) => {
                peer.was_not_written();
                match error.code() {
                    // The Peer was deleted, or another one has its name.
                    Some(404 | 409) => ("unknown", Called::Unknown),
                    _ => {
                        tracing::warn!(%error, "could not write a heartbeat; answering 503");
                        ("busy", Called::Busy)
                    }
                }
            }
        };
        self.metrics.heartbeat(result);
        called
    }

    /// A peer leaves.
    pub async fn leave(&self, named: Named<'_>, token: &Digest) -> Called {
        let peer = match self.called(named, token) {
            // It is being deleted, which cannot be undone.
            Ok(peer) if peer.existing.leaving => return Called::Done,
            Ok(peer) => peer,
            Err(called) => return called,
        };
        match self.api.delete(&peer).await {
            Ok(()) => Called::Done,
            Err(error) if matches!(error.code(), Some(404 | 409)) => Called::Done,
            Err(error) => {
                tracing::warn!(%error, "could not delete a Peer that leaves; answering 503");
                Called::Busy
            }
        }
    }

    /// How long this address must wait, because it has failed too often.
    pub fn wait(&self, address: IpAddr) -> Option<Duration> {
        self.failures.wait(address, std::time::Instant::now())
    }

    /// Counts a failure of this address.
    pub fn failed(&self, address: IpAddr) {
        self.failures.count(address, std::time::Instant::now());
    }
}

/// Starts the watches. The keys are listed at once, and the Peers when the keys have been.
fn follow(
    client: &Client,
    scope: Scope,
    keys: &Arc<Keys>,
    peers: &Arc<Peers>,
    readiness: &Arc<Readiness>,
    stop: &CancellationToken,
) {
    let scopes = scope.watched();
    readiness.expect(2 * scopes.len());
    for namespace in scopes {
        let key_api = scoped::<Lean<DeserializeGuard<SetupKey>>>(client, namespace.as_deref());
        let peer_api = scoped::<Lean<DeserializeGuard<Peer>>>(client, namespace.as_deref());
        let (keys, peers, of) = (Arc::clone(keys), Arc::clone(peers), namespace.clone());
        let (keys_filled, peers_filled) = (once(readiness), once(readiness));
        let (relist_keys, relist_peers) = (Arc::new(Notify::new()), peers.relist(namespace.as_deref()));
        relist_keys.notify_one();
        let key_watch = async move { watch::fill(key_api, of.as_deref(), keys, relist_keys, keys_filled).await };
        let peer_watch =
            async move { watch::fill(peer_api, namespace.as_deref(), peers, relist_peers, peers_filled).await };
        tokio::spawn(stop.clone().run_until_cancelled_owned(key_watch));
        tokio::spawn(stop.clone().run_until_cancelled_owned(peer_watch));
    }
}

/// Reports the first of several calls.
fn once(readiness: &Arc<Readiness>) -> impl FnMut() + use<> {
    let mut readiness = Some(Arc::clone(readiness));
    move || {
        if let Some(readiness) = readiness.take() {
            readiness.reached();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_counts_once_however_often_it_is_filled() {
        let readiness = Arc::new(Readiness::default());
        readiness.expect(2);
        let mut keys_filled = once(&readiness);
        keys_filled();
        keys_filled();
        assert!(!readiness.is_ready());
        once(&readiness)();
        assert!(readiness.is_ready());
    }
}
