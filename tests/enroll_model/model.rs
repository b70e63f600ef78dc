//! The protocol, one step of one participant at a time.
//!
//! The decisions are the product's own: [`ledger::admit`], [`ledger::clear`] and, in [`follow`](super::follow),
//! `Expected`, on real objects. The model around them does everything that may go wrong: a request is not answered, a
//! process dies, the key is revoked or deleted meanwhile, a machine asks again, and any process may be the fastest.

use std::{cell::LazyCell, collections::BTreeSet, sync::LazyLock};

use chrono::{DateTime, Utc};
use setupkey_operator::{
    api::{PendingPeer, SetupKey},
    key::{
        Digest, PeerName, PublicKey,
        ledger::{self, Applicant, Existing, Refusal, Swap, Use, Verdict},
    },
};
use stateright::{Model, Property};

use super::follow::{Event, Following};

/// The world to explore.
#[derive(Clone, Copy, Debug)]
pub struct Enrollment {
    pub replicas: usize,
    pub limit: u8,
    /// How often each machine asks. More than once is a retry with the same token, at any replica.
    pub asks: &'static [u8],
    /// How often a process dies, the leading controller included.
    pub crashes: u8,
    /// How often a write takes effect and its answer is lost.
    pub losses: u8,
    /// How often a user deletes a Peer.
    pub removals: u8,
    /// What a user does to the key, in this order, at any time.
    pub changes: &'static [Change],
    /// Whether a replica reads the key before it tries to create a Peer again. It may do either: the entry is its own.
    pub looks_again: bool,
    /// Whether replicas follow keys and Peers by watches, and may judge by these instead of a request.
    pub follows: bool,
    /// How often a watch is interrupted, or the key watch falls behind.
    pub interruptions: u8,
    pub mutant: Option<Mutant>,
}

/// What a user does to the key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Change {
    Revoke,
    Unrevoke,
    Delete,
}

/// A protocol that leaves something out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mutant {
    /// The controller gives back the use of an orphaned entry.
    Refund,
    /// The status is written without a version check.
    NoCompareAndSwap,
    /// A Peer has no finalizer.
    NoFinalizer,
    /// A replica looks for the Peers of applicants before it reads the key.
    PeersBeforeKey,
    /// A replica admits every machine whose key is not revoked, and ignores the limit.
    OwnerWithoutLimit,
    /// A machine gets its answer when it is counted, before its Peer exists.
    AnswerWithTheSwap,
    /// An entry belongs to its owner for ever.
    NothingRollsForward,
    /// A replica creates Peers for as long as it lives.
    OwnerWithoutEnd,
    /// A replica clears entries for as long as it lives.
    ClearWithoutEnd,
    /// A Peer that is being deleted is released at once when its key is gone.
    ReleasedWithTheKey,
    /// Entries are cleared by the name of the machine, not by their number.
    ClearByName,
    /// Any Peer of that name is released, also a later one.
    ReleaseByName,
    /// The cached Peers are trusted, whatever is expected.
    NothingExpected,
    /// An expectation is met by every event of a Peer with that name, also of an earlier one.
    MetByAnyEvent,
    /// The cached Peers are trusted although the keys were re-listed.
    TrustedAfterInterruption,
    /// A list of Peers that began before the keys were listed restores trust.
    ListBegunBefore,
    /// A list of Peers meets all expectations, also those of entries that are still pending.
    PendingMetByList,
    /// The cached Peers are trusted for a key that was read and not followed.
    ViewWithoutFollowing,
}

/// A state of the world. Replicas are sorted, because it does not matter which is which.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct World {
    key: Option<Key>,
    peers: Vec<Option<Peer>>,
    replicas: Vec<Replica>,
    leader: Leader,
    asks: Vec<u8>,
    crashes: u8,
    losses: u8,
    removals: u8,
    interruptions: u8,
    changed: usize,
    history: History,
}

/// The ledger in the status of the `SetupKey`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    revoked: bool,
    used: u8,
    pub pending: Vec<Entry>,
}

/// An entry. `commit` tells commits apart for the promises; real entries do not have it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    pub machine: u8,
    pub number: u8,
    commit: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Peer {
    commit: u8,
    /// The number of its entry.
    pub number: u8,
    finalizer: bool,
    leaving: bool,
}

#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Replica {
    /// Machines that wait to be judged.
    waiting: BTreeSet<u8>,
    judging: Option<Judging>,
    /// Entries that the replica has committed itself.
    owned: Vec<Owned>,
    /// What it knows from its watches, if it follows any.
    following: Option<Following>,
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Judging {
    batch: Vec<u8>,
    version: Option<Version>,
    /// For each machine of the batch: no Peer, or a Peer and whether it is leaving.
    found: Option<Vec<Option<bool>>>,
}

/// The key as it was read.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Version {
    key: Key,
    /// Whether that is still the version at the API server.
    fresh: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Owned {
    entry: Entry,
    stage: Stage,
}

/// The next step of an owner for its entry.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Stage {
    /// Create the Peer.
    Post,
    /// Read the key again, because the answer to the creation was lost.
    Ask,
    /// Clear the entry.
    Clear,
    /// Release the Peer.
    Release,
}

/// The leading controller.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Leader {
    Idle,
    /// Read the key, with an old entry that no replica owns.
    Orphan(Entry, Version),
    /// Created its Peer.
    Created(Entry, Version),
    /// Found that this Peer is no longer pending.
    Releasing {
        machine: u8,
        commit: u8,
    },
}

/// The history that the promises are about. No process keeps it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct History {
    most_used: u8,
    /// How often the Peer of each commit was created.
    created: Vec<u8>,
    /// Whether each machine has ever had a Peer.
    has_had: Vec<bool>,
    admitted_too_late: bool,
    answered_too_early: bool,
    refused: bool,
    rolled_forward: bool,
}

/// A step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    Asks { machine: u8, replica: usize },
    Changes,
    PeerIsDeleted { machine: u8 },
    Crashes { replica: usize },
    LeaderCrashes,
    ReadsKey { replica: usize },
    LooksForPeers { replica: usize },
    LooksAtView { replica: usize },
    Swaps { replica: usize, reply: Reply },
    CreatesPeer { replica: usize, place: usize, reply: Reply },
    AsksAgain { replica: usize, place: usize },
    RunsOutOfTime { replica: usize, place: usize },
    Releases { replica: usize, place: usize },
    LeaderReadsKey { machine: u8 },
    LeaderCreatesPeer { reply: Reply },
    LeaderClears { reply: Reply },
    LeaderFindsReleasable { machine: u8 },
    LeaderReleases,
    HearsOfPeer { replica: usize, machine: u8 },
    FallsBehind { replica: usize },
    CatchesUp { replica: usize },
    ListsKeys { replica: usize },
    BeginsToListPeers { replica: usize },
    HasListedPeers { replica: usize },
}

/// Whether the answer to a write arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply {
    Heard,
    Lost,
}

fn public_key(machine: u8) -> PublicKey {
    PublicKey::from_bytes([machine; 32])
}

fn moment() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_500_000, 0).expect("a moment")
}

/// Each machine as it asks to join.
static APPLICANTS: LazyLock<Vec<Applicant>> = LazyLock::new(|| {
    let applicant = |machine: u8| Applicant {
        key: Digest::of("key"),
        public_key: public_key(machine),
        hostname: "h".to_owned(),
        extra_dns_labels: Vec::new(),
        token: Digest::of(["a", "b", "c", "d"][usize::from(machine)]),
    };
    (0..MACHINES).map(applicant).collect()
});

/// The public id, the namespace and the UID of the key.
const ID: &str = "0123456789abcdefghij";
pub const NAMESPACE: &str = "n";
pub const UID: &str = "u";

/// Machines in a world, at most.
pub const MACHINES: u8 = 4;

/// The use of the key with this number.
pub fn used(number: u8) -> Use {
    Use { key_id: ID.to_owned(), number: number.into() }
}

fn token(machine: u8) -> Digest {
    APPLICANTS[usize::from(machine)].token.clone()
}

/// The entry of each machine, with number 0.
static ENTRIES: LazyLock<Vec<PendingPeer>> = LazyLock::new(|| {
    let entry = |machine| PendingPeer {
        key_id: ID.to_owned(),
        number: 0,
        name: PeerName::of(&public_key(machine)).to_string(),
        public_key: public_key(machine).to_string(),
        hostname: "h".to_owned(),
        extra_dns_labels: Vec::new(),
        token_digest: token(machine).to_string(),
        since: moment().into(),
    };
    (0..MACHINES).map(entry).collect()
});

/// The name of a machine's Peer.
pub fn name_of(machine: u8) -> &'static str {
    &ENTRIES[usize::from(machine)].name
}

/// The key with nothing pending and no limit.
static UNUSED: LazyLock<SetupKey> = LazyLock::new(|| {
    let mut key = SetupKey::new("k", serde_json::from_value(serde_json::json!({})).expect("a spec"));
    key.metadata.namespace = Some(NAMESPACE.to_owned());
    key.metadata.uid = Some(UID.to_owned());
    let status = key.status.get_or_insert_default();
    status.id = Some(ID.to_owned());
    status.digest = Some(Digest::of("key").to_string());
    status.expires = Some(moment().into());
    key
});

impl Key {
    /// A version with these entries. Nothing else of it matters.
    pub fn with_pending(pending: Vec<Entry>) -> Self {
        Self { revoked: false, used: 0, pending }
    }

    /// The object as the API server would return it.
    pub fn object(&self, limit: u8) -> SetupKey {
        let mut key = UNUSED.clone();
        key.spec.usage_limit = limit.into();
        key.spec.revoked = self.revoked;
        let status = key.status.get_or_insert_default();
        status.used_times = self.used.into();
        let entry =
            |entry: &Entry| PendingPeer { number: entry.number.into(), ..ENTRIES[usize::from(entry.machine)].clone() };
        status.pending = self.pending.iter().map(entry).collect();
        key
    }

    /// The entry of a machine.
    pub fn entry_of(&self, machine: u8) -> Option<Entry> {
        self.pending.iter().find(|entry| entry.machine == machine).copied()
    }
}

impl Replica {
    /// A replica that has just started.
    fn started(follows: bool) -> Self {
        Self { following: follows.then(Following::started), ..Self::default() }
    }

    /// Whether a machine waits here, or is being judged.
    fn has(&self, machine: u8) -> bool {
        self.waiting.contains(&machine) || self.judging.as_ref().is_some_and(|judging| judging.batch.contains(&machine))
    }
}

impl World {
    fn spend(&mut self, reply: Reply) {
        self.losses -= u8::from(reply == Reply::Lost);
    }

    /// Every version that was read before is stale now.
    fn key_changed(&mut self) {
        let judged = self.replicas.iter_mut().filter_map(|replica| replica.judging.as_mut()?.version.as_mut());
        judged.for_each(|version| version.fresh = false);
        if let Leader::Orphan(_, version) | Leader::Created(_, version) = &mut self.leader {
            version.fresh = false;
        }
        if let Some(key) = &self.key {
            self.history.most_used = self.history.most_used.max(key.used);
        }
    }

    /// Writes a swap that was computed from `version`.
    fn write(&mut self, version: &Key, swap: &Swap) {
        let machines = 0..u8::try_from(self.peers.len()).expect("few machines");
        let machine_of = |name: &str| machines.clone().find(|machine| name_of(*machine) == name).expect("a machine");
        let (mut pending, mut new) = (Vec::new(), Vec::new());
        for written in &swap.pending {
            let machine = machine_of(&written.name);
            let known = version.entry_of(machine).filter(|known| i64::from(known.number) == written.number);
            pending.push(known.unwrap_or_else(|| {
                self.history.created.push(0);
                let commit = u8::try_from(self.history.created.len() - 1).expect("few commits");
                let entry = Entry { machine, number: u8::try_from(written.number).expect("few uses"), commit };
                new.push(entry);
                entry
            }));
        }
        let key = self.key.as_mut().expect("a key to write");
        key.used = u8::try_from(swap.used_times).expect("few uses");
        key.pending = pending;
        let object = LazyCell::new(|| key.object(0));
        let replicas = self.replicas.iter_mut().flat_map(|replica| &mut replica.following);
        replicas.for_each(|known| known.key_written(&object, &new));
        self.key_changed();
    }

    fn create_peer(&mut self, entry: Entry, finalizer: bool) {
        let peer = &mut self.peers[usize::from(entry.machine)];
        if peer.is_none() {
            *peer = Some(Peer { commit: entry.commit, number: entry.number, finalizer, leaving: false });
            self.history.created[usize::from(entry.commit)] += 1;
            self.history.has_had[usize::from(entry.machine)] = true;
            self.peer_changed(entry.machine, Event::Applied(entry.number));
        }
    }

    fn delete_peer(&mut self, machine: u8) -> Option<()> {
        let place = &mut self.peers[usize::from(machine)];
        let peer = place.as_mut()?;
        let event = if peer.finalizer { Event::Applied(peer.number) } else { Event::Deleted(peer.number) };
        peer.leaving = true;
        if !peer.finalizer {
            *place = None;
        }
        self.peer_changed(machine, event);
        Some(())
    }

    /// Every Peer watch will deliver the event.
    fn peer_changed(&mut self, machine: u8, event: Event) {
        self.replicas
            .iter_mut()
            .flat_map(|replica| &mut replica.following)
            .for_each(|known| known.happens(machine, event));
    }

    fn answer(&mut self, machine: u8) {
        self.history.answered_too_early |= !self.history.has_had[usize::from(machine)];
    }

    /// Releases the Peer of this commit, but no later Peer with its name.
    fn release(&mut self, machine: u8, commit: u8, mutant: Option<Mutant>) {
        let place = &mut self.peers[usize::from(machine)];
        let Some(peer) = place else { return };
        if !peer.finalizer || (peer.commit != commit && mutant != Some(Mutant::ReleaseByName)) {
            return;
        }
        let event = if peer.leaving { Event::Deleted(peer.number) } else { Event::Applied(peer.number) };
        peer.finalizer = false;
        if peer.leaving {
            *place = None;
        }
        self.peer_changed(machine, event);
    }

    /// The machines that are about to be looked up and are not pending, each with the knowledge of its replica.
    fn looked_for(&self) -> impl Iterator<Item = (u8, &Following)> {
        self.replicas.iter().flat_map(|replica| match (&replica.judging, &replica.following) {
            (Some(Judging { batch, version: Some(version), found: None }), Some(known)) if version.fresh => {
                let machines = batch.iter().filter(|machine| version.key.entry_of(**machine).is_none());
                machines.map(|machine| (*machine, known)).collect()
            }
            _ => Vec::new(),
        })
    }

    /// Whether a machine may have to be judged by this replica.
    fn may_come(&self, machine: u8, replica: &Replica) -> bool {
        self.asks[usize::from(machine)] > 0 || replica.has(machine)
    }

    /// What a replica knows does not matter for machines that will not ask it any more.
    fn forget(&mut self) {
        let all = u8::try_from(self.asks.len()).expect("few machines");
        for at in 0..self.replicas.len() {
            let kept = (0..all).filter(|machine| self.may_come(*machine, &self.replicas[at])).collect();
            if let Some(known) = &mut self.replicas[at].following {
                known.keep(&kept, all);
            }
        }
    }

    /// Whether some replica may still act on an entry, as far as the leader respects that.
    fn is_owned(&self, machine: u8, mutant: Option<Mutant>) -> bool {
        let owned = self.replicas.iter().flat_map(|replica| &replica.owned);
        owned.into_iter().any(|owned| {
            owned.entry.machine == machine
                && match owned.stage {
                    Stage::Post | Stage::Ask => mutant != Some(Mutant::OwnerWithoutEnd),
                    Stage::Clear => mutant != Some(Mutant::ClearWithoutEnd),
                    Stage::Release => false,
                }
        })
    }
}

impl Enrollment {
    /// A replica that started before everything else.
    fn replica(&self) -> Replica {
        Replica { following: self.follows.then(Following::up_to_date), ..Replica::default() }
    }

    fn machines(&self) -> std::ops::Range<u8> {
        0..u8::try_from(self.asks.len()).expect("few machines")
    }

    /// A replica's swap, computed by the product from what the replica knows.
    fn judge(&self, replica: &Replica) -> Option<(Option<Swap>, Vec<Verdict>, Vec<Entry>)> {
        let Judging { batch, version: Some(version), found: Some(found) } = replica.judging.as_ref()? else {
            return None;
        };
        let applicants: Vec<_> = batch.iter().map(|machine| &APPLICANTS[usize::from(*machine)]).collect();
        let found = batch
            .iter()
            .zip(found)
            .map(|(machine, leaving)| leaving.map(|leaving| Existing { token: token(*machine), leaving }));
        let judged: Vec<_> = applicants.into_iter().zip(found).collect();
        let clearable = replica.owned.iter().filter(|owned| owned.stage == Stage::Clear).map(|owned| owned.entry);
        let clearable: Vec<_> = clearable.collect();
        let number = |entry: &Entry| match self.mutant {
            Some(Mutant::ClearByName) => version.key.entry_of(entry.machine).map_or(0, |entry| entry.number),
            _ => entry.number,
        };
        let numbers = clearable.iter().map(|entry| used(number(entry))).collect();
        let limit = if self.mutant == Some(Mutant::OwnerWithoutLimit) { 0 } else { self.limit };
        let (swap, verdicts) = ledger::admit(&version.key.object(limit), &judged, &numbers, moment());
        Some((swap, verdicts, clearable))
    }

    fn swap(&self, world: &mut World, at: usize, reply: Reply) -> Option<()> {
        let (swap, verdicts, clearable) = self.judge(&world.replicas[at])?;
        let Judging { batch, version, .. } = world.replicas[at].judging.take()?;
        let version = version?;
        if swap.is_none() && reply == Reply::Lost {
            return None; // nothing is sent
        }
        if let Some(swap) = swap {
            let current = world.key.clone();
            let Some(current) = current else {
                // 404: the key is gone, and all are refused.
                return (reply == Reply::Heard).then_some(());
            };
            if !version.fresh && self.mutant != Some(Mutant::NoCompareAndSwap) {
                world.replicas[at].waiting.extend(batch); // 409
                return (reply == Reply::Heard).then_some(());
            }
            world.spend(reply);
            world.history.admitted_too_late |= current.revoked && verdicts.contains(&Verdict::Admitted);
            world.write(&version.key, &swap);
            if reply == Reply::Lost {
                world.replicas[at].waiting.extend(batch);
                return Some(());
            }
            let written = world.key.clone()?;
            let replica = &mut world.replicas[at];
            for owned in replica.owned.iter_mut().filter(|owned| clearable.contains(&owned.entry)) {
                owned.stage = Stage::Release;
            }
            let admitted = batch.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Admitted);
            let entries = admitted.filter_map(|(machine, _)| written.entry_of(*machine));
            replica.owned.extend(entries.map(|entry| Owned { entry, stage: Stage::Post }));
            replica.owned.sort();
        }
        for (machine, verdict) in batch.iter().zip(&verdicts) {
            match verdict {
                Verdict::Known => world.answer(*machine),
                Verdict::Admitted if self.mutant == Some(Mutant::AnswerWithTheSwap) => world.answer(*machine),
                Verdict::Not(Refusal::Refused) => world.history.refused = true,
                // The answer to an admission comes later; the other machines get a 503 and ask again.
                Verdict::Admitted | Verdict::Pending | Verdict::Not(_) => {}
            }
        }
        Some(())
    }

    fn replica_creates(&self, world: &mut World, at: usize, place: usize, reply: Reply) {
        let entry = world.replicas[at].owned[place].entry;
        world.create_peer(entry, self.mutant != Some(Mutant::NoFinalizer));
        world.spend(reply);
        world.replicas[at].owned[place].stage = match reply {
            Reply::Heard => Stage::Clear,
            Reply::Lost if self.looks_again => Stage::Ask,
            Reply::Lost => Stage::Post,
        };
        if reply == Reply::Heard {
            world.answer(entry.machine);
        }
    }

    fn leader_clears(&self, world: &mut World, reply: Reply) -> Option<()> {
        let Leader::Created(entry, version) = std::mem::replace(&mut world.leader, Leader::Idle) else { return None };
        let applies = world.key.is_some() && (version.fresh || self.mutant == Some(Mutant::NoCompareAndSwap));
        if !applies {
            return (reply == Reply::Heard).then_some(());
        }
        let mut swap = ledger::clear(&version.key.object(self.limit), &[used(entry.number)].into())?;
        if self.mutant == Some(Mutant::Refund) {
            swap.used_times -= 1;
        }
        world.spend(reply);
        world.write(&version.key, &swap);
        Some(())
    }

    /// What the participants do by themselves.
    fn progress(&self, world: &World, steps: &mut Vec<Step>) {
        let replies: &[Reply] = if world.losses > 0 { &[Reply::Heard, Reply::Lost] } else { &[Reply::Heard] };
        for (replica, state) in world.replicas.iter().enumerate() {
            match &state.judging {
                None => {
                    let to_clear = state.owned.iter().any(|owned| owned.stage == Stage::Clear);
                    let (reads, looks) = (Step::ReadsKey { replica }, Step::LooksForPeers { replica });
                    if !state.waiting.is_empty() || (to_clear && world.key.is_some()) {
                        steps.push(if self.mutant == Some(Mutant::PeersBeforeKey) { looks } else { reads });
                    }
                }
                Some(Judging { version: None, .. }) => steps.push(Step::ReadsKey { replica }),
                Some(Judging { found: None, batch, .. }) => {
                    steps.push(Step::LooksForPeers { replica });
                    let known = state.following.as_ref();
                    let knows_no_peer =
                        |machine: &u8| known.is_some_and(|known| known.knows_no_peer(*machine, self.mutant));
                    if batch.iter().any(knows_no_peer) {
                        steps.push(Step::LooksAtView { replica });
                    }
                }
                Some(_) => steps.extend(replies.iter().map(|reply| Step::Swaps { replica, reply: *reply })),
            }
            for (place, owned) in state.owned.iter().enumerate() {
                match owned.stage {
                    Stage::Post => {
                        steps.extend(replies.iter().map(|reply| Step::CreatesPeer { replica, place, reply: *reply }))
                    }
                    Stage::Ask => steps.push(Step::AsksAgain { replica, place }),
                    Stage::Clear => {}
                    Stage::Release => steps.push(Step::Releases { replica, place }),
                }
                if owned.stage != Stage::Release {
                    steps.push(Step::RunsOutOfTime { replica, place });
                }
            }
        }
        match &world.leader {
            Leader::Idle => {
                for machine in self.machines() {
                    let pending = world.key.as_ref().and_then(|key| key.entry_of(machine));
                    let owned = world.is_owned(machine, self.mutant);
                    if pending.is_some() && !owned && self.mutant != Some(Mutant::NothingRollsForward) {
                        steps.push(Step::LeaderReadsKey { machine });
                    }
                    let Some(peer) = world.peers[usize::from(machine)] else { continue };
                    let at_once = peer.leaving && self.mutant == Some(Mutant::ReleasedWithTheKey);
                    if peer.finalizer && pending.is_none() && (world.key.is_some() || !owned || at_once) {
                        steps.push(Step::LeaderFindsReleasable { machine });
                    }
                }
            }
            Leader::Orphan(..) => steps.extend(replies.iter().map(|reply| Step::LeaderCreatesPeer { reply: *reply })),
            Leader::Created(..) => steps.extend(replies.iter().map(|reply| Step::LeaderClears { reply: *reply })),
            Leader::Releasing { .. } => steps.push(Step::LeaderReleases),
        }
    }

    /// The steps of the watches.
    fn follow(&self, world: &World, steps: &mut Vec<Step>) {
        for (replica, state) in world.replicas.iter().enumerate() {
            let Some(known) = &state.following else { continue };
            if !self.machines().any(|machine| world.may_come(machine, state)) {
                continue; // its knowledge does not matter
            }
            steps.extend(known.to_hear_of().map(|machine| Step::HearsOfPeer { replica, machine }));
            if known.is_up_to_date() && world.interruptions > 0 {
                steps.push(Step::FallsBehind { replica });
            }
            if known.can_catch_up() {
                steps.push(Step::CatchesUp { replica });
            }
            if !known.is_up_to_date() {
                steps.push(Step::ListsKeys { replica });
            }
            if !known.is_watching() {
                steps.push(Step::HasListedPeers { replica });
            } else if known.wants_list() || world.interruptions > 0 {
                steps.push(Step::BeginsToListPeers { replica });
            }
        }
    }

    /// What happens to the participants from outside.
    fn fate(&self, world: &World, steps: &mut Vec<Step>) {
        for machine in self.machines() {
            if world.asks[usize::from(machine)] > 0 {
                let free = (0..self.replicas).filter(|replica| !world.replicas[*replica].waiting.contains(&machine));
                steps.extend(free.map(|replica| Step::Asks { machine, replica }));
            }
            if world.removals > 0 && world.peers[usize::from(machine)].is_some_and(|peer| !peer.leaving) {
                steps.push(Step::PeerIsDeleted { machine });
            }
        }
        if world.changed < self.changes.len() {
            steps.push(Step::Changes);
        }
        if world.crashes > 0 {
            let started = [Replica::started(self.follows), self.replica()];
            let alive = (0..self.replicas).filter(|replica| !started.contains(&world.replicas[*replica]));
            steps.extend(alive.map(|replica| Step::Crashes { replica }));
            if world.leader != Leader::Idle {
                steps.push(Step::LeaderCrashes);
            }
        }
    }

    fn take(&self, world: &mut World, step: Step) -> Option<()> {
        match step {
            Step::Asks { machine, replica } => {
                world.asks[usize::from(machine)] -= 1;
                world.replicas[replica].waiting.insert(machine);
            }
            Step::Changes => {
                match (self.changes[world.changed], &mut world.key) {
                    (Change::Revoke, Some(key)) => key.revoked = true,
                    (Change::Unrevoke, Some(key)) => key.revoked = false,
                    (Change::Delete, key) => {
                        *key = None;
                        let replicas = world.replicas.iter_mut().flat_map(|replica| &mut replica.following);
                        replicas.for_each(Following::key_deleted);
                    }
                    _ => return None,
                }
                world.changed += 1;
                world.key_changed();
            }
            Step::PeerIsDeleted { machine } => {
                world.removals -= 1;
                world.delete_peer(machine)?;
            }
            Step::Crashes { replica } => {
                world.crashes -= 1;
                world.replicas[replica] = Replica::started(self.follows);
            }
            Step::LeaderCrashes => {
                world.crashes -= 1;
                world.leader = Leader::Idle;
            }
            Step::ReadsKey { replica } => {
                let key = world.key.clone();
                let state = &mut world.replicas[replica];
                let Some(key) = key else {
                    // Unknown keys are refused.
                    state.judging = None;
                    world.history.refused |= !state.waiting.is_empty();
                    state.waiting.clear();
                    return Some(());
                };
                let version = Some(Version { key, fresh: true });
                match &mut state.judging {
                    Some(judging) => judging.version = version,
                    None => {
                        let batch = std::mem::take(&mut state.waiting).into_iter().collect();
                        state.judging = Some(Judging { batch, version, found: None });
                    }
                }
            }
            Step::LooksForPeers { replica } | Step::LooksAtView { replica } => {
                let state = &mut world.replicas[replica];
                let judging = state.judging.get_or_insert_with(|| Judging {
                    batch: std::mem::take(&mut state.waiting).into_iter().collect(),
                    version: None,
                    found: None,
                });
                let view = state.following.as_ref().filter(|_| step == Step::LooksAtView { replica });
                let found = judging.batch.iter().map(|machine| {
                    let asked = view.is_none_or(|view| !view.knows_no_peer(*machine, self.mutant));
                    world.peers[usize::from(*machine)].filter(|_| asked).map(|peer| peer.leaving)
                });
                judging.found = Some(found.collect());
            }
            Step::Swaps { replica, reply } => self.swap(world, replica, reply)?,
            Step::CreatesPeer { replica, place, reply } => self.replica_creates(world, replica, place, reply),
            Step::AsksAgain { replica, place } => {
                let owned = &mut world.replicas[replica].owned;
                let entry = owned[place].entry;
                if world.key.as_ref().is_some_and(|key| key.pending.contains(&entry)) {
                    owned[place].stage = Stage::Post;
                } else {
                    owned.remove(place);
                }
            }
            Step::RunsOutOfTime { replica, place } => {
                let owned = &mut world.replicas[replica].owned;
                owned.remove(place);
            }
            Step::Releases { replica, place } => {
                let entry = world.replicas[replica].owned.remove(place).entry;
                world.release(entry.machine, entry.commit, self.mutant);
            }
            Step::LeaderReadsKey { machine } => {
                let key = world.key.clone()?;
                world.leader = Leader::Orphan(key.entry_of(machine)?, Version { key, fresh: true });
            }
            Step::LeaderCreatesPeer { reply } => {
                let Leader::Orphan(entry, version) = world.leader.clone() else { return None };
                if self.mutant != Some(Mutant::Refund) {
                    world.create_peer(entry, self.mutant != Some(Mutant::NoFinalizer));
                }
                world.spend(reply);
                world.history.rolled_forward = true;
                world.leader = match reply {
                    Reply::Heard => Leader::Created(entry, version),
                    Reply::Lost => Leader::Idle,
                };
            }
            Step::LeaderClears { reply } => self.leader_clears(world, reply)?,
            Step::LeaderFindsReleasable { machine } => {
                let peer = world.peers[usize::from(machine)]?;
                world.leader = Leader::Releasing { machine, commit: peer.commit };
            }
            Step::LeaderReleases => {
                let leader = std::mem::replace(&mut world.leader, Leader::Idle);
                let Leader::Releasing { machine, commit } = leader else { return None };
                world.release(machine, commit, self.mutant);
            }
            Step::HearsOfPeer { replica, machine } => {
                world.replicas[replica].following.as_mut()?.hear_of(machine, self.mutant)?;
            }
            Step::FallsBehind { replica } => {
                world.interruptions -= 1;
                world.replicas[replica].following.as_mut()?.fall_behind();
            }
            Step::CatchesUp { replica } => world.replicas[replica].following.as_mut()?.catch_up(world.key.as_ref()),
            Step::ListsKeys { replica } => {
                world.replicas[replica].following.as_mut()?.list_keys(world.key.as_ref(), self.mutant);
            }
            Step::BeginsToListPeers { replica } => {
                let known = world.replicas[replica].following.as_mut()?;
                world.interruptions -= u8::from(!known.wants_list());
                known.begin_list(&world.peers);
            }
            Step::HasListedPeers { replica } => {
                world.replicas[replica].following.as_mut()?.complete_list(self.mutant)?;
            }
        }
        Some(())
    }
}

pub const LIMIT: &str = "never more uses than the limit";
pub const ONE_USE_PER_PEER: &str = "one use for each peer ever admitted";
pub const NEVER_DOWN: &str = "uses never go down";
pub const REVOKED_IS_REVOKED: &str = "no machine is admitted once a revocation has returned";
pub const GONE_IS_GONE: &str = "a peer that was deleted is not created again";
pub const ANSWERED_HAS_PEER: &str = "a machine that is answered has had a Peer";
pub const PENDING_EMPTIES: &str = "when all is done, nothing is pending and no Peer is held";

/// What must happen somewhere in every set of worlds that is worth exploring.
pub const SIGHTS: [&str; 5] = [
    "a machine is refused",
    "an entry is rolled forward",
    "a peer is held back from leaving",
    "a machine is let through unasked",
    "a machine is looked up because its Peer is expected",
];

impl Model for Enrollment {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            key: Some(Key { revoked: false, used: 0, pending: Vec::new() }),
            peers: vec![None; self.asks.len()],
            replicas: vec![self.replica(); self.replicas],
            leader: Leader::Idle,
            asks: self.asks.to_vec(),
            crashes: self.crashes,
            losses: self.losses,
            removals: self.removals,
            interruptions: self.interruptions,
            changed: 0,
            history: History { has_had: vec![false; self.asks.len()], ..History::default() },
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.progress(world, steps);
        self.follow(world, steps);
        self.fate(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step)?;
        next.forget();
        next.replicas.sort();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LIMIT, |model: &Self, world: &World| {
                world.key.as_ref().is_none_or(|key| key.used <= model.limit)
            }),
            Property::always(ONE_USE_PER_PEER, |_, world: &World| {
                let Some(key) = &world.key else { return true };
                let created = &world.history.created;
                let pending = |commit: usize| key.pending.iter().any(|entry| usize::from(entry.commit) == commit);
                let peers = (0..created.len()).filter(|commit| created[*commit] > 0 || pending(*commit));
                usize::from(key.used) == peers.count()
            }),
            Property::always(NEVER_DOWN, |_, world: &World| {
                world.key.as_ref().is_none_or(|key| key.used >= world.history.most_used)
            }),
            Property::always(REVOKED_IS_REVOKED, |_, world: &World| !world.history.admitted_too_late),
            Property::always(GONE_IS_GONE, |_, world: &World| world.history.created.iter().all(|times| *times <= 1)),
            Property::always(ANSWERED_HAS_PEER, |_, world: &World| !world.history.answered_too_early),
            Property::always(PENDING_EMPTIES, |model: &Self, world: &World| {
                let held = world.key.as_ref().is_some_and(|key| !key.pending.is_empty())
                    || world.peers.iter().flatten().any(|peer| peer.finalizer);
                let mut steps = Vec::new();
                if held {
                    model.progress(world, &mut steps);
                }
                !held || !steps.is_empty()
            }),
            Property::sometimes(SIGHTS[0], |_, world: &World| world.history.refused),
            Property::sometimes(SIGHTS[1], |_, world: &World| world.history.rolled_forward),
            Property::sometimes(SIGHTS[2], |_, world: &World| world.peers.iter().flatten().any(|peer| peer.leaving)),
            Property::sometimes(SIGHTS[3], |_, world: &World| {
                world.looked_for().any(|(machine, known)| known.knows_no_peer(machine, None))
            }),
            Property::sometimes(SIGHTS[4], |_, world: &World| {
                world.looked_for().any(|(machine, known)| {
                    let overlooked = !known.shows(machine) && world.peers[usize::from(machine)].is_some();
                    known.trusts_view(None) && known.expects(machine) && overlooked
                })
            }),
        ]
    }
}
