//! Pending entries that nobody comes to: the replica that committed them has died, or could not go on.
//!
//! They are rolled forward, and the use is never given back: by the time that anybody else looks, the Peer may be there
//! and its machine may have been told so. What is old is measured by what this process has itself seen, on its own steady
//! clock, so that clocks need not agree.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use kube::{Api, Client, ResourceExt, api::Patch};
use parking_lot::{Mutex, MutexGuard};

use crate::{
    api::{Peer, SetupKey},
    cluster::{
        ObjectName,
        call::{Attempt, Error, call},
        patch_params, post_params,
    },
    key::{
        ledger::{Swap, Use},
        peer::peer_of,
    },
};

/// Peers of one key that are created at the same time.
const AT_ONCE: usize = 8;

/// The entries that this process has seen pending, and since when.
pub struct Orphans {
    age: Duration,
    seen: Mutex<HashMap<ObjectName, Seen>>,
}

struct Seen {
    uid: Option<String>,
    since: HashMap<Use, Instant>,
}

/// What is to be done about the pending entries of a key.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Due {
    /// The numbers of those that are left to us.
    pub now: BTreeSet<Use>,
    /// When the next one will be.
    pub next: Option<Duration>,
}

impl Orphans {
    /// Entries are left to us at this age.
    pub fn new(age: Duration) -> Self {
        Self { age, seen: Mutex::default() }
    }

    /// Notes what is pending now, and says what of it has been for long enough.
    pub fn look(&self, key: &SetupKey, now: Instant) -> Due {
        let name = ObjectName::of(key);
        let pending = key.pending();
        let mut all = self.seen();
        if pending.is_empty() {
            all.remove(&name);
            return Due::default();
        }
        let seen = all.entry(name).or_insert_with(|| Seen { uid: key.uid(), since: HashMap::new() });
        if seen.uid != key.uid() {
            *seen = Seen { uid: key.uid(), since: HashMap::new() };
        }
        let mut since = HashMap::with_capacity(pending.len());
        let mut due = Due::default();
        for entry in pending {
            let first = seen.since.get(&Use::of(entry)).copied().unwrap_or(now);
            since.insert(Use::of(entry), first);
            let left = self.age.saturating_sub(now.saturating_duration_since(first));
            if left.is_zero() {
                due.now.insert(Use::of(entry));
            } else {
                due.next = Some(due.next.map_or(left, |next| next.min(left)));
            }
        }
        seen.since = since;
        due
    }

    /// Lets go of a key that is gone.
    pub fn forget(&self, key: &ObjectName) {
        self.seen().remove(key);
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<ObjectName, Seen>> {
        self.seen.lock()
    }
}

/// Creates the Peers of these entries, which must have just been read from the API server. One that exists is as good: its
/// name is made of the machine's public key.
pub async fn create_peers(client: &Client, key: &SetupKey, numbers: &BTreeSet<Use>) -> Result<(), Error> {
    let namespace = key.namespace().unwrap_or_default();
    let peers: Api<Peer> = Api::namespaced(client.clone(), &namespace);
    let due: Vec<_> = key
        .pending()
        .iter()
        .filter(|entry| numbers.contains(&Use::of(entry)))
        .map(|entry| peer_of(key, entry))
        .collect();
    stream::iter(due)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, |peer| {
            let (peers, namespace) = (&peers, &namespace);
            async move {
                let attempt = Attempt::on("create Peer", namespace, &peer.name_any());
                match call(attempt, peers.create(&post_params(), &peer)).await {
                    Err(error) if error.code() == Some(409) => Ok(()),
                    created => created.map(drop),
                }
            }
        })
        .await
}

/// Writes what the ledger says, if the `SetupKey` is still the one that it was computed from.
pub async fn write_swap(client: &Client, key: &SetupKey, swap: &Swap) -> Result<SetupKey, Error> {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    let keys: Api<SetupKey> = Api::namespaced(client.clone(), &namespace);
    let attempt = Attempt::on("clear pending entries of SetupKey", &namespace, &name);
    call(attempt, keys.patch_status(&name, &patch_params(), &Patch::Merge(swap.patch(key)))).await
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
    fn an_entry_is_ours_once_this_process_has_seen_it_for_long_enough() {
        let (orphans, start) = (Orphans::new(AGE), Instant::now());
        let second = start + Duration::from_secs(5);
        assert_eq!(orphans.look(&key("u", &[1]), start), Due { now: [].into(), next: Some(AGE) });
        let next = Some(Duration::from_secs(10));
        assert_eq!(orphans.look(&key("u", &[1, 2]), second), Due { now: [].into(), next });
        assert_eq!(
            orphans.look(&key("u", &[1, 2]), start + AGE),
            Due { now: uses([1]), next: Some(Duration::from_secs(5)) }
        );
        assert_eq!(orphans.look(&key("u", &[2]), second + AGE), Due { now: uses([2]), next: None });
        assert_eq!(orphans.look(&key("u", &[]), second + AGE), Due::default());
        assert!(orphans.seen().is_empty(), "it remembers what is over");
    }

    #[test]
    fn a_later_entry_and_another_key_of_the_name_start_anew() {
        let (orphans, start) = (Orphans::new(AGE), Instant::now());
        orphans.look(&key("u", &[1]), start);
        assert_eq!(orphans.look(&key("u", &[2]), start + AGE).now, [].into());
        orphans.look(&key("u", &[1]), start);
        assert_eq!(orphans.look(&key("v", &[1]), start + AGE).now, [].into());
    }
}
