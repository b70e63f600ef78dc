//! Leader election by a Lease: of several processes, one works and the others stand by with warm caches.
//!
//! The protocol is that of client-go. A holder renews the Lease; a candidate that sees it unrenewed for its whole duration
//! takes it. That duration is measured on this process's own clock, from the moment it last saw the Lease change, so that
//! clocks need not agree. A holder that could not renew in time stops at once: it ends before another may begin.
//!
//! kube-coordinate speaks the same protocol. It is not used because its releases are for older versions of kube.
//!
//! Two leaders at a time are possible all the same, where a process is stopped in the middle of a write and goes on
//! later. They do no harm: each write carries the version it was decided on.

use std::time::Duration;

use chrono::Utc;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::cluster::call::{Attempt, Error, call};

/// How long the Lease holds without being renewed.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a holder tries to renew before it gives up. Shorter than the Lease, so that it ends before another begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Whether this process may work.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// For a process that is alone.
    pub fn alone() -> Self {
        Self(watch::channel(true).1)
    }

    /// Whether it may work now.
    pub fn holds(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it may work; false when it never will.
    pub async fn taken_up(mut self) -> bool {
        self.0.wait_for(|leads| *leads).await.is_ok()
    }
}

/// A candidate for the Lease.
pub struct Candidate {
    leases: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    leads: watch::Sender<bool>,
    /// The Lease as last seen, and when this process saw it change.
    seen: Option<(Lease, Instant)>,
}

impl Candidate {
    /// A candidate under this identity, which must be no other process's.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> (Self, Leadership) {
        let (leads, leadership) = watch::channel(false);
        let candidate = Self {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            leads,
            seen: None,
        };
        (candidate, Leadership(leadership))
    }

    /// Stands for election, and holds the Lease once it is won. Returns when the Lease is lost, or when `resign` is
    /// cancelled; then it gives the Lease up, so that another need not wait.
    pub async fn run(mut self, resign: CancellationToken) -> Ended {
        let resigned = resign.clone().cancelled_owned();
        let ended = resigned_or(resigned, self.win_and_hold()).await;
        self.leads.send_replace(false);
        if let Ended::Resigned = ended {
            self.release().await;
        }
        ended
    }

    async fn win_and_hold(&mut self) -> Ended {
        let mut told = None;
        loop {
            match self.claim().await {
                Ok(Claim::Ours) => break,
                Ok(Claim::Theirs) => self.log_holder(&mut told),
                Ok(Claim::Contested) => {}
                Err(error) => tracing::warn!(%error, "the lease could not be claimed"),
            }
            // Jitter, or candidates that started together claim together.
            sleep(RETRY_PERIOD.mul_f64(rand::random_range(1.0..1.2))).await;
        }
        tracing::info!(identity = self.identity, "this process leads");
        self.leads.send_replace(true);
        let mut deadline = Instant::now() + RENEW_DEADLINE;
        loop {
            sleep(RETRY_PERIOD.min(deadline.saturating_duration_since(Instant::now()))).await;
            match timeout_at(deadline, self.claim()).await {
                Ok(Ok(Claim::Ours)) => deadline = Instant::now() + RENEW_DEADLINE,
                Ok(Ok(Claim::Theirs)) => return Ended::Lost,
                // Somebody has edited the Lease, and the next try will show whether they have taken it.
                Ok(Ok(Claim::Contested)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                Err(_) => return Ended::Lost,
            }
            if Instant::now() >= deadline {
                return Ended::Lost;
            }
        }
    }

    /// Logs the holder of the Lease once, and again when there is another one.
    fn log_holder(&self, told: &mut Option<String>) {
        let holder = self.seen.as_ref().and_then(|(lease, _)| holder(lease)).map(str::to_owned);
        if *told != holder {
            let (namespace, lease) = (&self.namespace, &self.name);
            tracing::info!(namespace, lease, holder, "this process stands by");
            *told = holder;
        }
    }

    /// Takes or renews the Lease if it is ours to take.
    async fn claim(&mut self) -> Result<Claim, Error> {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        let attempt = |what: &str| Attempt::on(what, &namespace, &name);
        let found = call(attempt("read Lease"), self.leases.get_opt(&self.name)).await?;
        self.see(found);
        let written = match &self.seen {
            None => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                    spec: Some(claimed(None, &self.identity)),
                };
                call(attempt("create Lease"), self.leases.create(&PostParams::default(), &lease)).await
            }
            Some((lease, since)) if may_claim(lease, &self.identity, since.elapsed()) => {
                let mut lease = lease.clone();
                lease.spec = Some(claimed(lease.spec.as_ref(), &self.identity));
                call(attempt("renew Lease"), self.leases.replace(&self.name, &PostParams::default(), &lease)).await
            }
            Some(_) => return Ok(Claim::Theirs),
        };
        match written {
            Ok(lease) => {
                self.see(Some(lease));
                Ok(Claim::Ours)
            }
            Err(error) if error.code() == Some(409) => Ok(Claim::Contested),
            Err(error) => Err(error),
        }
    }

    fn see(&mut self, found: Option<Lease>) {
        let changed = match (&self.seen, &found) {
            (Some((seen, _)), Some(found)) => seen.metadata.resource_version != found.metadata.resource_version,
            _ => true,
        };
        if changed {
            self.seen = found.map(|lease| (lease, Instant::now()));
        }
    }

    async fn release(&self) {
        let Some((lease, _)) = &self.seen else { return };
        if holder(lease) != Some(self.identity.as_str()) {
            return;
        }
        let mut lease = lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        let attempt = Attempt::on("release Lease", &self.namespace, &self.name);
        match call(attempt, self.leases.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(_) => tracing::info!(identity = self.identity, "the lease is released"),
            Err(error) => tracing::warn!(%error, "the lease runs out by itself"),
        }
    }
}

/// How a claim to the Lease ended.
enum Claim {
    /// We hold it.
    Ours,
    /// Another holds it.
    Theirs,
    /// It was changed while we claimed it.
    Contested,
}

/// Why a candidacy ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// It was asked to.
    Resigned,
    /// Somebody else may hold the Lease now.
    Lost,
}

async fn resigned_or(resigned: impl Future<Output = ()>, ended: impl Future<Output = Ended>) -> Ended {
    tokio::select! {
        () = resigned => Ended::Resigned,
        ended = ended => ended,
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// Whether a Lease that we have seen unchanged for so long is ours to claim.
fn may_claim(lease: &Lease, identity: &str, unchanged: Duration) -> bool {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    holder(lease).is_none_or(|holder| holder == identity) || unchanged > duration
}

/// The Lease in our hands.
fn claimed(before: Option<&LeaseSpec>, identity: &str) -> LeaseSpec {
    let now = MicroTime(jiff::Timestamp::from_microsecond(Utc::now().timestamp_micros()).unwrap_or_default());
    let before = before.cloned().unwrap_or_default();
    let renewed = before.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
        acquire_time: if renewed { before.acquire_time } else { Some(now.clone()) },
        lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(!renewed)),
        renew_time: Some(now),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> Lease {
        Lease { spec: Some(claimed(None, holder)), ..Lease::default() }
    }

    #[test]
    fn a_lease_is_taken_from_another_only_when_it_was_seen_unchanged_for_its_whole_duration() {
        assert!(!may_claim(&held_by("other"), "me", LEASE_DURATION));
        assert!(may_claim(&held_by("other"), "me", LEASE_DURATION + Duration::from_millis(1)));
    }

    #[test]
    fn our_own_lease_and_a_released_one_are_ours_at_once() {
        assert!(may_claim(&held_by("me"), "me", Duration::ZERO));
        assert!(may_claim(&held_by(""), "me", Duration::ZERO));
    }

    #[test]
    fn taking_over_counts_as_a_transition_and_renewing_does_not() {
        let first = claimed(None, "a");
        let renewed = claimed(Some(&first), "a");
        let taken = claimed(Some(&renewed), "b");
        let transitions = [&first, &renewed, &taken].map(|spec| spec.lease_transitions);
        assert_eq!(transitions, [Some(1), Some(1), Some(2)]);
        assert_eq!(renewed.acquire_time, first.acquire_time);
    }
}
