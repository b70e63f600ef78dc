//! What happens to one key: at most one swap at a time, for all that wait.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::future::try_join_all;
use kube::ResourceExt;
use tokio::{
    sync::{OwnedSemaphorePermit, SemaphorePermit, mpsc},
    time::Instant,
};

use super::{
    AHEAD, Admissions, Job, Outcome,
    record::{Committed, record},
    release::Cleared,
};
use crate::{
    api::{Peer, SetupKey},
    cluster::{ObjectName, call::Error},
    enrollment::{
        api_server::Swapped,
        cache::{CachedPeer, KeyVersion, stripped, version_of},
    },
    key::{
        PeerName,
        ledger::{self, Applicant, Existing, Refusal, Swap, Use, Verdict},
    },
};

/// Machines that one swap may decide on.
const BATCH: usize = 64;

// Or a round would wait for ever.
const _: () = assert!(BATCH <= AHEAD);

/// How long entries wait to be cleared together with those of the next machines.
const CLEAR_AFTER: Duration = Duration::from_secs(1);

/// How long an entry that can be cleared waits for a turn with the machines.
const LATE: Duration = Duration::from_secs(4);

/// How long machines wait for the Peers of those before them, to be admitted by the swap that clears these.
const TOGETHER: Duration = Duration::from_secs(1);

/// When there is no place in `pending`: until the next look.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// So many places are waited for, if as many machines wait: each swap writes all of `pending`.
const WORTHWHILE: usize = 25;

/// A task that nobody came to for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// How long the watch has to show what a swap was lost to. After that it is read.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);

/// The longest time over which a task spreads its swaps of a key that others swap as well.
const WIDEST: Duration = Duration::from_secs(2);

/// After a swap that failed otherwise.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Swaps that may fail in a row, other than being lost, before those that wait are sent away.
const FAILURES: u32 = 3;

/// Swaps that a task tries before it ends, to clear what is left.
const LAST_ROUNDS: u32 = 20;

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
    entry: Use,
    /// The name of its Peer.
    name: String,
    /// When the swap was sent that committed it.
    committed: Instant,
    /// Since when it can be cleared.
    since: Instant,
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
    waiting: VecDeque<Job>,
    /// Peers that are being created.
    under_way: usize,
    recorded: BTreeMap<Use, Recorded>,
    /// When to clear entries although nobody comes.
    clear_at: Option<Instant>,
    /// What is older than this version of the key has been swapped already.
    oldest: u64,
    /// Whether it is not known what became of the last swap.
    in_doubt: bool,
    /// Swaps that failed in a row, other than being lost.
    failures: u32,
    /// Swaps are made at any moment of so much time, the more of it the more are lost: so those of several replicas pass
    /// each other, and more machines share one.
    spread: Duration,
    /// When the last one was sent that was done.
    swapped: Option<Instant>,
    /// When the next may be sent.
    not_before: Instant,
}

/// Why a round came to nothing.
enum Stopped {
    /// The key has gone.
    Gone,
    /// The API server could not be asked.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
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
            waiting: VecDeque::new(),
            under_way: 0,
            recorded: BTreeMap::new(),
            clear_at: None,
            oldest: 0,
            in_doubt: false,
            failures: 0,
            spread: Duration::ZERO,
            swapped: None,
            not_before: Instant::now(),
        }
    }

    pub async fn run(mut self) {
        loop {
            let ending = self.shared.ending.is_cancelled();
            if ending && self.under_way == 0 && self.waiting.is_empty() && self.inbox.is_empty() {
                return self.clear_the_rest().await;
            }
            let shared = Arc::clone(&self.shared);
            let due = self.due();
            tokio::select! {
                biased;
                message = self.inbox.recv() => {
                    if let Some(message) = message {
                        self.take(message);
                    }
                }
                () = shared.ending.cancelled(), if !ending => continue,
                () = tokio::time::sleep_until(due.unwrap_or_else(|| Instant::now() + IDLE)) => {
                    if due.is_none() && self.is_retired() {
                        return;
                    }
                }
            }
            self.take_all();
            if self.due().is_some_and(|due| due <= Instant::now()) && !self.puts_off_clearing() {
                self.round().await;
            }
        }
    }

    /// When there is something to swap.
    fn due(&self) -> Option<Instant> {
        let due = match self.swapped {
            _ if self.waiting.is_empty() => self.clear_at?,
            Some(swapped) if !self.has_places() => swapped + FULL_PAUSE,
            Some(swapped) if self.under_way > 0 => swapped + TOGETHER,
            _ => Instant::now(),
        };
        Some(due.max(self.not_before))
    }

    /// Nobody waits for entries to be cleared, so machines that wait for other keys come first.
    fn puts_off_clearing(&mut self) -> bool {
        let now = Instant::now();
        let put_off = self.waiting.is_empty()
            && *self.shared.machines.borrow() > 0
            && self.clearable_since().is_some_and(|oldest| now < oldest + LATE);
        if put_off {
            self.clear_at = Some(now + CLEAR_AFTER);
        }
        put_off
    }

    /// Whether there are places for as many of those that wait as are worth a swap.
    fn has_places(&self) -> bool {
        let known = self.shared.keys.get(&self.name, &self.uid, 0);
        known.is_none_or(|basis| self.places(&basis.key) >= self.waiting.len().min(WORTHWHILE))
    }

    /// Places in `pending`, those included that the next swap clears.
    fn places(&self, key: &SetupKey) -> usize {
        let stay = key.pending().iter().filter(|entry| !self.recorded.contains_key(&Use::of(entry))).count();
        ledger::MOST_PENDING.saturating_sub(stay)
    }

    fn take_all(&mut self) {
        while self.waiting.len() < BATCH
            && let Ok(message) = self.inbox.try_recv()
        {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Job(job) => self.waiting.push_back(job),
            Message::Recorded(recorded) => {
                self.under_way -= 1;
                if let Some(recorded) = recorded {
                    self.recorded.insert(recorded.entry.clone(), recorded);
                    self.clear_at.get_or_insert_with(|| Instant::now() + CLEAR_AFTER);
                }
            }
        }
    }

    /// Ends the task, unless somebody has come in this moment.
    fn is_retired(&mut self) -> bool {
        let mut tasks = self.shared.tasks.lock();
        let idle = self.inbox.is_empty() && self.waiting.is_empty() && self.under_way == 0 && self.recorded.is_empty();
        if idle {
            tasks.remove(&self.uid);
        }
        idle
    }

    async fn clear_the_rest(&mut self) {
        for _ in 0..LAST_ROUNDS {
            if self.recorded.is_empty() {
                return;
            }
            tokio::time::sleep_until(self.not_before).await;
            self.round().await;
        }
    }

    /// Decides on machines that wait, and clears what can be cleared, with one swap. If that is lost, those who came
    /// meanwhile join the next.
    async fn round(&mut self) {
        let shared = Arc::clone(&self.shared);
        let basis = self.basis().await;
        let _turn = self.turn(&shared).await;
        // As late as can be: whoever comes while this waits shares the swap.
        self.take_all();
        let most = u32::try_from(self.waiting.len().min(BATCH)).unwrap_or_default();
        let Ok(mut room) = Arc::clone(&shared.ahead).acquire_many_owned(most).await else { return };
        self.forget_old_ones();
        // Whoever has given up is not admitted behind his back.
        self.waiting.retain(|job| !job.reply.is_closed() && job.deadline > Instant::now());
        let decided = match basis {
            Ok(basis) => self.decide(self.newer(basis), &mut room).await,
            Err(stopped) => Err(stopped),
        };
        match decided {
            Ok(()) => {}
            Err(Stopped::Gone) => {
                self.shared.keys.gone(&self.name, &self.uid);
                self.recorded.clear();
                std::mem::take(&mut self.waiting).into_iter().for_each(|job| self.answer_without_key(job));
            }
            Err(Stopped::Failed(error)) => {
                tracing::warn!(%error, "machines are asked to come again");
                self.waiting.drain(..).for_each(|job| drop(job.reply.send(Outcome::BUSY)));
            }
        }
        self.clear_at = self.clearable_since().map(|since| since + CLEAR_AFTER);
    }

    /// Since when the first of the entries that can be cleared can be.
    fn clearable_since(&self) -> Option<Instant> {
        self.recorded.values().map(|recorded| recorded.since).min()
    }

    /// Waits for a turn to swap. Entries do not wait for as long to be cleared as machines may to be admitted.
    async fn turn<'a>(&self, shared: &'a Admissions) -> Option<SemaphorePermit<'a>> {
        let Some(oldest) = self.clearable_since() else { return shared.swaps.acquire().await.ok() };
        let late = if self.waiting.is_empty() { oldest } else { oldest + LATE };
        let clears = async {
            tokio::time::sleep_until(late).await;
            shared.clears.acquire().await.ok()
        };
        tokio::select! {
            turn = shared.swaps.acquire() => turn.ok(),
            turn = clears => turn,
        }
    }

    /// The newest version that is known, if it is not one that was swapped already: then the next is waited for.
    async fn basis(&mut self) -> Result<KeyVersion, Stopped> {
        if !std::mem::take(&mut self.in_doubt) {
            let shown = self.shared.keys.wait_for(&self.name, &self.uid, self.oldest);
            if let Ok(Some(basis)) = tokio::time::timeout(SHOWN_WITHIN, shown).await {
                return Ok(basis);
            }
        }
        match self.shared.objects.key(&self.name).await? {
            Some(key) if key.uid().as_deref() == Some(&self.uid) => {
                Ok(KeyVersion { key: Arc::new(key), followed: false })
            }
            _ => Err(Stopped::Gone),
        }
    }

    /// What the watch has brought while this waited for its turn.
    fn newer(&self, basis: KeyVersion) -> KeyVersion {
        let shown = self.shared.keys.get(&self.name, &self.uid, self.oldest);
        shown.filter(|_| basis.followed).unwrap_or(basis)
    }

    async fn decide(&mut self, basis: KeyVersion, room: &mut OwnedSemaphorePermit) -> Result<(), Stopped> {
        self.release_cleared(&basis.key);
        // Whoever has no place is not looked up, but for one: he may be a peer already.
        let batch = self.waiting.len().min(room.num_permits()).min(self.places(&basis.key).max(1));
        let applicants: Vec<_> = self.waiting.iter().take(batch).map(|job| job.applicant.clone()).collect();
        // After the key was read: an entry that is no longer pending in it exists as a Peer by now.
        let found = self.look_up(&basis, &applicants).await?;
        let judged: Vec<_> = applicants.iter().zip(found).collect();
        let recorded: BTreeSet<_> = self.recorded.keys().cloned().collect();
        let (swap, verdicts) = ledger::admit(&basis.key, &judged, &recorded, self.shared.clock.now());
        let (key, sent) = match swap {
            None => (basis.key, None),
            Some(swap) => match self.swap(&basis, swap).await? {
                Some((key, sent)) => (key, Some(sent)),
                None => return Ok(()),
            },
        };
        let jobs: Vec<_> = self.waiting.drain(..batch).collect();
        for (job, verdict) in jobs.into_iter().zip(verdicts) {
            self.settle(&key, sent, job, verdict, room);
        }
        Ok(())
    }

    /// Makes a swap, and returns the key as it is then, and when the swap was sent. `None` if it is to be tried again.
    async fn swap(&mut self, basis: &KeyVersion, swap: Swap) -> Result<Option<(Arc<SetupKey>, Instant)>, Stopped> {
        let sent = Instant::now();
        let swapped = self.shared.objects.swap(&basis.key, swap).await;
        self.shared.metrics.swapped(&swapped);
        match swapped {
            Ok(Swapped::Done(key)) => {
                let key = Arc::new(stripped(*key));
                if basis.followed {
                    self.shared.keys.written(&key);
                }
                (self.oldest, self.failures, self.swapped) = (version_of(&key), 0, Some(sent));
                self.spread = self.spread * 3 / 4;
                self.not_before = self.some_time();
                self.release_cleared(&key);
                Ok(Some((key, sent)))
            }
            Ok(Swapped::Gone) => Err(Stopped::Gone),
            Ok(Swapped::Lost) => {
                self.oldest = version_of(&basis.key) + 1;
                self.spread = (2 * self.spread.max(sent.elapsed())).min(WIDEST);
                self.not_before = self.some_time();
                Ok(None)
            }
            // Whether it was done shows in the key: whoever got in is pending there, and not counted again.
            Err(error) => {
                self.in_doubt = true;
                self.failures += 1;
                if self.failures == FAILURES {
                    self.failures = 0;
                    return Err(Stopped::Failed(error));
                }
                tracing::warn!(%error, "the swap is looked up");
                self.not_before = Instant::now() + error.pause().unwrap_or(FAILURE_PAUSE);
                Ok(None)
            }
        }
    }

    fn some_time(&self) -> Instant {
        Instant::now() + self.spread.mul_f64(rand::random())
    }

    async fn look_up(&self, basis: &KeyVersion, applicants: &[Applicant]) -> Result<Vec<Option<Existing>>, Error> {
        let look_ups = applicants.iter().map(|applicant| self.shared.on_record(basis, &self.name.namespace, applicant));
        try_join_all(look_ups).await
    }

    /// Answers, or has the machine wait for its Peer.
    fn settle(
        &mut self,
        key: &Arc<SetupKey>,
        sent: Option<Instant>,
        job: Job,
        verdict: Verdict,
        room: &mut OwnedSemaphorePermit,
    ) {
        let (shared, namespace) = (Arc::clone(&self.shared), self.name.namespace.clone());
        let name = PeerName::of(&job.applicant.public_key);
        match (verdict, sent) {
            (Verdict::Admitted, Some(sent)) => {
                let Some(entry) = key.pending().iter().find(|entry| entry.name == name.as_str()).cloned() else {
                    return;
                };
                self.under_way += 1;
                let committed = Committed { key: Arc::clone(key), entry, sent };
                let (this, room) = (self.this.clone(), room.split(1));
                self.shared.running.spawn(async move {
                    let peer = record(&shared, &committed).await;
                    drop(room);
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
            (Verdict::Not(Refusal::Busy), _) => {
                self.waiting.push_back(job);
                self.not_before = Instant::now() + FULL_PAUSE;
            }
            (Verdict::Not(refusal), _) => drop(job.reply.send(Outcome::Not(refusal))),
            // An admission that was not sent; `admit` returns a swap with each.
            (Verdict::Admitted, None) => drop(job.reply.send(Outcome::BUSY)),
        }
    }

    /// The key has gone, and its peers have stayed.
    fn answer_without_key(&self, job: Job) {
        let (shared, namespace) = (Arc::clone(&self.shared), self.name.namespace.clone());
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
        let pending: BTreeSet<_> = key.pending().iter().map(Use::of).collect();
        let (left, cleared) =
            std::mem::take(&mut self.recorded).into_iter().partition(|(entry, _)| pending.contains(entry));
        self.recorded = left;
        let cleared: BTreeMap<Use, Recorded> = cleared;
        for cleared in cleared.into_values() {
            if let Some(uid) = cleared.release {
                let (namespace, since) = (self.name.namespace.clone(), Instant::now());
                self.shared.releases.later(Cleared { namespace, name: cleared.name, uid, since });
            }
        }
    }
}

/// A Peer of that name may have come by another key, whose business its finalizer is.
fn recorded(committed: &Committed, peer: &Peer) -> Recorded {
    let ours = Some(&peer.spec.setup_key_ref.uid) == committed.key.uid().as_ref();
    Recorded {
        entry: Use::of(&committed.entry),
        name: committed.entry.name.clone(),
        committed: committed.sent,
        since: Instant::now(),
        release: peer.uid().filter(|_| ours),
    }
}

fn joined(peer: Peer, applicant: &Applicant, admitted: bool) -> Outcome {
    let peer = Some(Arc::new(CachedPeer::from(peer)));
    Outcome::by_token(peer, &applicant.token, admitted).unwrap_or(Outcome::Not(Refusal::Taken))
}

/// The answer to a machine that needs no key, if there is one.
async fn known(shared: &Admissions, namespace: &str, applicant: &Applicant) -> Outcome {
    let name = PeerName::of(&applicant.public_key);
    match shared.objects.peer(namespace, name.as_str()).await {
        Ok(peer) => {
            let peer = peer.map(|peer| Arc::new(CachedPeer::from(peer)));
            Outcome::by_token(peer, &applicant.token, false).unwrap_or(Outcome::Not(Refusal::Refused))
        }
        Err(_) => Outcome::BUSY,
    }
}
