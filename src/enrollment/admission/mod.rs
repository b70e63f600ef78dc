//! Admission: from a machine that presents a key to its Peer, through the ledger in the status of the `SetupKey`.
//!
//! For each key that machines come with there is one [task](task). It takes all machines that wait, decides on them with
//! [`ledger::admit`](crate::key::ledger::admit) and commits with one compare-and-swap. Machines that come meanwhile wait for
//! the next swap, which is sent once the Peers of the last one exist. So the busier the API server is, the more machines
//! share a swap: a key that a thousand machines come with at once is written a few dozen times.
//!
//! The Peers are [created](create) after the commit, and only then are the machines answered. Only one process at a time may
//! act on an entry, or a Peer that was deleted in between could come back: first the replica that committed it, for
//! [`OWNER_TIME`](crate::key::ledger::OWNER_TIME) from the moment it sent the swap, then the controller, after
//! [`HANDOVER`](crate::key::ledger::HANDOVER). A finalizer holds the Peer until the entry is cleared. Then the Peer is
//! [released](release), which no machine waits for.

mod create;
mod entries;
mod limits;
mod outcome;
mod pace;
mod release;
mod task;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    api_server::ApiServer,
    cache::{Keys, Peers},
    metrics::Metrics,
};
use crate::{
    api::SetupKey,
    cluster::{Clock, ObjectName},
    key::ledger::Applicant,
};
use limits::{InFlight, WAITING};
pub use outcome::Outcome;
use release::Releases;
use task::Task;

/// Counts a machine as waiting while it exists.
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

/// What all tasks share.
pub struct Admissions {
    api: ApiServer,
    keys: Arc<Keys>,
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    owner_time: Duration,
    in_flight: InFlight,
    /// How many machines wait for an answer.
    machines: watch::Sender<usize>,
    releases: Releases,
    /// By the UID of the key.
    tasks: Mutex<HashMap<String, mpsc::Sender<task::Message>>>,
    running: TaskTracker,
    ending: CancellationToken,
}

impl Admissions {
    /// No machine waits yet.
    pub fn new(
        api: ApiServer,
        keys: Arc<Keys>,
        peers: Arc<Peers>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        owner_time: Duration,
    ) -> Arc<Self> {
        let machines = watch::Sender::new(0);
        Arc::new(Self {
            releases: Releases::start(api.clone(), machines.subscribe()),
            machines,
            api,
            keys,
            peers,
            clock,
            metrics,
            owner_time,
            in_flight: InFlight::new(),
            tasks: Mutex::default(),
            running: TaskTracker::new(),
            ending: CancellationToken::new(),
        })
    }

    /// Makes a machine wait for the next swap of this key, and for its Peer.
    pub async fn admit(self: &Arc<Self>, key: &SetupKey, applicant: Applicant, deadline: Instant) -> Outcome {
        let _waiting = Waiting::new(&self.machines);
        let (reply, outcome) = oneshot::channel();
        if !self.submit(key, Job { applicant, deadline, reply }) {
            return Outcome::BUSY;
        }
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Outcome::BUSY,
        }
    }

    /// A task ends only under this lock, so no job is sent to a task that has ended.
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

    /// Completes what was committed. No machine may be submitted any more.
    pub async fn end(&self) {
        self.ending.cancel();
        self.running.close();
        self.running.wait().await;
        self.releases.end().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_counts_as_waiting_until_its_request_ends() {
        let machines = watch::Sender::new(0);
        let (first, second) = (Waiting::new(&machines), Waiting::new(&machines));
        assert_eq!(*machines.borrow(), 2);
        drop((first, second));
        assert_eq!(*machines.borrow(), 0);
    }
}
