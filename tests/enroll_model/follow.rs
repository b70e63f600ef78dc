//! What a replica knows by its watches, without a request.
//!
//! The watch of Peers delivers every event of a machine in order, each as late as it likes. The watch of keys is up to
//! date until it falls behind, which is a step of its own; until then an entry is noted by all replicas when it is written.
//! That is as good as noting it when the key is read: a replica that judges on an older version loses the swap, and one
//! that notes an entry later than it was written has heard of no more Peers since then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::model::{Entry, Key, Mutant, Peer};

/// The knowledge of a replica.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Following {
    keys: Keys,
    /// Whether versions of the key were missed, and the Peers have not been listed since.
    distrusted: bool,
    /// Machines of which nothing is known are left out.
    machines: BTreeMap<u8, Machine>,
    listing: Option<Listing>,
}

/// How far a replica is with the versions of the key.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Keys {
    /// It has seen all of them.
    #[default]
    Followed,
    /// There are some that the watch has yet to deliver, or never will.
    Behind,
    /// It has started and seen none.
    Unlisted,
}

/// What is known of a machine. All are numbers of entries, which Peers carry.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Machine {
    /// The Peer that the view shows.
    shown: Option<u8>,
    /// What the watch of Peers has yet to deliver.
    events: VecDeque<Event>,
    /// The latest entry whose Peer is expected. What meets this one meets all before it.
    expected: Option<u8>,
    /// The latest entry that was written since the watch of keys is behind.
    unheard: Option<u8>,
}

/// An event of the Peer with this number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Event {
    /// It was created or has changed.
    Applied(u8),
    /// It has gone.
    Deleted(u8),
}

/// A list of Peers that is not complete yet.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Listing {
    /// The Peer of each machine when it began.
    shown: BTreeMap<u8, u8>,
    /// The entry of each machine whose Peer was expected, and that was no longer pending when it began.
    over: BTreeMap<u8, u8>,
    /// Whether the keys were listed after it began.
    too_early: bool,
}

impl Following {
    /// That of a replica which has just started.
    pub fn started() -> Self {
        Self { keys: Keys::Unlisted, distrusted: true, ..Self::default() }
    }

    /// Whether what the view of Peers does not show need not be asked for.
    pub fn trusts_view(&self, mutant: Option<Mutant>) -> bool {
        match self.keys {
            Keys::Followed => !self.distrusted,
            Keys::Behind | Keys::Unlisted => mutant == Some(Mutant::ViewWithoutFollowing),
        }
    }

    /// Whether the view shows a Peer of this machine.
    pub fn shows(&self, machine: u8) -> bool {
        self.machines.get(&machine).is_some_and(|known| known.shown.is_some())
    }

    /// Whether a Peer of this machine is expected.
    pub fn expects(&self, machine: u8) -> bool {
        self.machines.get(&machine).is_some_and(|known| known.expected.is_some())
    }

    /// Whether it is known without a request that this machine has no Peer.
    pub fn knows_nobody(&self, machine: u8, mutant: Option<Mutant>) -> bool {
        let expected = self.expects(machine) && mutant != Some(Mutant::NothingExpected);
        self.trusts_view(mutant) && !self.shows(machine) && !expected
    }

    /// An entry is written.
    pub fn note(&mut self, entry: Entry) {
        let known = self.machines.entry(entry.machine).or_default();
        match self.keys {
            Keys::Followed => known.expected = Some(entry.number),
            Keys::Behind => known.unheard = Some(entry.number),
            Keys::Unlisted => {}
        }
    }

    /// The Peer of a machine is created, changes or goes. A change that would be shown as what is shown already is left
    /// out, for nothing comes of it.
    pub fn happens(&mut self, machine: u8, event: Event) {
        let known = self.machines.entry(machine).or_default();
        let shown = match &self.listing {
            Some(listing) => listing.shown.get(&machine).copied(),
            None => known.shown,
        };
        let last = known.events.back().copied().or(shown.map(Event::Applied));
        if last != Some(event) {
            known.events.push_back(event);
        }
    }

    /// The machines of which the watch of Peers has something to deliver.
    pub fn to_hear_of(&self) -> impl Iterator<Item = u8> {
        let waiting = self.machines.iter().filter(|(_, known)| self.is_watching() && !known.events.is_empty());
        waiting.map(|(machine, _)| *machine)
    }

    /// The watch of Peers delivers the next event of a machine.
    pub fn hear_of(&mut self, machine: u8, mutant: Option<Mutant>) -> Option<()> {
        let known = self.machines.get_mut(&machine)?;
        let event = known.events.pop_front()?;
        let (Event::Applied(number) | Event::Deleted(number)) = event;
        known.shown = (event == Event::Applied(number)).then_some(number);
        if known.is_met_by(Some(number)) || mutant == Some(Mutant::MetByAnyEvent) {
            known.expected = None;
        }
        Some(())
    }

    /// Whether it has seen every version of the key.
    pub fn is_up_to_date(&self) -> bool {
        self.keys == Keys::Followed
    }

    /// Whether the watch of keys may still deliver what it is behind with.
    pub fn can_catch_up(&self) -> bool {
        self.keys == Keys::Behind
    }

    /// The watch of keys falls behind.
    pub fn fall_behind(&mut self) {
        self.keys = Keys::Behind;
    }

    /// The watch of keys has delivered what it was behind with.
    pub fn catch_up(&mut self) {
        for known in self.machines.values_mut() {
            let unheard = known.unheard.take();
            known.expect(unheard);
        }
        self.keys = Keys::Followed;
    }

    /// The keys are listed in place of the watch. What came and went meanwhile is not noted.
    pub fn list_keys(&mut self, key: Option<&Key>, mutant: Option<Mutant>) {
        self.machines.values_mut().for_each(|known| known.unheard = None);
        for entry in key.iter().flat_map(|key| &key.pending) {
            self.machines.entry(entry.machine).or_default().expect(Some(entry.number));
        }
        self.keys = Keys::Followed;
        self.distrusted = mutant != Some(Mutant::TrustedAfterInterruption);
        if let Some(listing) = &mut self.listing {
            listing.too_early = true;
        }
    }

    /// Whether the watch of Peers goes on. While they are listed it does not.
    pub fn is_watching(&self) -> bool {
        self.listing.is_none()
    }

    /// Whether a list of Peers is of use, even if their watch is not interrupted.
    pub fn wants_list(&self) -> bool {
        self.distrusted || !self.is_up_to_date()
    }

    /// A list of Peers begins in place of the watch.
    pub fn begin_list(&mut self, peers: &[Option<Peer>], key: Option<&Key>, mutant: Option<Mutant>) {
        let mut listing = Listing::default();
        for (machine, peer) in (0..).zip(peers) {
            listing.shown.extend(peer.map(|peer| (machine, peer.number)));
        }
        for (machine, known) in &mut self.machines {
            known.events.clear();
            let pending = key.and_then(|key| key.entry_of(*machine)).map(|entry| entry.number);
            let is_over = |number: &u8| pending != Some(*number) || mutant == Some(Mutant::PendingMetByList);
            listing.over.extend(known.expected.filter(is_over).map(|number| (*machine, number)));
        }
        self.listing = Some(listing);
    }

    /// A list of Peers is complete, and the watch goes on from where the list began.
    pub fn complete_list(&mut self, mutant: Option<Mutant>) -> Option<()> {
        let listing = self.listing.take()?;
        for machine in listing.shown.keys() {
            self.machines.entry(*machine).or_default();
        }
        for (machine, known) in &mut self.machines {
            known.shown = listing.shown.get(machine).copied();
            let over = listing.over.get(machine).copied();
            if known.is_met_by(known.shown.max(over)) {
                known.expected = None;
            }
        }
        let restores = !listing.too_early || mutant == Some(Mutant::ListBegunBefore);
        if restores && self.keys != Keys::Unlisted {
            self.distrusted = false;
        }
        Some(())
    }

    /// Forgets all other machines.
    pub fn keep(&mut self, machines: &BTreeSet<u8>) {
        if machines.is_empty() {
            *self = Self::default();
        }
        self.machines.retain(|machine, known| machines.contains(machine) && *known != Machine::default());
        if let Some(listing) = &mut self.listing {
            listing.shown.retain(|machine, _| machines.contains(machine));
            listing.over.retain(|machine, _| machines.contains(machine));
        }
    }
}

impl Machine {
    /// An entry is seen in the key. Its Peer is not expected if it is shown already.
    fn expect(&mut self, number: Option<u8>) {
        self.expected = self.expected.max(number);
        if self.is_met_by(self.shown) {
            self.expected = None;
        }
    }

    /// Whether this number says that the Peer which is expected was there.
    fn is_met_by(&self, number: Option<u8>) -> bool {
        self.expected.is_some() && number >= self.expected
    }
}
