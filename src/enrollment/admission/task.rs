//! What happens to one key: at most one swap at a time, for all that wait.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::future::try_join_all;
use kube::ResourceExt;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Admissions, Job, Outcome,
    record::{Committed, record},
    release::Cleared,
};
use crate::{
    api::{Peer, SetupKey},
    enrollment::{keys::ObjectName, objects::Swapped, peers::Known},
    key::{
        PeerName,
        ledger::{self, Applicant, OnRecord, Swap, Verdict},
    },
};

/// Machines that one swap may decide on.
const BATCH: usize = 100;

/// How long entries wait to be cleared together with those of the next machines.
const CLEAR_AFTER: Duration = Duration::from_millis(200);

/// When there is no place in `pending`: until the next look.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// So many places are waited for, if as many machines wait: each swap writes all of `pending`.
const WORTHWHILE: usize = 25;

/// A task that nobody came to for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// The longest pause after a lost swap; the first is a tenth.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Swaps and reads that may fail, other than being lost, before those that wait are sent away.
const FAILURES: usize = 3;

/// What the task is told.
pub enum Message {
    /// A machine waits.
    Job(Job),
    /// The Peer of an entry that this task committed exists, or is left to the controller.
    Recorded(Option<Recorded>),
}

/// An entry that can be cleared.
pub struct Recorded {
    /// Which entry.
    number: i64,
    /// The name of its Peer.
    name: String,
    /// When the swap was sent that committed it.
    committed: Instant,
    /// The uid of its Peer, if it is ours to release.
    release: Option<String>,
}

/// One key.
pub struct Task {
    shared: Arc<Admissions>,
    name: ObjectName,
    uid: String,
    inbox: mpsc::Receiver<Message>,
    this: mpsc::Sender<Message>,
    /// What the last swap returned.
    latest: Option<Arc<SetupKey>>,
    waiting: VecDeque<Job>,
    /// Peers that are being created.
    under_way: usize,
    /// By number.
    recorded: BTreeMap<i64, Recorded>,
    /// When to act although nobody comes.
    wake: Option<Instant>,
}

/// What a swap did to those that it was for.
enum Round {
    Decided(Arc<SetupKey>, Option<Instant>, Vec<Verdict>),
    Gone,
    Failed,
}

impl Task {
    pub fn new(
        shared: Arc<Admissions>,
        name: ObjectName,
        uid: String,
        inbox: mpsc::Receiver<Message>,
        this: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            shared,
            name,
            uid,
            inbox,
            this,
            latest: None,
            waiting: VecDeque::new(),
            under_way: 0,
            recorded: BTreeMap::new(),
            wake: None,
        }
    }

    pub async fn run(mut self) {
        loop {
            let ending = self.shared.ending.is_cancelled();
            if ending && self.under_way == 0 && self.waiting.is_empty() && self.inbox.is_empty() {
                self.round(Vec::new()).await;
                return;
            }
            let wake = match self.wake {
                _ if self.is_worthwhile() => Instant::now(),
                Some(wake) => wake,
                None => Instant::now() + IDLE,
            };
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                message = self.inbox.recv() => {
                    if let Some(message) = message {
                        self.take(message);
                    }
                }
                () = shared.ending.cancelled(), if !ending => continue,
                () = tokio::time::sleep_until(wake) => {
                    if self.wake.is_none() && self.is_retired() {
                        return;
                    }
                }
            }
            while self.waiting.len() < BATCH
                && let Ok(message) = self.inbox.try_recv()
            {
                self.take(message);
            }
            let due = self.wake.is_some_and(|wake| wake <= Instant::now());
            if due || self.is_worthwhile() {
                self.wake = None;
                // Whoever has no place is not looked up, but for one: he may be a peer already.
                let batch = self.waiting.len().min(BATCH).min(self.places().max(1));
                let jobs = self.waiting.drain(..batch).collect();
                self.round(jobs).await;
            }
            if !self.waiting.is_empty() && !self.is_worthwhile() {
                self.wake_within(FULL_PAUSE);
            }
        }
    }

    /// Whether machines wait, and there are places for as many of them as are worth a swap.
    fn is_worthwhile(&self) -> bool {
        !self.waiting.is_empty() && self.places() >= self.waiting.len().min(WORTHWHILE)
    }

    /// Places in `pending`, those included that the next swap clears.
    fn places(&self) -> usize {
        let basis = self.basis();
        let pending = basis.as_ref().and_then(|key| key.status.as_ref()).map_or(&[][..], |status| &status.pending);
        let stay = pending.iter().filter(|entry| !self.recorded.contains_key(&entry.number)).count();
        ledger::MOST_PENDING.saturating_sub(stay)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Job(job) => self.waiting.push_back(job),
            Message::Recorded(recorded) => {
                self.under_way -= 1;
                if let Some(recorded) = recorded {
                    self.recorded.insert(recorded.number, recorded);
                    self.wake_within(CLEAR_AFTER);
                }
            }
        }
    }

    fn wake_within(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Ends the task, unless somebody has come in this moment.
    fn is_retired(&mut self) -> bool {
        let mut tasks = self.shared.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let idle = self.inbox.is_empty() && self.waiting.is_empty() && self.under_way == 0 && self.recorded.is_empty();
        if idle {
            tasks.remove(&self.uid);
        }
        idle
    }

    /// Decides on these machines, and clears what can be cleared.
    async fn round(&mut self, mut jobs: Vec<Job>) {
        self.forget_old_ones();
        // Whoever has given up is not admitted behind his back.
        jobs.retain(|job| !job.reply.is_closed() && job.deadline > Instant::now());
        if jobs.is_empty() && self.recorded.is_empty() {
            return;
        }
        let applicants: Vec<_> = jobs.iter().map(|job| job.applicant.clone()).collect();
        match self.decide(&applicants).await {
            Round::Decided(key, sent, verdicts) => {
                for (job, verdict) in jobs.into_iter().zip(verdicts) {
                    self.settle(&key, sent, job, verdict);
                }
            }
            Round::Gone => {
                self.recorded.clear();
                jobs.into_iter().for_each(|job| self.answer_without_key(job));
            }
            Round::Failed => jobs.into_iter().for_each(|job| drop(job.reply.send(Outcome::BUSY))),
        }
        if !self.recorded.is_empty() {
            self.wake_within(CLEAR_AFTER);
        }
    }

    /// One swap, tried until it is neither lost nor without an answer.
    async fn decide(&mut self, applicants: &[Applicant]) -> Round {
        let (mut basis, mut lost, mut failures) = (self.basis(), 0_u32, 0);
        loop {
            let key = match basis.take() {
                Some(key) => key,
                None => match self.shared.objects.key(&self.name).await {
                    Ok(Some(key)) if key.uid().as_deref() == Some(&self.uid) => Arc::new(key),
                    Ok(_) => return Round::Gone,
                    Err(error) => {
                        tracing::warn!(%error, "machines are asked to come again");
                        return Round::Failed;
                    }
                },
            };
            self.release_cleared(&key);
            // After the key was read: an entry that is no longer pending in it exists as a Peer by now.
            let found = match self.look_up(applicants).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "machines are asked to come again");
                    return Round::Failed;
                }
            };
            let judged: Vec<_> = applicants.iter().zip(found).collect();
            let recorded: BTreeSet<_> = self.recorded.keys().copied().collect();
            let (swap, verdicts) = ledger::admit(&key, &judged, &recorded, self.shared.clock.now());
            let Some(swap) = swap else { return Round::Decided(key, None, verdicts) };
            match self.swap(&key, &swap).await {
                (sent, Ok(Swapped::Done(key))) => {
                    let key = Arc::new(*key);
                    self.latest = Some(Arc::clone(&key));
                    self.release_cleared(&key);
                    return Round::Decided(key, Some(sent), verdicts);
                }
                (_, Ok(Swapped::Gone)) => return Round::Gone,
                (_, Ok(Swapped::Lost)) => {
                    lost += 1;
                    tokio::time::sleep(pause(lost)).await;
                }
                // Whether it was done shows in the key: whoever got in is pending there, and not counted again.
                (_, Err(error)) => {
                    tracing::warn!(%error, "the swap is looked up");
                    failures += 1;
                    if failures == FAILURES {
                        return Round::Failed;
                    }
                    tokio::time::sleep(error.pause().unwrap_or(LONGEST_PAUSE)).await;
                }
            }
        }
    }

    async fn swap(&self, key: &SetupKey, swap: &Swap) -> (Instant, Result<Swapped, crate::cluster::call::Error>) {
        let sent = Instant::now();
        let swapped = self.shared.objects.swap(key, swap).await;
        self.shared.metrics.swapped(&swapped);
        (sent, swapped)
    }

    /// The newest that is known without a request. If it is not the newest there is, only the swap is lost.
    fn basis(&self) -> Option<Arc<SetupKey>> {
        let version = |key: &Arc<SetupKey>| key.resource_version().and_then(|version| version.parse::<u64>().ok());
        let cached = self.shared.keys.get(&self.name).filter(|key| key.uid().as_deref() == Some(&self.uid));
        [cached, self.latest.clone()].into_iter().flatten().max_by_key(version)
    }

    async fn look_up(&self, applicants: &[Applicant]) -> Result<Vec<OnRecord>, crate::cluster::call::Error> {
        let look_ups = applicants.iter().map(|applicant| self.shared.on_record(&self.name.0, applicant));
        try_join_all(look_ups).await
    }

    /// Answers, or has the machine wait for its Peer.
    fn settle(&mut self, key: &Arc<SetupKey>, sent: Option<Instant>, job: Job, verdict: Verdict) {
        let (shared, namespace) = (Arc::clone(&self.shared), self.name.0.clone());
        let name = PeerName::of(&job.applicant.public_key);
        match (verdict, sent) {
            (Verdict::Admitted, Some(sent)) => {
                let pending = key.status.as_ref().map_or(&[][..], |status| &status.pending);
                let Some(entry) = pending.iter().find(|entry| entry.name == name.as_str()).cloned() else {
                    return;
                };
                self.under_way += 1;
                let committed = Committed { key: Arc::clone(key), entry, sent };
                let this = self.this.clone();
                self.shared.running.spawn(async move {
                    let peer = record(&shared, &committed).await;
                    let recorded = peer.as_ref().map(|peer| recorded(&committed, peer));
                    let _ = this.send(Message::Recorded(recorded)).await;
                    let outcome = match peer {
                        Some(peer) => joined(peer, &job.applicant, true),
                        None => shared.arrival(&namespace, &job.applicant, job.deadline).await,
                    };
                    let _ = job.reply.send(outcome);
                });
            }
            // The Peer of somebody else's commit comes by the watch, and so does one of ours.
            (Verdict::Pending, _) => {
                self.shared.running.spawn(async move {
                    let outcome = shared.arrival(&namespace, &job.applicant, job.deadline).await;
                    let _ = job.reply.send(outcome);
                });
            }
            (Verdict::Known, _) => {
                self.shared.running.spawn(async move {
                    let _ = job.reply.send(known(&shared, &namespace, &job.applicant).await);
                });
            }
            // There will be a place soon.
            (Verdict::Busy, _) => {
                self.waiting.push_back(job);
                self.wake_within(FULL_PAUSE);
            }
            (verdict, _) => drop(job.reply.send(Outcome::Not(verdict))),
        }
    }

    /// The key has gone, and its peers have stayed.
    fn answer_without_key(&self, job: Job) {
        let (shared, namespace) = (Arc::clone(&self.shared), self.name.0.clone());
        self.shared.running.spawn(async move {
            let _ = job.reply.send(known(&shared, &namespace, &job.applicant).await);
        });
    }

    /// After a while it is up to the controller to clear what is left, and not to us any more.
    fn forget_old_ones(&mut self) {
        let limit = self.shared.owner_time;
        self.recorded.retain(|_, recorded| recorded.committed.elapsed() < limit);
    }

    /// Lets go of the Peers whose entry is not in this object, which is not older than the one that committed them.
    fn release_cleared(&mut self, key: &SetupKey) {
        let pending = key.status.as_ref().map_or(&[][..], |status| &status.pending);
        let pending: BTreeSet<_> = pending.iter().map(|entry| entry.number).collect();
        let (left, cleared) =
            std::mem::take(&mut self.recorded).into_iter().partition(|(number, _)| pending.contains(number));
        self.recorded = left;
        let cleared: BTreeMap<i64, Recorded> = cleared;
        for cleared in cleared.into_values() {
            if let Some(uid) = cleared.release {
                self.shared.releases.later(Cleared { namespace: self.name.0.clone(), name: cleared.name, uid });
            }
        }
    }
}

/// A Peer of that name may have come by another key, whose business its finalizer is.
fn recorded(committed: &Committed, peer: &Peer) -> Recorded {
    let ours = Some(&peer.spec.setup_key_ref.uid) == committed.key.uid().as_ref();
    Recorded {
        number: committed.entry.number,
        name: committed.entry.name.clone(),
        committed: committed.sent,
        release: peer.uid().filter(|_| ours),
    }
}

fn joined(peer: Peer, applicant: &Applicant, admitted: bool) -> Outcome {
    let peer = Arc::new(Known::from(peer));
    match () {
        () if !peer.has(&applicant.token) => Outcome::Not(Verdict::Taken),
        () if peer.leaving => Outcome::Not(Verdict::Leaving),
        () => Outcome::Joined { peer, admitted },
    }
}

/// The answer to a machine that needs no key, if there is one.
async fn known(shared: &Admissions, namespace: &str, applicant: &Applicant) -> Outcome {
    let name = PeerName::of(&applicant.public_key);
    match shared.objects.peer(namespace, name.as_str()).await {
        Ok(Some(peer)) if peer.spec.token_digest == applicant.token.as_str() => joined(peer, applicant, false),
        Ok(_) => Outcome::Not(Verdict::Refused),
        Err(_) => Outcome::BUSY,
    }
}

/// Longer and longer, and never the same for two replicas.
fn pause(lost: u32) -> Duration {
    LONGEST_PAUSE.mul_f64((0.1 * f64::from(lost)).min(1.0) * rand::random::<f64>())
}
