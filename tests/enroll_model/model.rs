//! The protocol, one step of one participant at a time.
//!
//! The decisions are the product's own: [`ledger::admit`], [`ledger::clear`] and, in [`follow`](super::follow),
//! `Expected`, on real objects. The model around them does everything that may go wrong: a request is not answered, a
//! process dies, the key is revoked, rotated or deleted meanwhile, a machine asks again, and any process may be the
//! fastest.

use std::{cell::LazyCell, collections::BTreeSet, sync::LazyLock};

use chrono::{DateTime, TimeDelta, Utc};
use setupkey_operator::{
    api::{PendingPeer, PreviousKey, SetupKey},
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
    /// How often the API server forgets which Peers there were.
    pub compactions: u8,
    /// Whether the controller rotates the key once, at any time. The replaced key ends at any time after that, and machines
    /// present either key.
    pub rotates: bool,
    pub mutant: Option<Mutant>,
}

/// What a user does to the key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Change {
    Revoke,
    Unrevoke,
    Delete,
}

/// What a process does about an entry if the API server has forgotten whether it ever had a Peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Forgotten {
    /// It creates the Peer.
    Creates,
    /// It clears the entry.
    Clears,
    /// It leaves the entry.
    Leaves,
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
    /// A Peer has no finalizer. A process that creates a Peer, other than at the first attempt of a replica, reads the API
    /// server's history from the commit of the entry on, and creates none if there has been one.
    History(Forgotten),
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
    /// Entries are cleared by their number, whichever key was used.
    NumberWithoutId,
    /// The uses of a replaced key are not counted.
    ReplacedNotCounted,
    /// The uses of a replaced key are counted on the current one, up to that one's limit.
    ReplacedCountedOnCurrent,
    /// A replaced key admits machines for as long as it is in the status.
    ReplacedWithoutEnd,
    /// A replaced key is not revoked with the current one.
    ReplacedOutlivesRevocation,
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
    compactions: u8,
    /// The API server's history begins after so many commits.
    compacted: u8,
    changed: usize,
    /// Whether the time has come at which the replaced key ends.
    replaced_has_ended: bool,
    history: History,
}

/// The ledger in the status of the `SetupKey`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    revoked: bool,
    /// 0 until the rotation, and 1 after it.
    revision: u8,
    /// The uses of the current revision.
    used: u8,
    /// The uses of the replaced key, while it is in the status.
    replaced: Option<u8>,
    pub pending: Vec<Entry>,
}

/// A use of a revision.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Used {
    revision: u8,
    number: u8,
}

/// A machine that asks to join, and the revision of the key that it presents.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Ask {
    machine: u8,
    presents: u8,
}

/// An entry. `commit` tells commits apart for the promises; real entries do not have it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    pub machine: u8,
    used: Used,
    commit: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Peer {
    commit: u8,
    /// The use that it stands for.
    pub used: Used,
    finalizer: bool,
    leaving: bool,
}

#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Replica {
    /// Machines that wait to be judged.
    waiting: BTreeSet<Ask>,
    judging: Option<Judging>,
    /// Entries that the replica has committed itself.
    owned: Vec<Owned>,
    /// What it knows from its watches, if it follows any.
    following: Option<Following>,
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Judging {
    batch: Vec<Ask>,
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
    /// Read the key, to rotate it or to take the replaced key, which has ended, out of the status.
    Rotating(Version),
    /// Found that this Peer is no longer pending.
    Releasing {
        machine: u8,
        commit: u8,
    },
}

/// The history that the promises are about. No process keeps it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct History {
    /// The most uses that were seen of each revision.
    most_used: [u8; 2],
    commits: Vec<Commit>,
    /// Whether each machine has ever had a Peer.
    has_had: Vec<bool>,
    admitted_too_late: bool,
    admitted_after_its_end: bool,
    answered_too_early: bool,
    refused: bool,
    rolled_forward: bool,
}

impl History {
    /// The admissions by the key of this revision, each with its number.
    fn of(&self, revision: u8) -> impl Iterator<Item = (usize, &Commit)> {
        self.commits.iter().enumerate().filter(move |(_, commit)| commit.presented == revision)
    }
}

/// The admission of a machine.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Commit {
    /// The revision of the key that the machine presented.
    presented: u8,
    /// The use as it was entered.
    used: Used,
    /// How often its Peer was created.
    created: u8,
}

/// What the API server's history shows of the Peer of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Trace {
    /// There was none.
    Never,
    /// There is one, or there was.
    Existed,
    /// The history does not go back to the commit of the entry.
    Forgotten,
}

/// A step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    Asks { machine: u8, presents: u8, replica: usize },
    Changes,
    ReplacedKeyEnds,
    PeerIsDeleted { machine: u8 },
    HistoryIsCompacted,
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
    LeaderReadsKeyToRotate,
    LeaderRotates { reply: Reply },
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

/// The value of the key in each revision.
const VALUES: [&str; 2] = ["first", "second"];

/// Each machine as it asks to join, with the key of each revision.
static APPLICANTS: LazyLock<[Vec<Applicant>; 2]> = LazyLock::new(|| {
    let applicant = |machine: u8, value: &str| Applicant {
        key: Digest::of(value),
        public_key: public_key(machine),
        hostname: "h".to_owned(),
        extra_dns_labels: Vec::new(),
        token: Digest::of(["a", "b", "c", "d"][usize::from(machine)]),
    };
    VALUES.map(|value| (0..MACHINES).map(|machine| applicant(machine, value)).collect())
});

/// The public id of the key in each revision, its namespace and its UID.
const IDS: [&str; 2] = ["0123456789abcdefghij", "abcdefghij0123456789"];
pub const NAMESPACE: &str = "n";
pub const UID: &str = "u";

/// Machines in a world, at most.
pub const MACHINES: u8 = 4;

impl Used {
    fn of(entry: &PendingPeer) -> Self {
        let revision = (0..).zip(IDS).find(|(_, id)| *id == entry.key_id).expect("a known id").0;
        Self { revision, number: u8::try_from(entry.number).expect("few uses") }
    }

    /// The use as the product writes it.
    pub fn in_ledger(self) -> Use {
        Use { key_id: IDS[usize::from(self.revision)].to_owned(), number: self.number.into() }
    }
}

fn token(machine: u8) -> Digest {
    APPLICANTS[0][usize::from(machine)].token.clone()
}

/// The entry of each machine, without a use.
static ENTRIES: LazyLock<Vec<PendingPeer>> = LazyLock::new(|| {
    let entry = |machine| PendingPeer {
        key_id: String::new(),
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
    status.expires = Some((moment() + TimeDelta::days(1)).into());
    key
});

/// The replaced key with no uses.
static REPLACED: LazyLock<PreviousKey> = LazyLock::new(|| PreviousKey {
    id: IDS[0].to_owned(),
    digest: Digest::of(VALUES[0]).to_string(),
    key: "AAAAA****".to_owned(),
    expires: (moment() + TimeDelta::days(1)).into(),
    admits_until: moment().into(),
    used_times: 0,
    usage_limit: None,
});

/// The digest of the key in each revision.
static DIGESTS: LazyLock<[String; 2]> = LazyLock::new(|| VALUES.map(|value| Digest::of(value).to_string()));

impl Key {
    /// A version with these entries. Nothing else of it matters.
    pub fn with_pending(pending: Vec<Entry>) -> Self {
        Self { revoked: false, revision: 0, used: 0, replaced: None, pending }
    }

    /// The uses of each revision that is in the status.
    fn uses(&self) -> [Option<u8>; 2] {
        match self.revision {
            0 => [Some(self.used), None],
            _ => [self.replaced, Some(self.used)],
        }
    }

    /// The object as the API server would return it.
    pub fn object(&self, limit: u8) -> SetupKey {
        let mut key = UNUSED.clone();
        key.spec.usage_limit = limit.into();
        key.spec.revoked = self.revoked;
        let status = key.status.get_or_insert_default();
        status.id = Some(IDS[usize::from(self.revision)].to_owned());
        status.digest = Some(DIGESTS[usize::from(self.revision)].clone());
        status.used_times = self.used.into();
        let replaced = |used: u8| PreviousKey {
            used_times: used.into(),
            usage_limit: (limit > 0).then_some(limit.into()),
            ..REPLACED.clone()
        };
        status.previous = self.replaced.into_iter().map(replaced).collect();
        let entry = |entry: &Entry| {
            let Use { key_id, number } = entry.used.in_ledger();
            PendingPeer { key_id, number, ..ENTRIES[usize::from(entry.machine)].clone() }
        };
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
        let judged = self.judging.iter().flat_map(|judging| &judging.batch);
        self.waiting.iter().chain(judged).any(|ask| ask.machine == machine)
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
        if let Leader::Orphan(_, version) | Leader::Created(_, version) | Leader::Rotating(version) = &mut self.leader {
            version.fresh = false;
        }
        if let Some(key) = &self.key {
            for (most, used) in self.history.most_used.iter_mut().zip(key.uses()) {
                *most = used.unwrap_or_default().max(*most);
            }
        }
    }

    /// Writes a swap that was computed from `version` and admits these machines.
    fn write(&mut self, version: &Key, swap: &Swap, admitted: &[Ask]) {
        let machines = 0..u8::try_from(self.peers.len()).expect("few machines");
        let machine_of = |name: &str| machines.clone().find(|machine| name_of(*machine) == name).expect("a machine");
        let (mut pending, mut new) = (Vec::new(), Vec::new());
        for written in &swap.pending {
            let machine = machine_of(&written.name);
            let used = Used::of(written);
            let known = version.entry_of(machine).filter(|known| known.used == used);
            pending.push(known.unwrap_or_else(|| {
                let ask = admitted.iter().find(|ask| ask.machine == machine).expect("an admission");
                self.history.commits.push(Commit { presented: ask.presents, used, created: 0 });
                let commit = u8::try_from(self.history.commits.len() - 1).expect("few commits");
                let entry = Entry { machine, used, commit };
                new.push(entry);
                entry
            }));
        }
        let uses = |used: i64| u8::try_from(used).expect("few uses");
        let written = Key {
            used: uses(swap.used_times),
            replaced: swap.previous.first().map(|replaced| uses(replaced.used_times)),
            pending,
            ..version.clone()
        };
        self.write_status(written, &new);
    }

    /// Writes a status with these new entries.
    fn write_status(&mut self, written: Key, new: &[Entry]) {
        let key = self.key.as_mut().expect("a key to write");
        *key = Key { revoked: key.revoked, ..written };
        let object = LazyCell::new(|| key.object(0));
        let replicas = self.replicas.iter_mut().flat_map(|replica| &mut replica.following);
        replicas.for_each(|known| known.key_written(&object, new));
        self.key_changed();
    }

    fn trace(&self, entry: Entry) -> Trace {
        match self.history.commits[usize::from(entry.commit)].created {
            _ if entry.commit < self.compacted => Trace::Forgotten,
            0 => Trace::Never,
            _ => Trace::Existed,
        }
    }

    fn create_peer(&mut self, entry: Entry, finalizer: bool) {
        let peer = &mut self.peers[usize::from(entry.machine)];
        if peer.is_none() {
            *peer = Some(Peer { commit: entry.commit, used: entry.used, finalizer, leaving: false });
            self.history.commits[usize::from(entry.commit)].created += 1;
            self.history.has_had[usize::from(entry.machine)] = true;
            self.peer_changed(entry.machine, Event::Applied(entry.used));
        }
    }

    fn delete_peer(&mut self, machine: u8) -> Option<()> {
        let place = &mut self.peers[usize::from(machine)];
        let peer = place.as_mut()?;
        let event = if peer.finalizer { Event::Applied(peer.used) } else { Event::Deleted(peer.used) };
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
        let event = if peer.leaving { Event::Deleted(peer.used) } else { Event::Applied(peer.used) };
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
                let machines = batch.iter().map(|ask| ask.machine);
                let not_pending = machines.filter(|machine| version.key.entry_of(*machine).is_none());
                not_pending.map(|machine| (machine, known)).collect()
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

    fn has_finalizer(&self) -> bool {
        !matches!(self.mutant, Some(Mutant::NoFinalizer | Mutant::History(_)))
    }

    /// Whether a process creates the Peer of an entry that it has found pending.
    fn is_to_create(&self, trace: Trace) -> bool {
        match (self.mutant, trace) {
            (Some(Mutant::History(forgotten)), Trace::Forgotten) => forgotten == Forgotten::Creates,
            (Some(Mutant::History(_)), Trace::Existed) => false,
            _ => true,
        }
    }

    /// Whether a process leaves an entry that it has found pending as it is.
    fn is_left(&self, trace: Trace) -> bool {
        trace == Trace::Forgotten && self.mutant == Some(Mutant::History(Forgotten::Leaves))
    }

    fn machines(&self) -> std::ops::Range<u8> {
        0..u8::try_from(self.asks.len()).expect("few machines")
    }

    /// The revisions that a machine may present.
    fn presented(&self) -> std::ops::Range<u8> {
        0..1 + u8::from(self.rotates)
    }

    /// The key that a machine presents, as a replica takes it.
    fn applicant(&self, ask: &Ask, key: &Key, has_ended: bool) -> &'static Applicant {
        let admits = ask.presents < key.revision && key.replaced.is_some() && !has_ended;
        let is_mistaken = admits && self.mutant == Some(Mutant::ReplacedCountedOnCurrent);
        let revision = if is_mistaken { key.revision } else { ask.presents };
        &APPLICANTS[usize::from(revision)][usize::from(ask.machine)]
    }

    /// The object that a replica judges by.
    fn object(&self, key: &Key) -> SetupKey {
        let limit = if self.mutant == Some(Mutant::OwnerWithoutLimit) { 0 } else { self.limit };
        let mut object = key.object(limit);
        if key.revoked && self.mutant == Some(Mutant::ReplacedOutlivesRevocation) {
            // Only the current key admits no machine.
            object.spec.revoked = false;
            object.status.get_or_insert_default().digest = None;
        }
        object
    }

    /// A replica's swap, computed by the product from what the replica knows.
    fn judge(&self, world: &World, replica: &Replica) -> Option<(Option<Swap>, Vec<Verdict>, Vec<Entry>)> {
        let Judging { batch, version: Some(version), found: Some(found) } = replica.judging.as_ref()? else {
            return None;
        };
        let key = &version.key;
        let applicants = batch.iter().map(|ask| self.applicant(ask, key, world.replaced_has_ended));
        let found = batch
            .iter()
            .zip(found)
            .map(|(ask, leaving)| leaving.map(|leaving| Existing { token: token(ask.machine), leaving }));
        let judged: Vec<_> = applicants.zip(found).collect();
        let clearable = replica.owned.iter().filter(|owned| owned.stage == Stage::Clear).map(|owned| owned.entry);
        let clearable: Vec<_> = clearable.collect();
        let uses = clearable.iter().flat_map(|entry| match self.mutant {
            Some(Mutant::ClearByName) => key.entry_of(entry.machine).map(|entry| entry.used).into_iter().collect(),
            Some(Mutant::NumberWithoutId) => {
                vec![Used { revision: 0, ..entry.used }, Used { revision: 1, ..entry.used }]
            }
            _ => vec![entry.used],
        });
        let uses = uses.map(Used::in_ledger).collect();
        let is_late = world.replaced_has_ended && self.mutant != Some(Mutant::ReplacedWithoutEnd);
        let now = if is_late { moment() + TimeDelta::seconds(1) } else { moment() };
        let (mut swap, verdicts) = ledger::admit(&self.object(key), &judged, &uses, now);
        if let (Some(swap), Some(Mutant::ReplacedNotCounted)) = (&mut swap, self.mutant) {
            swap.previous = key.object(self.limit).previous().to_vec();
        }
        Some((swap, verdicts, clearable))
    }

    fn swap(&self, world: &mut World, at: usize, reply: Reply) -> Option<()> {
        let (swap, verdicts, clearable) = self.judge(world, &world.replicas[at])?;
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
            let admitted = batch.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Admitted);
            let admitted: Vec<_> = admitted.map(|(ask, _)| *ask).collect();
            world.history.admitted_too_late |= current.revoked && !admitted.is_empty();
            let by_replaced = admitted.iter().any(|ask| ask.presents < current.revision);
            world.history.admitted_after_its_end |= world.replaced_has_ended && by_replaced;
            world.write(&version.key, &swap, &admitted);
            if reply == Reply::Lost {
                world.replicas[at].waiting.extend(batch);
                return Some(());
            }
            let written = world.key.clone()?;
            let replica = &mut world.replicas[at];
            for owned in replica.owned.iter_mut().filter(|owned| clearable.contains(&owned.entry)) {
                owned.stage = Stage::Release;
            }
            let entries = admitted.iter().filter_map(|ask| written.entry_of(ask.machine));
            replica.owned.extend(entries.map(|entry| Owned { entry, stage: Stage::Post }));
            replica.owned.sort();
        }
        for (Ask { machine, .. }, verdict) in batch.iter().zip(&verdicts) {
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
        world.create_peer(entry, self.has_finalizer());
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
        let mut swap = ledger::clear(&version.key.object(self.limit), &[entry.used.in_ledger()].into())?;
        if self.mutant == Some(Mutant::Refund) {
            swap.used_times -= 1;
        }
        world.spend(reply);
        world.write(&version.key, &swap, &[]);
        Some(())
    }

    /// What the controller has to write about the revisions of the key.
    fn rotated(&self, world: &World, key: &Key) -> Option<Key> {
        match (key.revision, key.replaced) {
            (0, _) if self.rotates => Some(Key { revision: 1, used: 0, replaced: Some(key.used), ..key.clone() }),
            (_, Some(_)) if world.replaced_has_ended => Some(Key { replaced: None, ..key.clone() }),
            _ => None,
        }
    }

    fn leader_rotates(&self, world: &mut World, reply: Reply) -> Option<()> {
        let Leader::Rotating(version) = std::mem::replace(&mut world.leader, Leader::Idle) else { return None };
        let applies = world.key.is_some() && (version.fresh || self.mutant == Some(Mutant::NoCompareAndSwap));
        if !applies {
            return (reply == Reply::Heard).then_some(());
        }
        let written = self.rotated(world, &version.key)?;
        world.spend(reply);
        world.write_status(written, &[]);
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
                        |ask: &Ask| known.is_some_and(|known| known.knows_no_peer(ask.machine, self.mutant));
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
                    let is_left = pending.is_some_and(|entry| self.is_left(world.trace(entry)));
                    if pending.is_some() && !owned && !is_left && self.mutant != Some(Mutant::NothingRollsForward) {
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
            Leader::Rotating(_) => steps.extend(replies.iter().map(|reply| Step::LeaderRotates { reply: *reply })),
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
                let waits = |replica: &usize| world.replicas[*replica].waiting.iter().any(|ask| ask.machine == machine);
                for replica in (0..self.replicas).filter(|replica| !waits(replica)) {
                    steps.extend(self.presented().map(|presents| Step::Asks { machine, presents, replica }));
                }
            }
            if world.removals > 0 && world.peers[usize::from(machine)].is_some_and(|peer| !peer.leaving) {
                steps.push(Step::PeerIsDeleted { machine });
            }
        }
        if world.changed < self.changes.len() {
            steps.push(Step::Changes);
        }
        if world.compactions > 0 {
            steps.push(Step::HistoryIsCompacted);
        }
        if let Some(key) = &world.key {
            if world.leader == Leader::Idle && self.rotated(world, key).is_some() {
                steps.push(Step::LeaderReadsKeyToRotate);
            }
            if key.replaced.is_some() && !world.replaced_has_ended {
                steps.push(Step::ReplacedKeyEnds);
            }
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
            Step::Asks { machine, presents, replica } => {
                world.asks[usize::from(machine)] -= 1;
                world.replicas[replica].waiting.insert(Ask { machine, presents });
            }
            Step::ReplacedKeyEnds => world.replaced_has_ended = true,
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
            Step::HistoryIsCompacted => {
                world.compactions -= 1;
                world.compacted = u8::try_from(world.history.commits.len()).expect("few commits");
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
                let found = judging.batch.iter().map(|Ask { machine, .. }| {
                    let asked = view.is_none_or(|view| !view.knows_no_peer(*machine, self.mutant));
                    world.peers[usize::from(*machine)].filter(|_| asked).map(|peer| peer.leaving)
                });
                judging.found = Some(found.collect());
            }
            Step::Swaps { replica, reply } => self.swap(world, replica, reply)?,
            Step::CreatesPeer { replica, place, reply } => self.replica_creates(world, replica, place, reply),
            Step::AsksAgain { replica, place } => {
                let entry = world.replicas[replica].owned[place].entry;
                let trace = world.trace(entry);
                let owned = &mut world.replicas[replica].owned;
                if !world.key.as_ref().is_some_and(|key| key.pending.contains(&entry)) || self.is_left(trace) {
                    owned.remove(place);
                } else {
                    owned[place].stage = if self.is_to_create(trace) { Stage::Post } else { Stage::Clear };
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
                if self.mutant != Some(Mutant::Refund) && self.is_to_create(world.trace(entry)) {
                    world.create_peer(entry, self.has_finalizer());
                }
                world.spend(reply);
                if self.is_left(world.trace(entry)) {
                    world.leader = Leader::Idle;
                    return Some(());
                }
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
            Step::LeaderReadsKeyToRotate => {
                world.leader = Leader::Rotating(Version { key: world.key.clone()?, fresh: true });
            }
            Step::LeaderRotates { reply } => self.leader_rotates(world, reply)?,
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

pub const LIMIT: &str = "never more uses of a key than its limit";
pub const ONE_USE_PER_PEER: &str = "one use for each peer ever admitted";
pub const NEVER_DOWN: &str = "uses never go down";
pub const REVOKED_IS_REVOKED: &str = "no machine is admitted once a revocation has returned";
pub const ENDED_IS_ENDED: &str = "no machine is admitted by a replaced key that has ended";
pub const USES_DIFFER: &str = "no two machines are the same use of a key";
pub const GONE_IS_GONE: &str = "a peer that was deleted is not created again";
pub const ANSWERED_HAS_PEER: &str = "a machine that is answered has had a Peer";
pub const PENDING_EMPTIES: &str = "when all is done, nothing is pending and no Peer is held";

/// What must happen somewhere in every set of worlds that is worth exploring.
pub const SIGHTS: [&str; 6] = [
    "a machine is refused",
    "an entry is rolled forward",
    "a peer is held back from leaving",
    "a machine is let through unasked",
    "a machine is looked up because its Peer is expected",
    "uses of two keys are pending, with one number",
];

impl Model for Enrollment {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            key: Some(Key::with_pending(Vec::new())),
            peers: vec![None; self.asks.len()],
            replicas: vec![self.replica(); self.replicas],
            leader: Leader::Idle,
            asks: self.asks.to_vec(),
            crashes: self.crashes,
            losses: self.losses,
            removals: self.removals,
            interruptions: self.interruptions,
            compactions: self.compactions,
            compacted: 0,
            changed: 0,
            replaced_has_ended: false,
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
                let counted = world.key.iter().flat_map(Key::uses).flatten().all(|used| used <= model.limit);
                counted && (0..2).all(|revision| world.history.of(revision).count() <= model.limit.into())
            }),
            Property::always(ONE_USE_PER_PEER, |_, world: &World| {
                let Some(key) = &world.key else { return true };
                let pending = |commit: usize| key.pending.iter().any(|entry| usize::from(entry.commit) == commit);
                (0..).zip(key.uses()).all(|(revision, used)| {
                    let commits = world.history.of(revision);
                    let peers = commits.filter(|(number, commit)| commit.created > 0 || pending(*number));
                    used.is_none_or(|used| usize::from(used) == peers.count())
                })
            }),
            Property::always(NEVER_DOWN, |_, world: &World| {
                let uses = world.key.iter().flat_map(|key| key.uses().into_iter().zip(world.history.most_used));
                uses.into_iter().all(|(used, most)| used.is_none_or(|used| used >= most))
            }),
            Property::always(USES_DIFFER, |_, world: &World| {
                let uses: BTreeSet<_> = world.history.commits.iter().map(|commit| commit.used).collect();
                uses.len() == world.history.commits.len()
            }),
            Property::always(ENDED_IS_ENDED, |_, world: &World| !world.history.admitted_after_its_end),
            Property::always(REVOKED_IS_REVOKED, |_, world: &World| !world.history.admitted_too_late),
            Property::always(GONE_IS_GONE, |_, world: &World| {
                world.history.commits.iter().all(|commit| commit.created <= 1)
            }),
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
            Property::sometimes(SIGHTS[5], |_, world: &World| {
                let pending = world.key.iter().flat_map(|key| &key.pending);
                let numbers: BTreeSet<_> = pending.clone().map(|entry| entry.used.number).collect();
                numbers.len() < pending.count()
            }),
        ]
    }
}
