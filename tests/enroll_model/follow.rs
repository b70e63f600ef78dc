//! What a replica knows from its watches, without a request.
//!
//! Expectations are kept by the product's own [`Expected`]. The model adds the watches around it. The Peer watch
//! delivers every event of a machine in order, each with any delay. The key watch is up to date until it falls behind,
//! which is a step of its own. Until then, every version is noted when it is written. That is as good as noting it when
//! it is read. A replica that judges by an older version loses the swap. A replica that notes a version later than it
//! was written has seen no more Peers since then.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, LazyLock},
    time::Instant,
};

use setupkey_operator::{
    api::SetupKey,
    key::expected::{self, Expected},
};

use super::model::{Entry, Key, MACHINES, Mutant, NAMESPACE, Peer, UID, Used, name_of};

/// Time does not pass in the model.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What a replica knows.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Following {
    keys: Keys,
    expected: Arc<Expected>,
    /// Machines with nothing to know are left out.
    machines: BTreeMap<u8, Machine>,
    /// The Peer of each machine at the start of a list of Peers that is not complete yet.
    listing: Option<BTreeMap<u8, Used>>,
    /// Entries that were written while the key watch is behind. The watch delivers them if it catches up.
    unheard: BTreeSet<Entry>,
}

/// How far a replica has followed the versions of the key.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Keys {
    /// It has seen all of them.
    Followed,
    /// Some are missing. The watch delivers them later or never.
    Behind,
    /// It has started and seen none.
    Unlisted,
}

/// What the Peer watch has shown of a machine, and what it has yet to deliver. Peers are told apart by the uses that they
/// stand for.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Machine {
    /// The Peer that is cached.
    shown: Option<Used>,
    events: VecDeque<Event>,
}

/// An event of the Peer of this use.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Event {
    /// It was created or has changed.
    Applied(Used),
    /// It was deleted.
    Deleted(Used),
}

/// Whether the Peer of this use meets an expectation.
fn meets(used: Used) -> impl Fn(&expected::Entry) -> bool {
    let used = used.in_ledger();
    move |entry| entry.is_met_by(NAMESPACE, UID, &used)
}

impl Following {
    /// A replica that has just started.
    pub fn started() -> Self {
        Self {
            keys: Keys::Unlisted,
            expected: Arc::default(),
            machines: BTreeMap::new(),
            listing: None,
            unheard: BTreeSet::new(),
        }
    }

    /// A replica that has listed everything before anything happened.
    pub fn up_to_date() -> Self {
        static EXPECTED: LazyLock<Arc<Expected>> = LazyLock::new(|| {
            let mut expected = Expected::default();
            let _ = expected.keys_listed(None);
            expected.listing(None);
            expected.listed(None);
            Arc::new(expected)
        });
        Self { keys: Keys::Followed, expected: Arc::clone(&EXPECTED), ..Self::started() }
    }

    /// Whether a Peer that is not cached need not be looked up.
    pub fn trusts_view(&self, mutant: Option<Mutant>) -> bool {
        match self.keys {
            Keys::Followed => self.expected.is_trusted(NAMESPACE),
            Keys::Behind | Keys::Unlisted => mutant == Some(Mutant::ViewWithoutFollowing),
        }
    }

    /// Whether a Peer of this machine is cached.
    pub fn shows(&self, machine: u8) -> bool {
        self.machines.get(&machine).is_some_and(|known| known.shown.is_some())
    }

    /// Whether a Peer of this machine is expected.
    pub fn expects(&self, machine: u8) -> bool {
        self.expected.expects(NAMESPACE, name_of(machine))
    }

    /// Whether it is known without a request that this machine has no Peer.
    pub fn knows_no_peer(&self, machine: u8, mutant: Option<Mutant>) -> bool {
        let all_shown = match mutant {
            Some(Mutant::NothingExpected) => self.trusts_view(mutant),
            Some(Mutant::ViewWithoutFollowing) => self.trusts_view(mutant) && !self.expects(machine),
            _ => self.keys == Keys::Followed && self.expected.is_all_shown(NAMESPACE, name_of(machine)),
        };
        all_shown && !self.shows(machine)
    }

    /// A version of the key is written, with these new entries.
    pub fn key_written(&mut self, key: &SetupKey, new: &[Entry]) {
        match self.keys {
            Keys::Followed => self.note(key),
            Keys::Behind => self.unheard.extend(new),
            Keys::Unlisted => {}
        }
    }

    fn note(&mut self, key: &SetupKey) {
        let machines = &self.machines;
        let _ = Arc::make_mut(&mut self.expected).note(key, *NOW, |entry| {
            let machine = machines.iter().find(|(machine, _)| name_of(**machine) == entry.name);
            machine.and_then(|(_, known)| known.shown).is_some_and(|used| meets(used)(entry))
        });
    }

    /// The key is deleted.
    pub fn key_deleted(&mut self) {
        if self.keys == Keys::Followed {
            self.expected_mut().key_gone(UID, *NOW);
        }
    }

    fn expected_mut(&mut self) -> &mut Expected {
        Arc::make_mut(&mut self.expected)
    }

    /// Meets the expectations about a machine.
    fn meet(&mut self, machine: u8, meets: impl Fn(&expected::Entry) -> bool) {
        if self.expects(machine) {
            self.expected_mut().shown(name_of(machine), meets);
        }
    }

    /// The Peer of a machine is created, changes or is deleted. An event that shows nothing new is left out.
    pub fn happens(&mut self, machine: u8, event: Event) {
        let known = self.machines.entry(machine).or_default();
        let shown = match &self.listing {
            Some(listing) => listing.get(&machine).copied(),
            None => known.shown,
        };
        let last = known.events.back().copied().or(shown.map(Event::Applied));
        if last != Some(event) {
            known.events.push_back(event);
        }
    }

    /// The machines with events that the Peer watch has yet to deliver.
    pub fn to_hear_of(&self) -> impl Iterator<Item = u8> {
        let waiting = self.machines.iter().filter(|(_, known)| self.is_watching() && !known.events.is_empty());
        waiting.map(|(machine, _)| *machine)
    }

    /// The Peer watch delivers the next event of a machine.
    pub fn hear_of(&mut self, machine: u8, mutant: Option<Mutant>) -> Option<()> {
        let known = self.machines.get_mut(&machine)?;
        let event = known.events.pop_front()?;
        let (Event::Applied(used) | Event::Deleted(used)) = event;
        known.shown = (event == Event::Applied(used)).then_some(used);
        match (event, mutant) {
            (_, Some(Mutant::MetByAnyEvent)) => self.meet(machine, |_| true),
            (Event::Applied(used), _) => self.meet(machine, meets(used)),
            (Event::Deleted(_), _) => {}
        }
        Some(())
    }

    /// Whether it has seen every version of the key.
    pub fn is_up_to_date(&self) -> bool {
        self.keys == Keys::Followed
    }

    /// Whether the key watch may still deliver what is missing.
    pub fn can_catch_up(&self) -> bool {
        self.keys == Keys::Behind
    }

    /// The key watch falls behind.
    pub fn fall_behind(&mut self) {
        self.keys = Keys::Behind;
    }

    /// The key watch has delivered every version that was missing. All are noted at this moment. So it does not matter
    /// in which version an entry came and in which it went.
    pub fn catch_up(&mut self, key: Option<&Key>) {
        let mut entries = std::mem::take(&mut self.unheard);
        entries.extend(key.iter().flat_map(|key| &key.pending));
        self.note(&Key::with_pending(entries.into_iter().collect()).object(0));
        self.caught_up(key);
    }

    fn caught_up(&mut self, key: Option<&Key>) {
        match key {
            Some(key) => self.note(&key.object(0)),
            None => self.expected_mut().key_gone(UID, *NOW),
        }
        self.keys = Keys::Followed;
    }

    /// The keys are re-listed in place of the watch. Entries that came and went meanwhile are not noted.
    pub fn list_keys(&mut self, key: Option<&Key>, mutant: Option<Mutant>) {
        self.unheard.clear();
        if mutant != Some(Mutant::TrustedAfterInterruption) {
            let _ = self.expected_mut().keys_listed(None);
        }
        if self.listing.is_some() && mutant == Some(Mutant::ListBegunBefore) {
            self.expected_mut().listing(None);
        }
        self.caught_up(key);
    }

    /// Whether the Peer watch runs. It does not while the Peers are listed.
    pub fn is_watching(&self) -> bool {
        self.listing.is_none()
    }

    /// Whether a list of Peers is useful, even if their watch is not interrupted.
    pub fn wants_list(&self) -> bool {
        !self.expected.is_trusted(NAMESPACE) || !self.is_up_to_date()
    }

    /// A list of Peers begins in place of the watch.
    pub fn begin_list(&mut self, peers: &[Option<Peer>]) {
        self.machines.values_mut().for_each(|known| known.events.clear());
        let shown = (0..).zip(peers).filter_map(|(machine, peer)| Some((machine, (*peer)?.used)));
        self.listing = Some(shown.collect());
        self.expected_mut().listing(None);
    }

    /// A list of Peers is complete, and the watch goes on from where the list began.
    pub fn complete_list(&mut self, mutant: Option<Mutant>) -> Option<()> {
        let listed = self.listing.take()?;
        let absent = self.machines.keys().copied().filter(|machine| !listed.contains_key(machine));
        for machine in absent.collect::<Vec<_>>() {
            self.machines.entry(machine).or_default().shown = None;
        }
        for (machine, used) in listed {
            self.machines.entry(machine).or_default().shown = Some(used);
            self.meet(machine, meets(used));
        }
        if mutant == Some(Mutant::PendingMetByList) {
            (0..MACHINES).for_each(|machine| self.meet(machine, |_| true));
        }
        self.expected_mut().listed(None);
        Some(())
    }

    /// Forgets all machines except these. The world has `all` machines.
    pub fn keep(&mut self, machines: &BTreeSet<u8>, all: u8) {
        if machines.is_empty() {
            *self = Self::up_to_date();
            return;
        }
        let forgotten = (0..all).filter(|machine| !machines.contains(machine));
        forgotten.for_each(|machine| self.meet(machine, |_| true));
        self.machines.retain(|machine, known| machines.contains(machine) && *known != Machine::default());
        self.unheard.retain(|entry| machines.contains(&entry.machine));
        if let Some(listing) = &mut self.listing {
            listing.retain(|machine, _| machines.contains(machine));
        }
    }
}
