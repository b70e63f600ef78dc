//! The keys of an authority: as they were last listed, with this process's own calls since.
//!
//! A list that began before a call ended may or may not show what the call did. So what a call did is kept until a list shows
//! it that began afterwards. A call whose answer was lost may have been carried out, and nothing is known of the keys of that
//! `SetupKey` until such a list.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use crate::key::{KeyId, remote::RemoteKey};

/// The keys with a mark, by the UID in it.
#[derive(Default)]
pub struct Rows {
    by_owner: HashMap<String, Vec<RemoteKey>>,
    since: Vec<Call>,
}

/// A call that has ended, and when.
struct Call {
    owner: String,
    ended: Instant,
    did: Did,
}

enum Did {
    /// The key is like this now.
    Set(Box<RemoteKey>),
    /// The key is gone.
    Removed(KeyId),
    /// The answer was lost.
    Unknown,
}

impl Rows {
    /// The keys of this owner, or `None` if they are not known.
    pub fn of(&self, owner: &str) -> Option<Vec<RemoteKey>> {
        let lost = |call: &Call| call.owner == owner && matches!(call.did, Did::Unknown);
        (!self.since.iter().any(lost)).then(|| self.by_owner.get(owner).cloned().unwrap_or_default())
    }

    /// How many keys there are of owners that fit.
    pub fn count(&self, fits: impl Fn(&str) -> bool) -> usize {
        self.by_owner.iter().filter(|(owner, _)| fits(owner)).map(|(_, keys)| keys.len()).sum()
    }

    /// Takes up a list that began at this moment. Returns the UIDs of the `SetupKey`s whose rows have changed.
    pub fn listed(&mut self, keys: Vec<RemoteKey>, began: Instant) -> HashSet<String> {
        let mut by_owner = HashMap::<String, Vec<RemoteKey>>::new();
        for key in keys {
            by_owner.entry(key.owner.clone()).or_default().push(key);
        }
        let before = std::mem::replace(&mut self.by_owner, by_owner);
        let (shown, since): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.since).into_iter().partition(|call| call.ended < began);
        for call in &since {
            self.apply(call);
        }
        self.since = since;
        let lost = shown.into_iter().filter(|call| matches!(call.did, Did::Unknown)).map(|call| call.owner);
        let mut changed: HashSet<_> = lost.collect();
        let owners = before.keys().chain(self.by_owner.keys());
        changed.extend(owners.filter(|owner| before.get(*owner) != self.by_owner.get(*owner)).cloned());
        changed
    }

    /// Notes that a call has shown a key like this.
    pub fn set(&mut self, key: RemoteKey) {
        self.note(key.owner.clone(), Did::Set(Box::new(key)));
    }

    /// Notes that a call has shown a key to be gone.
    pub fn removed(&mut self, owner: &str, id: &KeyId) {
        self.note(owner.to_owned(), Did::Removed(id.clone()));
    }

    /// Notes that the answer to a call that creates a key was lost.
    pub fn lost(&mut self, owner: &str) {
        self.note(owner.to_owned(), Did::Unknown);
    }

    fn note(&mut self, owner: String, did: Did) {
        let call = Call { owner, ended: Instant::now(), did };
        self.apply(&call);
        self.since.push(call);
    }

    fn apply(&mut self, call: &Call) {
        let keys = self.by_owner.entry(call.owner.clone()).or_default();
        match &call.did {
            Did::Set(key) => match keys.iter_mut().find(|known| known.id == key.id) {
                Some(known) => *known = (**key).clone(),
                None => keys.push((**key).clone()),
            },
            Did::Removed(id) => keys.retain(|known| known.id != *id),
            Did::Unknown => {}
        }
        if keys.is_empty() {
            self.by_owner.remove(&call.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8, owner: &str, used_times: i64) -> RemoteKey {
        RemoteKey {
            id: KeyId::from_random_bytes([number; 20]),
            owner: owner.to_owned(),
            revision: 1,
            mask: "ABCDE****".to_owned(),
            revoked: false,
            used_times,
            usage_limit: None,
            last_used: None,
            expires: None,
            groups: Vec::new(),
        }
    }

    fn owners(changed: HashSet<String>) -> Vec<String> {
        let mut changed: Vec<_> = changed.into_iter().collect();
        changed.sort();
        changed
    }

    #[test]
    fn a_list_tells_which_owners_to_look_at() {
        let mut rows = Rows::default();
        let changed = rows.listed(vec![key(1, "a", 0), key(2, "b", 0)], Instant::now());
        assert_eq!(owners(changed), ["a", "b"]);
        let changed = rows.listed(vec![key(1, "a", 0), key(2, "b", 1)], Instant::now());
        assert_eq!(owners(changed), ["b"]);
        assert_eq!(owners(rows.listed(vec![key(2, "b", 1)], Instant::now())), ["a"]);
        assert_eq!(rows.of("a").unwrap(), []);
    }

    #[test]
    fn a_list_that_began_before_a_call_ended_does_not_undo_it() {
        let mut rows = Rows::default();
        let began = Instant::now();
        rows.set(key(1, "a", 0));
        rows.set(key(2, "b", 0));
        rows.removed("b", &key(2, "b", 0).id);
        let changed = rows.listed(vec![key(2, "b", 0)], began);
        assert_eq!((rows.of("a").unwrap().len(), rows.of("b").unwrap().len()), (1, 0));
        assert!(changed.is_empty(), "{changed:?}");
        rows.listed(vec![key(2, "b", 0)], Instant::now());
        assert_eq!((rows.of("a").unwrap().len(), rows.of("b").unwrap().len()), (0, 1), "a later list decides");
    }

    #[test]
    fn after_a_lost_answer_nothing_is_known_until_a_list_that_began_later() {
        let mut rows = Rows::default();
        let began = Instant::now();
        rows.lost("a");
        assert_eq!(rows.of("a"), None);
        assert!(rows.listed(vec![key(1, "a", 0)], began).contains("a"));
        assert_eq!(rows.of("a"), None);
        assert_eq!(owners(rows.listed(vec![key(1, "a", 0)], Instant::now())), ["a"]);
        assert_eq!(rows.of("a").unwrap().len(), 1);
    }
}
