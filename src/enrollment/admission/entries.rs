//! The entries that this replica committed and has to clear. Pure: the moment is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    api::PendingPeer,
    key::ledger::{MOST_PENDING, Use},
};

/// An entry whose Peer exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clearable {
    /// The use that the entry stands for.
    pub used: Use,
    /// The name of its Peer.
    pub name: String,
    /// When the swap was sent that committed it.
    pub committed: Instant,
    /// Since when it is clearable.
    pub since: Instant,
    /// The UID of its Peer, if this replica has to release it.
    pub release: Option<String>,
}

/// The clearable entries of a key.
#[derive(Debug, Default)]
pub struct Entries(BTreeMap<Use, Clearable>);

impl Entries {
    /// The Peer of an entry exists.
    pub fn add(&mut self, entry: Clearable) {
        self.0.insert(entry.used.clone(), entry);
    }

    /// Whether there is nothing to clear.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The uses to clear.
    pub fn uses(&self) -> BTreeSet<Use> {
        self.0.keys().cloned().collect()
    }

    /// Since when the first of them has been clearable.
    pub fn clearable_since(&self) -> Option<Instant> {
        self.0.values().map(|entry| entry.since).min()
    }

    /// Room in `pending` once the clearable entries are cleared.
    pub fn places(&self, pending: &[PendingPeer]) -> usize {
        let stay = pending.iter().filter(|entry| !self.0.contains_key(&Use::of(entry))).count();
        MOST_PENDING.saturating_sub(stay)
    }

    /// Takes out the entries that are not pending in this version of the key: they were cleared, and their Peers can be
    /// released. The version must not be older than the swaps that committed them.
    pub fn take_cleared(&mut self, pending: &[PendingPeer]) -> Vec<Clearable> {
        let pending: BTreeSet<_> = pending.iter().map(Use::of).collect();
        let (left, cleared) = std::mem::take(&mut self.0).into_iter().partition(|(used, _)| pending.contains(used));
        self.0 = left;
        let cleared: BTreeMap<_, _> = cleared;
        cleared.into_values().collect()
    }

    /// Forgets entries that were committed so long ago that the controller may complete them.
    pub fn forget_older(&mut self, now: Instant, owner_time: Duration) {
        self.0.retain(|_, entry| now - entry.committed < owner_time);
    }

    /// Forgets all of them, because the key was deleted.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn used(key_id: &str, number: i64) -> Use {
        Use { key_id: key_id.to_owned(), number }
    }

    fn pending(key_id: &str, number: i64) -> PendingPeer {
        serde_json::from_value(json!({
            "keyId": key_id, "number": number, "name": "peer-a", "publicKey": "", "hostname": "h",
            "tokenDigest": "", "since": "2026-11-24T06:00:00Z",
        }))
        .unwrap()
    }

    fn clearable(number: i64, committed: Instant) -> Clearable {
        let used = used("id-1", number);
        Clearable { used, name: format!("peer-{number}"), committed, since: committed, release: None }
    }

    #[test]
    fn an_entry_is_cleared_when_its_use_is_no_longer_pending() {
        let (mut entries, now) = (Entries::default(), Instant::now());
        entries.add(clearable(1, now));
        entries.add(clearable(2, now));
        let cleared = entries.take_cleared(&[pending("id-1", 2), pending("id-2", 1)]);
        let names: Vec<_> = cleared.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["peer-1"], "the same number of another key id is another use");
        assert_eq!(entries.uses(), [used("id-1", 2)].into());
        assert!(entries.take_cleared(&[pending("id-1", 2)]).is_empty());
    }

    #[test]
    fn clearable_entries_leave_room() {
        let mut entries = Entries::default();
        let full: Vec<_> = (1..=200).map(|number| pending("id-1", number)).collect();
        assert_eq!((entries.places(&[]), entries.places(&full)), (MOST_PENDING, 0));
        entries.add(clearable(7, Instant::now()));
        entries.add(clearable(999, Instant::now()));
        assert_eq!(entries.places(&full), 1);
    }

    #[test]
    fn the_first_clearable_entry_decides() {
        let (mut entries, now) = (Entries::default(), Instant::now());
        assert_eq!(entries.clearable_since(), None);
        entries.add(clearable(1, now + Duration::from_secs(1)));
        entries.add(clearable(2, now));
        assert_eq!(entries.clearable_since(), Some(now));
    }

    #[test]
    fn an_entry_is_left_to_the_controller_when_the_time_of_its_owner_is_over() {
        let (mut entries, now) = (Entries::default(), Instant::now());
        let owner_time = Duration::from_secs(8);
        entries.add(clearable(1, now));
        entries.add(clearable(2, now + Duration::from_secs(1)));
        entries.forget_older(now + owner_time - Duration::from_millis(1), owner_time);
        assert_eq!(entries.uses().len(), 2);
        entries.forget_older(now + owner_time, owner_time);
        assert_eq!(entries.uses(), [used("id-1", 2)].into());
    }
}
