//! One key: at most one swap at a time, for all machines that wait.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::future::try_join_all;
use kube::ResourceExt;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};

use super::{
    Admissions, Job, Outcome,
    create::{Committed, create},
    entries::{Clearable, Entries},
    limits::AHEAD,
    pace::{AfterFailure, Load, Pace},
    release::Held,
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

/// A task without work for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// How long the watch has to show the version that a swap was lost to. After that the key is read.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);

/// Swaps that a task sends before it ends, to clear what is left.
const LAST_SWAPS: u32 = 20;

/// What the task receives.
pub enum Message {
    /// A machine waits.
    Job(Job),
    /// The Peer of an entry that this task committed exists, or is left to the controller.
    Created(Option<Clearable>),
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
    creating: usize,
    entries: Entries,
    pace: Pace,
    /// The oldest version of the key that the next swap can be made on. Older ones have been swapped already.
    oldest: u64,
    /// Whether the outcome of the last swap is unknown.
    in_doubt: bool,
}

/// Why a round did not lead to a swap.
enum RoundError {
    /// The key was deleted.
    Gone,
    /// The API server did not answer.
    Failed(Error),
}

impl From<Error> for RoundError {
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
            creating: 0,
            entries: Entries::default(),
            pace: Pace::new(Instant::now()),
            oldest: 0,
            in_doubt: false,
        }
    }

    pub async fn run(mut self) {
        let (shared, mut last_swaps) = (Arc::clone(&self.shared), LAST_SWAPS);
        loop {
            let ending = shared.ending.is_cancelled();
            if ending && self.is_idle() && (self.entries.is_empty() || last_swaps == 0) {
                return;
            }
            let next = self.next();
            tokio::select! {
                biased;
                message = self.inbox.recv() => {
                    if let Some(message) = message {
                        self.take(message);
                    }
                }
                () = shared.ending.cancelled(), if !ending => continue,
                () = tokio::time::sleep_until(next.unwrap_or_else(|| Instant::now() + IDLE)) => {
                    if next.is_none() && self.is_retired() {
                        return;
                    }
                }
            }
            self.take_all();
            if self.next().is_some_and(|next| next <= Instant::now()) {
                last_swaps = last_swaps.saturating_sub((ending && self.is_idle()).into());
                self.round().await;
            }
        }
    }

    /// When the next swap is sent, or when to look again.
    fn next(&self) -> Option<Instant> {
        let mut load = self.load();
        if load.waiting > 0 {
            // A key that is not cached may have any room.
            let cached = self.shared.keys.get(&self.name, &self.uid, 0);
            load.places = cached.map_or(usize::MAX, |version| self.entries.places(version.key.pending()));
        }
        self.pace.next(&load, Instant::now())
    }

    /// All but the room in `pending`, which depends on the version of the key.
    fn load(&self) -> Load {
        Load {
            waiting: self.waiting.len(),
            creating: self.creating,
            places: usize::MAX,
            clearable_since: self.entries.clearable_since(),
            others_wait: *self.shared.machines.borrow() > 0,
            ending: self.shared.ending.is_cancelled() && self.is_idle(),
        }
    }

    /// Whether no machine waits and no Peer is being created.
    fn is_idle(&self) -> bool {
        self.inbox.is_empty() && self.waiting.is_empty() && self.creating == 0
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
            Message::Created(clearable) => {
                self.creating -= 1;
                clearable.into_iter().for_each(|entry| self.entries.add(entry));
            }
        }
    }

    /// Ends the task, unless a machine has come in this moment.
    fn is_retired(&mut self) -> bool {
        let mut tasks = self.shared.tasks.lock();
        let retired = self.is_idle() && self.entries.is_empty();
        if retired {
            tasks.remove(&self.uid);
        }
        retired
    }

    /// Decides on machines that wait, and clears what can be cleared, with one swap. If the swap is lost, machines that came
    /// meanwhile join the next.
    async fn round(&mut self) {
        let shared = Arc::clone(&self.shared);
        let version = self.version().await;
        let _turn = shared.in_flight.swap(self.load().late_from()).await;
        // As late as possible: machines that came while this task waited share the swap.
        self.take_all();
        let most = u32::try_from(self.waiting.len().min(BATCH)).unwrap_or_default();
        let Ok(mut room) = Arc::clone(&shared.in_flight.ahead).acquire_many_owned(most).await else { return };
        self.entries.forget_older(Instant::now(), shared.owner_time);
        // A machine that has given up must not be admitted without its knowledge.
        self.waiting.retain(|job| !job.reply.is_closed() && job.deadline > Instant::now());
        let decided = match version {
            Ok(version) => self.decide(self.newer(version), &mut room).await,
            Err(error) => Err(error),
        };
        match decided {
            Ok(()) => {}
            Err(RoundError::Gone) => {
                shared.keys.gone(&self.name, &self.uid);
                self.entries.clear();
                std::mem::take(&mut self.waiting).into_iter().for_each(|job| self.answer_without_key(job));
            }
            Err(RoundError::Failed(error)) => {
                tracing::warn!(%error, "cannot admit; answering 503 to waiting machines");
                self.waiting.drain(..).for_each(|job| drop(job.reply.send(Outcome::BUSY)));
                self.pace.pause_after_failure(Instant::now());
            }
        }
    }

    /// The newest known version of the key. If it was swapped already, the next one is waited for.
    async fn version(&mut self) -> Result<KeyVersion, RoundError> {
        if !std::mem::take(&mut self.in_doubt) {
            let shown = self.shared.keys.wait_for(&self.name, &self.uid, self.oldest);
            if let Ok(Some(version)) = tokio::time::timeout(SHOWN_WITHIN, shown).await {
                return Ok(version);
            }
        }
        match self.shared.api.key(&self.name).await? {
            Some(key) if key.uid().as_deref() == Some(&self.uid) => {
                Ok(KeyVersion { key: Arc::new(key), followed: false })
            }
            _ => Err(RoundError::Gone),
        }
    }

    /// The version that the watch has brought while this task waited for its turn.
    fn newer(&self, version: KeyVersion) -> KeyVersion {
        let shown = self.shared.keys.get(&self.name, &self.uid, self.oldest);
        shown.filter(|_| version.followed).unwrap_or(version)
    }

    async fn decide(&mut self, version: KeyVersion, room: &mut OwnedSemaphorePermit) -> Result<(), RoundError> {
        self.release_cleared(&version.key);
        // Look up only as many applicants as there is room for, but at least one: a known peer needs no room.
        let places = self.entries.places(version.key.pending()).max(1);
        let batch = self.waiting.len().min(room.num_permits()).min(places);
        let applicants: Vec<_> = self.waiting.iter().take(batch).map(|job| job.applicant.clone()).collect();
        // After the key was read: if an entry is no longer pending in it, its Peer exists by now.
        let existing = try_join_all(applicants.iter().map(|applicant| self.existing(&version, applicant))).await?;
        let judged: Vec<_> = applicants.iter().zip(existing).collect();
        let (swap, verdicts) = ledger::admit(&version.key, &judged, &self.entries.uses(), self.shared.clock.now());
        let (key, sent) = match swap {
            None => (version.key, None),
            Some(swap) => match self.swap(&version, swap).await? {
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

    /// The Peer under the name of a machine, after this version of the key was read. Most machines are new, and the caches
    /// show that they have none.
    async fn existing(&self, version: &KeyVersion, applicant: &Applicant) -> Result<Option<Existing>, Error> {
        let (shared, namespace) = (&self.shared, self.name.namespace.as_str());
        let name = PeerName::of(&applicant.public_key);
        if version.followed && shared.peers.has_none(namespace, name.as_str()) {
            return Ok(None);
        }
        let _turn = shared.in_flight.peer_requests.acquire().await;
        let found = shared.api.peer(namespace, name.as_str()).await?;
        Ok(found.as_ref().map(Existing::from))
    }

    /// Sends a swap. Returns the key as it is then, and when the swap was sent. `None` if the swap is to be tried again.
    async fn swap(&mut self, version: &KeyVersion, swap: Swap) -> Result<Option<(Arc<SetupKey>, Instant)>, RoundError> {
        let sent = Instant::now();
        let swapped = self.shared.api.swap(&version.key, swap).await;
        self.shared.metrics.swapped(&swapped);
        match swapped {
            Ok(Swapped::Done(key)) => {
                let key = Arc::new(stripped(*key));
                if version.followed {
                    self.shared.keys.written(&key);
                }
                self.oldest = version_of(&key);
                self.pace.won(sent, Instant::now(), rand::random());
                self.release_cleared(&key);
                Ok(Some((key, sent)))
            }
            Ok(Swapped::Gone) => Err(RoundError::Gone),
            Ok(Swapped::Lost) => {
                self.oldest = version_of(&version.key) + 1;
                self.pace.lost(sent, Instant::now(), rand::random());
                Ok(None)
            }
            // The key shows whether the swap was done: a machine that was admitted is pending in it, and not counted again.
            Err(error) => {
                self.in_doubt = true;
                match self.pace.failed(Instant::now(), error.pause()) {
                    AfterFailure::GiveUp => return Err(RoundError::Failed(error)),
                    AfterFailure::Again => {
                        tracing::warn!(%error, "status update: outcome unknown, reading the SetupKey again");
                    }
                }
                Ok(None)
            }
        }
    }

    /// Answers a machine, or makes it wait for its Peer.
    fn settle(
        &mut self,
        key: &Arc<SetupKey>,
        sent: Option<Instant>,
        job: Job,
        verdict: Verdict,
        room: &mut OwnedSemaphorePermit,
    ) {
        let (shared, namespace) = (Arc::clone(&self.shared), self.name.namespace.clone());
        match (verdict, sent) {
            (Verdict::Admitted, Some(sent)) => self.create(key, sent, job, room.split(1)),
            // Another process creates the Peer of an entry that it committed, or another job of this task does.
            (Verdict::Pending, _) => {
                self.shared.running.spawn(async move {
                    let outcome = Outcome::of_arrival(&shared.peers, &namespace, &job.applicant, job.deadline).await;
                    let _ = job.reply.send(outcome);
                });
            }
            (Verdict::Known, _) => self.answer_without_key(job),
            // There will be room soon.
            (Verdict::Not(Refusal::Busy), _) => {
                self.waiting.push_back(job);
                self.pace.full(Instant::now());
            }
            (Verdict::Not(refusal), _) => drop(job.reply.send(Outcome::Not(refusal))),
            // `admit` returns a swap with each admission.
            (Verdict::Admitted, None) => drop(job.reply.send(Outcome::BUSY)),
        }
    }

    /// Creates the Peer of a machine that a swap has admitted, and answers the machine.
    fn create(&mut self, key: &Arc<SetupKey>, sent: Instant, job: Job, room: Option<OwnedSemaphorePermit>) {
        let (shared, namespace) = (Arc::clone(&self.shared), self.name.namespace.clone());
        let name = PeerName::of(&job.applicant.public_key);
        let Some(entry) = key.pending().iter().find(|entry| entry.name == name.as_str()).cloned() else { return };
        self.creating += 1;
        let (this, committed) = (self.this.clone(), Committed { key: Arc::clone(key), entry, sent });
        self.shared.running.spawn(async move {
            let peer = create(&shared, &committed).await;
            drop(room);
            let clearable = peer.as_ref().map(|peer| clearable(&committed, peer));
            let _ = this.send(Message::Created(clearable)).await;
            let outcome = match peer {
                Some(peer) => Outcome::by_token(Some(Arc::new(CachedPeer::from(peer))), &job.applicant.token, true)
                    .unwrap_or(Outcome::Not(Refusal::Taken)),
                None => Outcome::of_arrival(&shared.peers, &namespace, &job.applicant, job.deadline).await,
            };
            let _ = job.reply.send(outcome);
        });
    }

    /// Answers a machine that may be a peer already, by its Peer alone.
    fn answer_without_key(&self, job: Job) {
        let (shared, namespace) = (Arc::clone(&self.shared), self.name.namespace.clone());
        self.shared.running.spawn(async move {
            let name = PeerName::of(&job.applicant.public_key);
            let outcome = match shared.api.peer(&namespace, name.as_str()).await {
                Ok(peer) => {
                    let peer = peer.map(|peer| Arc::new(CachedPeer::from(peer)));
                    Outcome::by_token(peer, &job.applicant.token, false).unwrap_or(Outcome::Not(Refusal::Refused))
                }
                Err(_) => Outcome::BUSY,
            };
            let _ = job.reply.send(outcome);
        });
    }

    /// Releases the Peers whose entries are not in this version, which is not older than the swap that committed them.
    fn release_cleared(&mut self, key: &SetupKey) {
        for cleared in self.entries.take_cleared(key.pending()) {
            if let Some(uid) = cleared.release {
                let (namespace, since) = (self.name.namespace.clone(), Instant::now());
                self.shared.releases.later(Held { namespace, name: cleared.name, uid, since });
            }
        }
    }
}

/// The entry of a Peer that exists. A Peer that was made from another key is not ours to release.
fn clearable(committed: &Committed, peer: &Peer) -> Clearable {
    let ours = Some(&peer.spec.setup_key_ref.uid) == committed.key.uid().as_ref();
    Clearable {
        used: Use::of(&committed.entry),
        name: committed.entry.name.clone(),
        committed: committed.sent,
        since: Instant::now(),
        release: peer.uid().filter(|_| ours),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_peer_is_released_only_if_it_was_made_from_this_key() {
        let mut key = SetupKey::new("office", serde_json::from_value(json!({})).unwrap());
        key.metadata.uid = Some("u".to_owned());
        let entry = serde_json::from_value(json!({
            "keyId": "id-1", "number": 1, "name": "peer-a", "publicKey": "", "hostname": "h",
            "tokenDigest": "", "since": "2026-11-24T06:00:00Z",
        }));
        let committed = Committed { key: Arc::new(key), entry: entry.unwrap(), sent: Instant::now() };
        let mut peer = Peer::from_entry(&committed.key, &committed.entry);
        peer.metadata.uid = Some("p".to_owned());
        assert_eq!(clearable(&committed, &peer).release.as_deref(), Some("p"));
        peer.spec.setup_key_ref.uid = "another".to_owned();
        assert_eq!(clearable(&committed, &peer).release, None);
    }
}
