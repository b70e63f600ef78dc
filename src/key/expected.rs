//! Peers that are expected: their machines were seen pending, and the Peer watch has not shown them yet.
//!
//! The Peer watch can lag behind the key watch, so an entry may be seen cleared before its Peer is seen. From the moment an
//! entry is pending until its Peer is shown, the Peer is *expected*. A machine that is neither cached nor expected has no
//! Peer, which saves a request.
//!
//! This holds as long as no version of a key is missed. When keys are re-listed, versions may have been missed. Then the
//! cached Peers are not trusted until they have been re-listed too, after the keys.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kube::ResourceExt;

use super::{Digest, ledger::Use};
use crate::api::SetupKey;

/// How long a machine whose entry was cleared is told to wait for its Peer to be shown.
const AWAITED: Duration = Duration::from_secs(30);

/// A Peer that is deleted before it is shown stays expected until the Peers are re-listed. So many cleared entries without
/// a Peer are worth a new list.
const MANY: usize = 10_000;

/// An entry of `status.pending`, as far as it tells which Peer it becomes.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// The namespace of the key, and of the Peer.
    pub namespace: String,
    /// The name of the Peer.
    pub name: String,
    /// The UID of the key.
    pub key: String,
    /// The use of the key, which the Peer names too.
    pub used: Use,
}

impl Entry {
    /// Whether a Peer of this name, with this namespace, key and use, was made from this entry or from a later one of the
    /// same machine. An earlier Peer of the machine says nothing about this entry.
    pub fn is_met_by(&self, namespace: &str, key: &str, used: &Use) -> bool {
        let same_key = self.namespace == namespace && self.key == key && self.used.key_id == used.key_id;
        same_key && used.number >= self.used.number
    }
}

/// The Peers of this namespace, or of all namespaces, are to be listed again.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use = "the Peers are not trusted until they are listed"]
pub struct Relist(pub Option<String>);

/// The expected Peers, and whether they are all that can be missing.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Expected {
    /// By the name of the Peer.
    peers: BTreeMap<String, Vec<Expectation>>,
    /// How many expectations are about entries that were cleared.
    cleared: usize,
    /// The entries that are pending, by the UID of the key: the name of the Peer by use.
    pending: BTreeMap<String, BTreeMap<Use, String>>,
    /// By namespace, or one for all namespaces.
    scopes: BTreeMap<Option<String>, Scope>,
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Expectation {
    entry: Entry,
    token: String,
    cleared: Option<Cleared>,
}

/// The entry was seen to be cleared.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Cleared {
    at: Instant,
    /// Whether the list of Peers that is under way began after that, so that it shows the Peer if there still is one.
    before_list: bool,
}

/// What was listed.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Scope {
    /// Whether the keys have been listed.
    keys: bool,
    /// Whether the latest list of Peers began after the latest list of keys.
    in_order: bool,
    /// Whether such a list is complete.
    trusted: bool,
    /// Whether a list was asked for and is not complete.
    asked: bool,
}

impl Expected {
    /// Notes what is pending in a version of a key. Every version is noted, in order. `shown` says whether the watch has
    /// already shown the Peer of an entry.
    pub fn note(&mut self, key: &SetupKey, now: Instant, shown: impl Fn(&Entry) -> bool) -> Option<Relist> {
        let (namespace, uid) = (key.namespace().unwrap_or_default(), key.uid().unwrap_or_default());
        let before = self.pending.remove(&uid).unwrap_or_default();
        let mut pending = BTreeMap::new();
        for entry in key.pending() {
            let used = Use::in_key(key, entry);
            pending.insert(used.clone(), entry.name.clone());
            if before.contains_key(&used) {
                continue;
            }
            let token = entry.token_digest.clone();
            let entry = Entry { namespace: namespace.clone(), name: entry.name.clone(), key: uid.clone(), used };
            if !shown(&entry) {
                let expectation = Expectation { entry, token, cleared: None };
                self.peers.entry(expectation.entry.name.clone()).or_default().push(expectation);
            }
        }
        for (used, name) in before.iter().filter(|(used, _)| !pending.contains_key(used)) {
            self.clear(&uid, used, name, now);
        }
        if !pending.is_empty() {
            self.pending.insert(uid, pending);
        }
        if self.cleared > MANY { self.ask(&namespace) } else { None }
    }

    /// A key was deleted, so none of its entries is pending any more.
    pub fn key_gone(&mut self, uid: &str, now: Instant) {
        for (used, name) in self.pending.remove(uid).unwrap_or_default() {
            self.clear(uid, &used, &name, now);
        }
    }

    /// The watch has shown a Peer of this name: that it exists, or that it was deleted. `meets` says whether it is the Peer
    /// of an entry.
    pub fn shown(&mut self, name: &str, meets: impl Fn(&Entry) -> bool) {
        self.retain_of(name, |expectation| !meets(&expectation.entry));
    }

    /// Whether the watch has shown every Peer of this name that exists.
    pub fn is_all_shown(&self, namespace: &str, name: &str) -> bool {
        self.is_trusted(namespace) && !self.expects(namespace, name)
    }

    /// Whether every Peer of the namespace is either shown or expected. It is so once the Peers were listed after the keys.
    pub fn is_trusted(&self, namespace: &str) -> bool {
        self.scopes.get(&self.scope_of(namespace)).is_some_and(|scope| scope.trusted)
    }

    /// Whether a Peer of this name is expected.
    pub fn expects(&self, namespace: &str, name: &str) -> bool {
        self.peers.get(name).is_some_and(|of_name| of_name.iter().any(|of| of.entry.namespace == namespace))
    }

    /// Whether this machine is about to become a Peer: it is pending, or was a moment ago.
    pub fn is_awaited(&self, key: &SetupKey, name: &str, token: &Digest, now: Instant) -> bool {
        let uid = key.uid().unwrap_or_default();
        let lately = |cleared: &Cleared| now.saturating_duration_since(cleared.at) <= AWAITED;
        self.peers.get(name).into_iter().flatten().any(|expectation| {
            expectation.entry.key == uid
                && expectation.token == token.as_str()
                && expectation.cleared.as_ref().is_none_or(lately)
        })
    }

    /// The keys were listed. Versions from before the list may have been missed.
    pub fn keys_listed(&mut self, namespace: Option<&str>) -> Relist {
        let namespace = namespace.map(str::to_owned);
        let scope = Scope { keys: true, in_order: false, trusted: false, asked: true };
        self.scopes.insert(namespace.clone(), scope);
        Relist(namespace)
    }

    /// A list of Peers begins.
    pub fn listing(&mut self, namespace: Option<&str>) {
        let scope = self.scopes.entry(namespace.map(str::to_owned)).or_default();
        scope.in_order = scope.keys;
        let of_names = self.peers.values_mut().flatten();
        let in_scope = of_names.filter(|of| namespace.is_none_or(|namespace| namespace == of.entry.namespace));
        in_scope.filter_map(|of| of.cleared.as_mut()).for_each(|cleared| cleared.before_list = true);
    }

    /// A list of Peers is complete. A Peer whose entry was cleared before the list began is in it, or has been deleted.
    pub fn listed(&mut self, namespace: Option<&str>) {
        let scope = self.scopes.entry(namespace.map(str::to_owned)).or_default();
        scope.trusted = scope.in_order;
        scope.asked = false;
        let names: Vec<_> = self.peers.keys().cloned().collect();
        for name in names {
            self.retain_of(&name, |expectation| {
                namespace.is_some_and(|namespace| namespace != expectation.entry.namespace)
                    || expectation.cleared.as_ref().is_none_or(|cleared| !cleared.before_list)
            });
        }
    }

    fn clear(&mut self, uid: &str, used: &Use, name: &str, now: Instant) {
        let of_name = self.peers.get_mut(name).into_iter().flatten();
        for expectation in of_name.filter(|of| of.entry.key == uid && of.entry.used == *used) {
            expectation.cleared = Some(Cleared { at: now, before_list: false });
            self.cleared += 1;
        }
    }

    fn retain_of(&mut self, name: &str, keep: impl Fn(&Expectation) -> bool) {
        let Some(of_name) = self.peers.get_mut(name) else { return };
        let cleared = |of_name: &[Expectation]| of_name.iter().filter(|of| of.cleared.is_some()).count();
        let before = cleared(of_name);
        of_name.retain(keep);
        self.cleared -= before - cleared(of_name);
        if of_name.is_empty() {
            self.peers.remove(name);
        }
    }

    /// Asks for one list, however often it is called before that is complete.
    fn ask(&mut self, namespace: &str) -> Option<Relist> {
        let namespace = self.scope_of(namespace);
        let scope = self.scopes.entry(namespace.clone()).or_default();
        (!std::mem::replace(&mut scope.asked, true)).then_some(Relist(namespace))
    }

    fn scope_of(&self, namespace: &str) -> Option<String> {
        (!self.scopes.contains_key(&None)).then(|| namespace.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAME: &str = "peer-a";
    const ID: &str = "0123456789abcdefghij";

    fn used(key_id: &str, number: i64) -> Use {
        Use { key_id: key_id.to_owned(), number }
    }

    /// A version of the key in which these uses are pending, all of the same machine.
    fn key_with(pending: &[Use]) -> SetupKey {
        let entry = |used: &Use| {
            json!({
                "keyId": used.key_id, "number": used.number, "name": NAME, "publicKey": "", "hostname": "h",
                "tokenDigest": Digest::of("token").as_str(), "since": "2026-11-24T06:00:00Z",
            })
        };
        let pending: Vec<_> = pending.iter().map(entry).collect();
        let key = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "namespace": "n", "name": "office", "uid": "u" },
            "spec": {}, "status": { "id": ID, "pending": pending },
        });
        serde_json::from_value(key).unwrap()
    }

    fn key(pending: &[i64]) -> SetupKey {
        key_with(&pending.iter().map(|number| used(ID, *number)).collect::<Vec<_>>())
    }

    /// Whether an entry is that of the Peer that was made from this use.
    fn of(number: i64) -> impl Fn(&Entry) -> bool {
        move |entry| entry.is_met_by("n", "u", &used(ID, number))
    }

    fn list(expected: &mut Expected, namespace: Option<&str>) {
        expected.listing(namespace);
        expected.listed(namespace);
    }

    /// Both kinds have been listed.
    fn listed() -> Expected {
        let mut expected = Expected::default();
        let _ = expected.keys_listed(None);
        list(&mut expected, None);
        expected
    }

    fn note(expected: &mut Expected, pending: &[i64]) -> Option<Relist> {
        expected.note(&key(pending), Instant::now(), |_| false)
    }

    fn is_all_shown(expected: &Expected) -> bool {
        expected.is_all_shown("n", NAME)
    }

    #[test]
    fn a_pending_machine_is_expected_until_its_peer_is_shown() {
        let mut expected = listed();
        assert!(is_all_shown(&expected));
        note(&mut expected, &[1]);
        assert!(!is_all_shown(&expected));
        assert!(expected.is_all_shown("another", NAME) && expected.is_all_shown("n", "peer-b"));
        note(&mut expected, &[]);
        assert!(!is_all_shown(&expected), "it was cleared, so the Peer exists");
        expected.shown(NAME, of(1));
        assert!(is_all_shown(&expected));
        assert_eq!(expected, listed());
    }

    #[test]
    fn an_older_peer_of_the_machine_does_not_count() {
        let mut expected = listed();
        note(&mut expected, &[2]);
        expected.shown(NAME, of(1));
        assert!(!is_all_shown(&expected));
        expected.shown(NAME, of(2));
        assert!(is_all_shown(&expected));
    }

    #[test]
    fn the_same_number_of_another_key_id_is_another_use() {
        let mut expected = listed();
        note(&mut expected, &[1]);
        expected.shown(NAME, |entry| entry.is_met_by("n", "u", &used("another", 1)));
        assert!(!is_all_shown(&expected), "that Peer is of another use");
        let both = key_with(&[used(ID, 1), used("another", 1)]);
        let _ = expected.note(&both, Instant::now(), |_| false);
        let _ = expected.note(&key_with(&[used("another", 1)]), Instant::now(), |_| false);
        expected.shown(NAME, of(1));
        assert!(!is_all_shown(&expected), "the other is still pending");
        expected.shown(NAME, |entry| entry.is_met_by("n", "u", &used("another", 1)));
        assert!(is_all_shown(&expected));
    }

    #[test]
    fn an_entry_without_a_key_id_is_met_by_the_peer_that_is_made_from_it() {
        let mut expected = listed();
        let key = key_with(&[used("", 1)]);
        let _ = expected.note(&key, Instant::now(), |_| false);
        let reference = crate::api::Peer::from_entry(&key, &key.pending()[0]).spec.setup_key_ref;
        let made = Use { key_id: reference.id, number: reference.number };
        expected.shown(NAME, |entry| entry.is_met_by("n", "u", &made));
        assert!(is_all_shown(&expected));
    }

    #[test]
    fn a_peer_that_was_shown_before_is_not_expected() {
        let mut expected = listed();
        let _ = expected.note(&key(&[1]), Instant::now(), of(1));
        assert!(is_all_shown(&expected));
        let _ = expected.note(&key(&[1, 2]), Instant::now(), of(1));
        assert!(!is_all_shown(&expected));
    }

    #[test]
    fn a_list_settles_entries_that_were_cleared_before_it_began() {
        let mut expected = listed();
        note(&mut expected, &[1]);
        list(&mut expected, None);
        assert!(!is_all_shown(&expected), "it was pending, so the Peer may come yet");
        expected.listing(None);
        note(&mut expected, &[]);
        expected.listed(None);
        assert!(!is_all_shown(&expected), "it was not cleared yet when the list began");
        expected.listing(None);
        // The list was interrupted and begins again.
        list(&mut expected, None);
        assert!(is_all_shown(&expected));
    }

    #[test]
    fn a_list_settles_its_own_namespace_and_no_other() {
        let mut expected = Expected::default();
        for namespace in ["n", "m"] {
            let _ = expected.keys_listed(Some(namespace));
            list(&mut expected, Some(namespace));
        }
        note(&mut expected, &[1]);
        note(&mut expected, &[]);
        list(&mut expected, Some("m"));
        assert!(!is_all_shown(&expected));
        list(&mut expected, Some("n"));
        assert!(is_all_shown(&expected));
    }

    #[test]
    fn nothing_is_trusted_until_the_peers_were_listed_after_the_keys() {
        let mut expected = Expected::default();
        let trusted = |expected: &Expected| ["n", "m"].map(|namespace| expected.is_all_shown(namespace, NAME));
        list(&mut expected, Some("n"));
        assert_eq!(trusted(&expected), [false, false], "the keys were never listed");
        for namespace in [Some("n"), Some("m")] {
            let _ = expected.keys_listed(namespace);
        }
        assert_eq!(trusted(&expected), [false, false]);
        list(&mut expected, Some("n"));
        assert_eq!(trusted(&expected), [true, false]);
        // A list of Peers that is under way when the keys are re-listed does not help.
        expected.listing(Some("n"));
        let _ = expected.keys_listed(Some("n"));
        expected.listed(Some("n"));
        assert_eq!(trusted(&expected), [false, false]);
        list(&mut expected, Some("n"));
        assert_eq!(trusted(&expected), [true, false]);
    }

    #[test]
    fn peers_are_re_listed_after_the_keys_and_when_many_never_came() {
        let mut expected = Expected::default();
        assert_eq!(expected.keys_listed(Some("n")), Relist(Some("n".to_owned())));
        list(&mut expected, Some("n"));
        for number in 0..=i64::try_from(MANY).unwrap() {
            assert_eq!(note(&mut expected, &[number]), None);
        }
        assert_eq!(note(&mut expected, &[]), Some(Relist(Some("n".to_owned()))));
        assert_eq!(note(&mut expected, &[]), None, "it was asked for already");
        list(&mut expected, Some("n"));
        assert!(expected.peers.is_empty() && expected.cleared == 0);
    }

    #[test]
    fn a_peer_that_joined_with_a_deleted_key_is_still_expected() {
        let mut expected = listed();
        note(&mut expected, &[1]);
        expected.key_gone("u", Instant::now());
        assert!(!is_all_shown(&expected));
        expected.shown(NAME, of(1));
        assert_eq!(expected, listed());
    }

    #[test]
    fn a_machine_is_awaited_for_a_while_with_the_same_token_only() {
        let (mut expected, now) = (listed(), Instant::now());
        let (token, another) = (Digest::of("token"), Digest::of("another"));
        let _ = expected.note(&key(&[1]), now, |_| false);
        let is_awaited = |expected: &Expected, token, now| expected.is_awaited(&key(&[]), NAME, token, now);
        assert!(is_awaited(&expected, &token, now + 2 * AWAITED) && !is_awaited(&expected, &another, now));
        let _ = expected.note(&key(&[]), now, |_| false);
        assert!(is_awaited(&expected, &token, now + AWAITED));
        assert!(!is_awaited(&expected, &token, now + AWAITED + Duration::from_millis(1)));
    }
}
