//! Admission: from a machine that presents a key to its Peer, through the ledger in the status of the `SetupKey`.
//!
//! For each key that machines come with there is one [task](task). It takes all that wait, decides on them with
//! [`ledger::admit`](crate::key::ledger::admit) and commits with one compare-and-swap; those who come in the meantime
//! wait for the next, which is made once the Peers of the last are there. So the busier the API server is, the more
//! machines share a swap, and a key that a thousand come with at once is written a few dozen times.
//!
//! The Peers are [created](record) after the commit, and only then are the machines answered. Two may create a Peer from
//! an entry of `pending`, and never at the same time, or one that was deleted in between could come back: the replica
//! that committed, in the first [`OWNER_TIME`](crate::key::ledger::OWNER_TIME) since it sent the swap, and after that, later by more than a request may
//! take, the controller. A finalizer holds the Peer until the entry is cleared; taking it off is [work](release) that
//! nobody waits for.

mod record;
mod release;
mod task;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    api_server::ApiServer,
    cache::{CachedPeer, KeyVersion, Keys, Peers},
    metrics::Metrics,
};
use crate::{
    api::SetupKey,
    cluster::{Clock, ObjectName, call::Error},
    key::{
        Digest, PeerName,
        ledger::{Applicant, Existing, Met, Refusal, meet},
    },
};
use release::Releases;
use task::Task;

/// Requests about Peers at the same time, in one process. More do not make a busy API server faster, but its watches late:
/// then replicas know less of each other, and lose swaps.
const REQUESTS: usize = 8;

/// Swaps at the same time, in one process. Those that must wait, wait here and not at the API server: so they build on what
/// is known when their turn has come, and fewer are lost.
const SWAPS: usize = 3;

/// As many more are kept for entries that have waited too long to be cleared.
const CLEARS: usize = 1;

/// Peers that a process may have admitted and not yet created. Who comes when there are more waits to be admitted: so each
/// is created well within [`OWNER_TIME`](crate::key::ledger::OWNER_TIME), and those who wait for the same key share a swap.
const AHEAD: usize = 64;

/// Machines that may wait for one key.
const WAITING: usize = 4096;

/// How a request to join ends.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The machine is a peer, since now or since before.
    Joined {
        /// The peer.
        peer: Arc<CachedPeer>,
        /// Whether this request used the key.
        admitted: bool,
    },
    /// It is not, and why.
    Not(Refusal),
}

impl Outcome {
    /// The machine may ask again soon.
    pub const BUSY: Self = Self::Not(Refusal::Busy);

    /// The outcome for a machine that is let in by its token alone. `None` if this Peer is not its own.
    pub fn by_token(peer: Option<Arc<CachedPeer>>, token: &Digest, admitted: bool) -> Option<Self> {
        let peer = peer?;
        match meet(Some(&peer.existing), token) {
            Met::Own => Some(Self::Joined { peer, admitted }),
            Met::OwnLeaving => Some(Self::Not(Refusal::Leaving)),
            Met::NoPeer | Met::Other => None,
        }
    }

    /// The value of the label `result` of the metric `setupkey_enrollments`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Joined { admitted: true, .. } => "admitted",
            Self::Joined { admitted: false, .. } => "known",
            Self::Not(refusal) => refusal.label(),
        }
    }
}

/// One more machine waits, as long as this is there.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(machines: &'a watch::Sender<usize>) -> Self {
        machines.send_modify(|waiting| *waiting += 1);
        Self(machines)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// A machine that waits.
struct Job {
    applicant: Applicant,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
}

/// Shared by all tasks.
pub struct Admissions {
    pub objects: ApiServer,
    pub keys: Arc<Keys>,
    pub peers: Arc<Peers>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    owner_time: Duration,
    requests: Semaphore,
    swaps: Semaphore,
    clears: Semaphore,
    ahead: Arc<Semaphore>,
    /// How many machines wait.
    machines: watch::Sender<usize>,
    releases: Releases,
    /// By the uid of the key.
    tasks: Mutex<HashMap<String, mpsc::Sender<task::Message>>>,
    running: TaskTracker,
    ending: CancellationToken,
}

impl Admissions {
    /// Nobody waits yet.
    pub fn new(
        objects: ApiServer,
        keys: Arc<Keys>,
        peers: Arc<Peers>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        owner_time: Duration,
    ) -> Arc<Self> {
        let machines = watch::Sender::new(0);
        Arc::new(Self {
            releases: Releases::start(objects.clone(), machines.subscribe()),
            machines,
            objects,
            keys,
            peers,
            clock,
            metrics,
            owner_time,
            requests: Semaphore::new(REQUESTS),
            swaps: Semaphore::new(SWAPS),
            clears: Semaphore::new(CLEARS),
            ahead: Arc::new(Semaphore::new(AHEAD)),
            tasks: Mutex::default(),
            running: TaskTracker::new(),
            ending: CancellationToken::new(),
        })
    }

    /// Has a machine wait for the next swap of this key, and for its Peer.
    pub async fn admit(self: &Arc<Self>, key: &SetupKey, applicant: Applicant, deadline: Instant) -> Outcome {
        let _waiting = Waiting::new(&self.machines);
        let (reply, outcome) = oneshot::channel();
        if !self.submit(key, Job { applicant, deadline, reply }) {
            return Outcome::BUSY;
        }
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            _ => Outcome::BUSY,
        }
    }

    /// A task ends only under this lock, so that nobody is sent to one that has ended.
    fn submit(self: &Arc<Self>, key: &SetupKey, job: Job) -> bool {
        let uid = key.uid().unwrap_or_default();
        let mut tasks = self.tasks.lock();
        let task = tasks.entry(uid.clone()).or_insert_with(|| self.start(ObjectName::of(key), uid));
        task.try_send(task::Message::Job(job)).is_ok()
    }

    fn start(self: &Arc<Self>, name: ObjectName, uid: String) -> mpsc::Sender<task::Message> {
        let (sender, inbox) = mpsc::channel(WAITING);
        let task = Task::new(Arc::clone(self), name, uid, inbox, sender.clone());
        self.running.spawn(task.run());
        sender
    }

    /// Waits until a machine that somebody else admitted is a peer.
    pub async fn arrival(&self, namespace: &str, applicant: &Applicant, deadline: Instant) -> Outcome {
        let name = PeerName::of(&applicant.public_key);
        match tokio::time::timeout_at(deadline, self.peers.arrival(namespace, &name)).await {
            Ok(peer) => Outcome::by_token(Some(peer), &applicant.token, false).unwrap_or(Outcome::Not(Refusal::Taken)),
            Err(_) => Outcome::BUSY,
        }
    }

    /// What there is under the name of a machine, by the time that `basis` was read. Most machines are new, and of these
    /// the caches can tell.
    async fn on_record(
        &self,
        basis: &KeyVersion,
        namespace: &str,
        applicant: &Applicant,
    ) -> Result<Option<Existing>, Error> {
        let name = PeerName::of(&applicant.public_key);
        if basis.followed && self.peers.has_none(namespace, name.as_str()) {
            return Ok(None);
        }
        let _turn = self.requests.acquire().await;
        let found = self.objects.peer(namespace, name.as_str()).await?;
        Ok(found.as_ref().map(Existing::from))
    }

    /// Finishes what was committed. No machine may be submitted any more.
    pub async fn end(&self) {
        self.ending.cancel();
        self.running.close();
        self.running.wait().await;
        self.releases.end().await;
    }
}
