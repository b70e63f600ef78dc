//! The handover of pending entries from a replica of the enrollment service to the controller.
//!
//! An entry belongs to the replica that committed it. A replica that died never clears its entries, so after a while the
//! controller completes them. It never gives a use back: by then the Peer may exist, and its machine may know. The age of an
//! entry is what this process has seen of it, on its own steady clock, so clocks need not agree.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{api::SetupKey, cluster::ObjectName, key::ledger::Use};

/// The entries that this process has seen pending.
pub struct Handover {
    age: Duration,
    pending: Mutex<HashMap<ObjectName, Pending>>,
}

/// The pending entries of one key, each with the moment at which it was first seen.
struct Pending {
    uid: Option<String>,
    since: HashMap<Use, Instant>,
}

/// What is to be done about the pending entries of a key.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Due {
    /// The entries that are the controller's now.
    pub now: BTreeSet<Use>,
    /// When the next one will be.
    pub next: Option<Duration>,
}

impl Handover {
    /// Entries become the controller's at this age.
    pub fn new(age: Duration) -> Self {
        Self { age, pending: Mutex::default() }
    }

    /// Notes what is pending now, and returns what has been pending for long enough.
    pub fn look(&self, key: &SetupKey, now: Instant) -> Due {
        let mut all = self.pending.lock();
        if key.pending().is_empty() {
            all.remove(&ObjectName::of(key));
            return Due::default();
        }
        let before = all.remove(&ObjectName::of(key)).filter(|before| before.uid == key.uid());
        let before = before.map(|before| before.since).unwrap_or_default();
        let first_seen = |entry| {
            let used = Use::of(entry);
            let first = before.get(&used).copied().unwrap_or(now);
            (used, first)
        };
        let since: HashMap<_, _> = key.pending().iter().map(first_seen).collect();
        let left = |first: Instant| self.age.saturating_sub(now.saturating_duration_since(first));
        let due = Due {
            now: since.iter().filter(|(_, first)| left(**first).is_zero()).map(|(used, _)| used.clone()).collect(),
            next: since.values().map(|first| left(*first)).filter(|left| !left.is_zero()).min(),
        };
        all.insert(ObjectName::of(key), Pending { uid: key.uid(), since });
        due
    }

    /// Drops what is remembered about a key that is gone.
    pub fn forget(&self, key: &ObjectName) {
        self.pending.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(uid: &str, pending: &[i64]) -> SetupKey {
        let entry = |number: &i64| {
            json!({
                "number": number, "name": format!("peer-{number}"), "publicKey": "", "hostname": "h",
                "tokenDigest": "", "since": "2026-11-24T06:00:00Z",
            })
        };
        let pending: Vec<_> = pending.iter().map(entry).collect();
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "namespace": "n", "name": "k", "uid": uid }, "spec": {}, "status": { "pending": pending },
        }))
        .unwrap()
    }

    fn uses<const N: usize>(numbers: [i64; N]) -> BTreeSet<Use> {
        numbers.map(|number| Use { key_id: String::new(), number }).into()
    }

    const AGE: Duration = Duration::from_secs(15);

    #[test]
    fn an_entry_is_handed_over_once_this_process_has_seen_it_for_long_enough() {
        let (handover, start) = (Handover::new(AGE), Instant::now());
        let second = start + Duration::from_secs(5);
        assert_eq!(handover.look(&key("u", &[1]), start), Due { now: [].into(), next: Some(AGE) });
        let next = Some(Duration::from_secs(10));
        assert_eq!(handover.look(&key("u", &[1, 2]), second), Due { now: [].into(), next });
        assert_eq!(
            handover.look(&key("u", &[1, 2]), start + AGE),
            Due { now: uses([1]), next: Some(Duration::from_secs(5)) }
        );
        assert_eq!(handover.look(&key("u", &[2]), second + AGE), Due { now: uses([2]), next: None });
        assert_eq!(handover.look(&key("u", &[]), second + AGE), Due::default());
        assert!(handover.pending.lock().is_empty(), "it remembers what is over");
    }

    #[test]
    fn a_later_entry_and_another_key_of_the_name_start_from_zero() {
        let (handover, start) = (Handover::new(AGE), Instant::now());
        handover.look(&key("u", &[1]), start);
        assert_eq!(handover.look(&key("u", &[2]), start + AGE).now, [].into());
        handover.look(&key("u", &[1]), start);
        assert_eq!(handover.look(&key("v", &[1]), start + AGE).now, [].into());
    }
}
