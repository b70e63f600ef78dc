//! What stands on record for the keys: id, digest, expiry and the replaced keys, in the status of each.
//!
//! Only the controller writes this part of a status. A policy in the chart sees to that, and not every cluster has it. So a
//! process remembers what it last wrote or saw of each record. A record that has changed since was changed by another
//! writer, and a pass compares it with the Secret. One change is taken as it is: an expiry that moves earlier lets in no
//! machine that would not have been let in before.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::watch::{Cache, Filled, Mark, Sort, WatchedKey};
use crate::{
    api::{PreviousKey, SetupKey, SetupKeyStatus, Timestamp},
    cluster::ObjectName,
    key::{Digest, claim::has_precedence, record::Standing},
};

/// The records of all keys that this process watches.
#[derive(Default)]
pub struct Records {
    caches: Mutex<Vec<(Cache<WatchedKey>, Filled)>>,
    /// Each record as it was last written or seen.
    known: Mutex<HashMap<Arc<ObjectName>, Known>>,
    /// Keys whose digest stood on record for another key too when they were listed, and that no pass has compared with
    /// their Secret since.
    disputed: Mutex<HashSet<ObjectName>>,
    /// Tells the reconcilers of all scopes that there are more of these.
    found: watch::Sender<()>,
    hasher: RandomState,
}

/// What is remembered of a record.
struct Known {
    last: Record,
    /// Records that were sent since. Until one of them is known to be stored, each of them may be.
    sent: Vec<Record>,
}

/// How many of them are remembered: more than are sent before one is stored, or seen not to be.
const MOST_SENT: usize = 8;

/// A record, as far as it must be told from another one.
#[derive(Clone, Eq, PartialEq)]
struct Record {
    /// A hash of all but the expiry.
    hash: u64,
    /// A hash of the current key.
    current: u64,
    expires: Option<Timestamp>,
    /// A hash of each replaced key, and until when it admits peers.
    replaced: Box<[(u64, Timestamp)]>,
}

impl Record {
    /// Whether nothing but the expiry has changed since, and that not to a later moment.
    fn allows(&self, now: &Self) -> bool {
        let earlier = match (self.expires, now.expires) {
            (Some(before), Some(now)) => now <= before,
            (before, now) => before == now,
        };
        self.hash == now.hash && earlier
    }

    /// Whether a key with this hash admitted peers until this moment at least.
    fn had(&self, key: u64, until: Timestamp) -> bool {
        let was_current = self.current == key && self.expires.is_some_and(|expires| until <= expires);
        was_current || self.replaced.iter().any(|(replaced, end)| *replaced == key && until <= *end)
    }
}

impl Records {
    /// Adds the keys of a scope.
    pub fn watch(&self, keys: Cache<WatchedKey>, filled: Filled) {
        self.caches.lock().push((keys, filled));
    }

    /// Looks for digests that stand on record for more than one key, after keys were listed: another writer may have
    /// changed a status while no process was there to see it.
    pub fn listed(&self) {
        let caches = self.caches.lock();
        let mut marked: Vec<_> = caches.iter().flat_map(|(keys, _)| keys.all_marked(Sort::Digest)).collect();
        drop(caches);
        marked.sort_unstable();
        let mut disputed = HashSet::new();
        for pair in marked.windows(2) {
            if let [(first, one), (second, other)] = pair
                && first == second
            {
                disputed.extend([one, other].map(|name| ObjectName::clone(name)));
            }
        }
        if !disputed.is_empty() {
            self.disputed.lock().extend(disputed);
            self.found.send_replace(());
        }
    }

    /// One item each time that disputed digests were found. The keys may be in another scope than the list that showed it.
    pub fn disputes(&self) -> impl Stream<Item = ()> + use<> {
        stream::unfold(self.found.subscribe(), |mut found| async move { Some((found.changed().await.ok()?, found)) })
    }

    /// What is known of the writer of this key's record.
    pub fn standing(&self, key: &SetupKey) -> Standing {
        let (name, now) = (ObjectName::of(key), self.record(key, key.status.as_ref()));
        let mut known = self.known.lock();
        let known = match known.get_mut(&name) {
            Some(known) => known,
            None => known.entry(self.shared_name(&name)).or_insert(Known { last: now.clone(), sent: Vec::new() }),
        };
        let kept = known.last.allows(&now) || known.sent.iter().any(|sent| sent.allows(&now));
        if kept {
            known.last = now;
        }
        match (kept, self.disputed.lock().contains(&name)) {
            (false, _) => Standing::Altered,
            (true, true) => Standing::Disputed,
            (true, false) => Standing::Kept,
        }
    }

    /// Whether this process knows of this replaced key from an earlier record, and it admits peers no longer than it did by
    /// that. So a record that was altered does not end a key that another leader has replaced.
    pub fn vouch_for(&self, key: &SetupKey, replaced: &PreviousKey) -> bool {
        let hash = self.hash_of(key, &replaced.id, &replaced.digest, replaced.usage_limit);
        let known = self.known.lock();
        let Some(known) = known.get(&ObjectName::of(key)) else { return false };
        std::iter::once(&known.last).chain(&known.sent).any(|record| record.had(hash, replaced.admits_until))
    }

    /// Notes the record that this process is about to write. The answer may be lost.
    pub fn sending(&self, key: &SetupKey, status: &SetupKeyStatus) {
        if let Some(known) = self.known.lock().get_mut(&ObjectName::of(key)) {
            known.sent.truncate(MOST_SENT - 1);
            known.sent.insert(0, self.record(key, Some(status)));
        }
    }

    /// Notes the record that this process has written.
    pub fn wrote(&self, key: &SetupKey) {
        let name = ObjectName::of(key);
        self.disputed.lock().remove(&name);
        let name = self.shared_name(&name);
        self.known.lock().insert(name, Known { last: self.record(key, key.status.as_ref()), sent: Vec::new() });
    }

    /// Notes that this record was compared with the Secret.
    pub fn compared(&self, key: &SetupKey) {
        if !self.disputed.lock().is_empty() {
            self.disputed.lock().remove(&ObjectName::of(key));
        }
    }

    /// Drops what is known of a key that is gone.
    pub fn forget(&self, key: &ObjectName) {
        self.known.lock().remove(key);
        self.disputed.lock().remove(key);
    }

    /// Whether the keys of all scopes have been listed. Until then, a rival may not be known.
    pub fn are_complete(&self) -> bool {
        self.caches.lock().iter().all(|(_, filled)| filled.is_complete())
    }

    /// Another key that keeps this one from holding the value with this digest.
    pub fn rival(&self, key: &SetupKey, digest: &Digest) -> Option<ObjectName> {
        let caches = self.caches.lock();
        let precedes = |watched: &WatchedKey| watched.0.as_ref().is_ok_and(|other| has_precedence(other, key, digest));
        caches.iter().find_map(|(keys, _)| {
            let mut others = keys.marked(Mark::new(Sort::Digest, digest.as_str())).into_iter();
            let rival = others.find(|other| keys.get(other).as_ref().is_some_and(precedes))?;
            Some(ObjectName::clone(&rival))
        })
    }

    /// The name as a cache has it, so that it is in memory once.
    fn shared_name(&self, name: &ObjectName) -> Arc<ObjectName> {
        let caches = self.caches.lock();
        caches.iter().find_map(|(keys, _)| keys.shared_name(name)).unwrap_or_else(|| name.clone().into())
    }

    /// A keyed hash, so that no writer can choose another record with the same one.
    fn record(&self, key: &SetupKey, status: Option<&SetupKeyStatus>) -> Record {
        let hash = self.hasher.hash_one((
            &key.metadata.uid,
            status.map(|status| (&status.id, &status.digest)),
            status.map(|status| status.previous.iter().map(fixed).collect::<Vec<_>>()),
            status.and_then(|status| status.secret.as_ref()).map(|secret| {
                (&secret.resource_version, &secret.aliases, &secret.management_url_key, &secret.management_url)
            }),
        ));
        let current = status.and_then(|status| Some((status.id.as_deref()?, status.digest.as_deref()?)));
        let limit = key.spec.effective_usage_limit();
        let replaced = status.iter().flat_map(|status| &status.previous);
        Record {
            hash,
            current: current.map_or(0, |(id, digest)| self.hash_of(key, id, digest, limit)),
            expires: status.and_then(|status| status.expires),
            replaced: replaced
                .map(|replaced| {
                    let PreviousKey { id, digest, usage_limit, admits_until, .. } = replaced;
                    (self.hash_of(key, id, digest, *usage_limit), *admits_until)
                })
                .collect(),
        }
    }

    fn hash_of(&self, key: &SetupKey, id: &str, digest: &str, limit: Option<i32>) -> u64 {
        self.hasher.hash_one((&key.metadata.uid, id, digest, limit))
    }
}

/// What never changes of a replaced key.
fn fixed(previous: &PreviousKey) -> impl Hash {
    let PreviousKey { id, digest, key, expires, admits_until, used_times: _, usage_limit } = previous;
    (id, digest, key, expires.moment(), admits_until.moment(), *usage_limit)
}

#[cfg(test)]
mod tests {
    use kube::{core::DeserializeGuard, runtime::watcher::Event};
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::watch::Filling;

    fn key(name: &str, created: &str, digest: &str) -> SetupKey {
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "namespace": "n", "name": name, "uid": name, "creationTimestamp": created },
            "spec": {}, "status": { "digest": digest },
        }))
        .unwrap()
    }

    #[test]
    fn a_record_is_altered_if_it_changes_and_this_process_has_not_written_it() {
        let records = Records::default();
        let (before, after) = (key("office", "2026-11-24T06:00:00Z", "a"), key("office", "2026-11-24T06:00:00Z", "b"));
        assert_eq!(records.standing(&before), Standing::Kept, "the first sight is believed");
        assert_eq!(records.standing(&after), Standing::Altered);
        assert_eq!(records.standing(&after), Standing::Altered, "until it is written");
        records.wrote(&after);
        assert_eq!(records.standing(&after), Standing::Kept);
        records.forget(&ObjectName::of(&after));
        assert_eq!(records.standing(&before), Standing::Kept);
    }

    #[test]
    fn a_record_whose_answer_is_lost_is_our_own_whenever_it_shows() {
        let records = Records::default();
        let (before, after) = (key("office", "2026-11-24T06:00:00Z", "a"), key("office", "2026-11-24T06:00:00Z", "b"));
        records.standing(&before);
        let another = key("office", "2026-11-24T06:00:00Z", "c");
        records.sending(&before, after.status.as_ref().unwrap());
        records.sending(&before, another.status.as_ref().unwrap());
        for shown in [&before, &after, &another] {
            assert_eq!(records.standing(shown), Standing::Kept);
        }
        assert_eq!(records.standing(&key("office", "2026-11-24T06:00:00Z", "d")), Standing::Altered);
    }

    #[test]
    fn an_expiry_may_move_earlier_and_not_later() {
        let records = Records::default();
        let mut office = key("office", "2026-11-24T06:00:00Z", "a");
        let mut standing = |expires: &str| {
            office.status.as_mut().unwrap().expires = Some(expires.parse().unwrap());
            records.standing(&office)
        };
        assert_eq!(standing("2026-12-24T06:00:00Z"), Standing::Kept);
        assert_eq!(standing("2026-12-23T06:00:00Z"), Standing::Kept);
        assert_eq!(standing("2026-12-24T06:00:00Z"), Standing::Altered);
    }

    #[test]
    fn uses_are_no_part_of_the_record() {
        let records = Records::default();
        let mut office = key("office", "2026-11-24T06:00:00Z", "a");
        records.wrote(&office);
        office.status.as_mut().unwrap().used_times = 7;
        assert_eq!(records.standing(&office), Standing::Kept);
    }

    /// The standing of a rotated key whose status another writer has changed by this merge patch. The first item of its
    /// `previous` is a patch too.
    fn standing_after(change: Value) -> Standing {
        let replaced = json!({
            "id": "a", "digest": "a", "key": "AAAAA****", "expires": "2026-12-24T06:00:00Z",
            "admitsUntil": "2026-11-25T06:00:00Z", "usedTimes": 1, "usageLimit": 3,
        });
        let mut office = serde_json::to_value(key("office", "2026-11-24T06:00:00Z", "b")).unwrap();
        let status = json!({
            "issuedAt": "2026-11-24T06:00:00Z", "unusedSince": "2026-11-23T06:00:00Z", "previous": [replaced],
        });
        json_patch::merge(&mut office["status"], &status);
        let records = Records::default();
        records.wrote(&serde_json::from_value(office.clone()).unwrap());
        let first = office["status"]["previous"][0].clone();
        json_patch::merge(&mut office["status"], &change);
        if let Some(entry) = office["status"].pointer_mut("/previous/0") {
            let change = std::mem::replace(entry, first);
            json_patch::merge(entry, &change);
        }
        records.standing(&serde_json::from_value(office).unwrap())
    }

    #[test]
    fn what_stands_on_record_of_a_revision_is_altered_by_any_change_but_a_use() {
        let entry = |change: Value| json!({ "previous": [change] });
        let added = json!({
            "id": "c", "digest": "c", "key": "CCCCC****", "expires": "2026-12-24T06:00:00Z",
            "admitsUntil": "2026-12-24T06:00:00Z", "usedTimes": 0,
        });
        for altered in [
            json!({ "previous": null }),
            json!({ "previous": [{}, added] }),
            entry(json!({ "id": "c" })),
            entry(json!({ "digest": "c" })),
            entry(json!({ "key": "CCCCC****" })),
            entry(json!({ "expires": "2027-12-24T06:00:00Z" })),
            entry(json!({ "admitsUntil": "2026-12-24T06:00:00Z" })),
            entry(json!({ "usageLimit": null })),
        ] {
            assert_eq!(standing_after(altered.clone()), Standing::Altered, "{altered}");
        }
        for kept in [json!({}), entry(json!({})), entry(json!({ "usedTimes": 2 })), json!({ "usedTimes": 2 })] {
            assert_eq!(standing_after(kept.clone()), Standing::Kept, "{kept}");
        }
    }

    #[test]
    fn replaced_keys_are_known_from_an_earlier_record_only() {
        let records = Records::default();
        let mut office = key("office", "2026-11-24T06:00:00Z", "b");
        let status = office.status.as_mut().unwrap();
        (status.id, status.expires) = (Some("b".to_owned()), "2026-12-24T06:00:00Z".parse().ok());
        let replaced = |id: &str, until: &str, limit: Option<i32>| PreviousKey {
            id: id.to_owned(),
            digest: id.to_owned(),
            key: String::new(),
            expires: "2027-12-24T06:00:00Z".parse().unwrap(),
            admits_until: until.parse().unwrap(),
            used_times: 0,
            usage_limit: limit,
        };
        status.previous.push(replaced("a", "2026-11-25T06:00:00Z", Some(3)));
        assert!(!records.vouch_for(&office, &office.previous()[0]), "nothing is known yet");
        records.wrote(&office);
        for (id, until, limit, known) in [
            ("a", "2026-11-25T06:00:00Z", Some(3), true),
            ("a", "2026-11-25T05:00:00Z", Some(3), true),
            ("a", "2026-11-25T06:00:01Z", Some(3), false),
            ("a", "2026-11-25T06:00:00Z", None, false),
            ("c", "2026-11-25T06:00:00Z", Some(3), false),
            // The current key, which another leader may have replaced.
            ("b", "2026-12-24T06:00:00Z", None, true),
            ("b", "2026-12-24T06:00:01Z", None, false),
        ] {
            assert_eq!(records.vouch_for(&office, &replaced(id, until, limit)), known, "{id} {until} {limit:?}");
        }
    }

    #[test]
    fn a_replaced_digest_that_stands_on_record_elsewhere_is_disputed() {
        let mut filling = Filling::new();
        let mut owner = key("b", "2026-11-24T06:00:00Z", "new");
        let replaced = json!({
            "id": "a", "digest": "same", "key": "AAAAA****", "expires": "2026-12-24T06:00:00Z",
            "admitsUntil": "2026-11-25T06:00:00Z",
        });
        owner.status.as_mut().unwrap().previous.push(serde_json::from_value(replaced).unwrap());
        let thief = key("a", "2026-11-24T06:00:01Z", "same");
        for listed in [&owner, &thief] {
            filling.apply(&Event::Apply(DeserializeGuard(Ok(listed.clone()))));
        }
        let records = Records::default();
        records.watch(filling.cache(), Filled::from_the_start());
        records.listed();
        for disputed in [&owner, &thief] {
            assert_eq!(records.standing(disputed), Standing::Disputed);
        }
        assert_eq!(records.rival(&thief, &Digest::from_base64("same")), Some(ObjectName::of(&owner)));
    }

    #[test]
    fn two_keys_with_one_digest_are_disputed_until_they_are_compared() {
        let mut filling = Filling::new();
        let (older, younger) = (key("b", "2026-11-24T06:00:00Z", "same"), key("a", "2026-11-24T06:00:01Z", "same"));
        let alone = key("c", "2026-11-24T06:00:02Z", "other");
        for listed in [&older, &younger, &alone] {
            filling.apply(&Event::Apply(DeserializeGuard(Ok(listed.clone()))));
        }
        let records = Records::default();
        records.watch(filling.cache(), Filled::from_the_start());
        records.listed();
        assert_eq!(records.standing(&older), Standing::Disputed);
        assert_eq!(records.standing(&younger), Standing::Disputed);
        assert_eq!(records.standing(&alone), Standing::Kept);
        records.compared(&older);
        assert_eq!(records.standing(&older), Standing::Kept);
        let digest = Digest::from_base64("same");
        assert_eq!(records.rival(&older, &digest), None);
        assert_eq!(records.rival(&younger, &digest), Some(ObjectName::of(&older)));
        assert_eq!(records.rival(&alone, &digest).map(|rival| rival.namespace).as_deref(), Some("n"));
    }
}
