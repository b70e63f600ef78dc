//! The Peers that are to come: their machines were seen pending, and the watch of Peers has not shown them yet.
//!
//! An entry is cleared once its Peer exists, but the watch of Peers may be behind that of keys. So a machine of which no
//! Peer is shown may still have one, unless none is expected either: whatever was cleared in a version of a key that
//! the watch has shown was pending in one before, and is expected from then on until its Peer is shown. That is what
//! spares looking each machine up at the API server.
//!
//! It holds as long as no version of a key is missed. Where keys were listed anew, some may have been, and the view of
//! Peers is not trusted until they have been listed too, after the keys.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use kube::ResourceExt;
use tokio::sync::Notify;

use super::peers::Known;
use crate::{api::SetupKey, key::Digest};

/// How long a machine whose entry was cleared is told to wait for its Peer to be shown.
const AWAITED: Duration = Duration::from_secs(30);

/// Peers that were expected in vain, for they went before they were shown, are forgotten with a new list. This many are
/// worth one.
const MANY: usize = 10_000;

/// An entry of `pending`, as far as it tells which Peer it becomes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub namespace: String,
    pub name: String,
    /// The uid of the key.
    pub key: String,
    pub number: i64,
}

/// What is expected, and whether that is all there is to expect.
#[derive(Default)]
pub struct Expected {
    /// By the name of the Peer.
    peers: HashMap<String, Vec<Expectation>>,
    cleared: usize,
    /// What is pending, by the uid of the key: the name by the number of each entry.
    pending: HashMap<String, BTreeMap<i64, String>>,
    /// By namespace, or all of them as one.
    scopes: HashMap<Option<String>, Scope>,
    /// How many lists of Peers have begun.
    lists: u64,
}

struct Expectation {
    entry: Entry,
    token: String,
    cleared: Option<Cleared>,
}

/// When an entry was seen to be cleared.
struct Cleared {
    at: Instant,
    /// How many lists had begun by then.
    lists: u64,
}

#[derive(Default)]
struct Scope {
    /// How many lists of Peers had begun, anywhere, when the keys were last listed.
    keys_listed: u64,
    /// Which list of Peers is under way or was the last.
    begun: u64,
    /// Which was the last that is complete; 0 is none.
    done: u64,
    /// Whether a list was asked for that is not complete.
    asked: bool,
    anew: Arc<Notify>,
}

impl Expected {
    /// Notes what is pending in a version of a key; each is noted, in its order. `shown` tells whether the watch has shown
    /// the Peer of an entry already.
    pub fn note(&mut self, key: &SetupKey, now: Instant, shown: impl Fn(&Entry) -> bool) {
        let (namespace, uid) = (key.namespace().unwrap_or_default(), key.uid().unwrap_or_default());
        let entries = key.pending();
        let before = self.pending.remove(&uid).unwrap_or_default();
        let pending: BTreeMap<_, _> = entries.iter().map(|entry| (entry.number, entry.name.clone())).collect();
        for entry in entries.iter().filter(|entry| !before.contains_key(&entry.number)) {
            let token = entry.token_digest.clone();
            let entry = Entry {
                namespace: namespace.clone(),
                name: entry.name.clone(),
                key: uid.clone(),
                number: entry.number,
            };
            if !shown(&entry) {
                let expectation = Expectation { entry, token, cleared: None };
                self.peers.entry(expectation.entry.name.clone()).or_default().push(expectation);
            }
        }
        for (number, name) in before.iter().filter(|(number, _)| !pending.contains_key(number)) {
            self.clear(&uid, *number, name, now);
        }
        if !pending.is_empty() {
            self.pending.insert(uid, pending);
        }
        if self.cleared > MANY {
            self.scope_of(&namespace).ask();
        }
    }

    /// A key has gone, and nothing of it is pending any more.
    pub fn key_gone(&mut self, uid: &str, now: Instant) {
        for (number, name) in self.pending.remove(uid).unwrap_or_default() {
            self.clear(uid, number, &name, now);
        }
    }

    /// The watch has shown a Peer, be it that it has gone.
    pub fn shown(&mut self, peer: &Known) {
        if self.peers.contains_key(&peer.name) {
            self.retain_of(&peer.name, |expectation| !peer.is_of(&expectation.entry));
        }
    }

    /// Whether there is no Peer of this name but what the watch has shown.
    pub fn is_all_shown(&self, namespace: &str, name: &str) -> bool {
        let trusted = self.scopes.get(&self.key_of(namespace)).is_some_and(|scope| scope.done > scope.keys_listed);
        let expected =
            self.peers.get(name).is_some_and(|of_name| of_name.iter().any(|of| of.entry.namespace == namespace));
        trusted && !expected
    }

    /// Whether this machine is on its way to become a Peer: it is pending, or was a moment ago.
    pub fn is_awaited(&self, key: &SetupKey, name: &str, token: &Digest) -> bool {
        let uid = key.uid().unwrap_or_default();
        self.peers.get(name).is_some_and(|of_name| {
            of_name.iter().any(|expectation| {
                expectation.entry.key == uid
                    && expectation.token == token.as_str()
                    && expectation.cleared.as_ref().is_none_or(|cleared| cleared.at.elapsed() <= AWAITED)
            })
        })
    }

    /// By what the watch of Peers is told to list them anew.
    pub fn anew(&mut self, namespace: Option<&str>) -> Arc<Notify> {
        Arc::clone(&self.scopes.entry(namespace.map(str::to_owned)).or_default().anew)
    }

    /// The keys were listed: what came and went meanwhile is not known.
    pub fn keys_listed(&mut self, namespace: Option<&str>) {
        let lists = self.lists;
        let scope = self.scopes.entry(namespace.map(str::to_owned)).or_default();
        scope.keys_listed = lists;
        scope.asked = false;
        scope.ask();
    }

    /// A list of Peers begins.
    pub fn listing(&mut self, namespace: Option<&str>) {
        self.lists += 1;
        self.scopes.entry(namespace.map(str::to_owned)).or_default().begun = self.lists;
    }

    /// A list of Peers is complete. Whoever was cleared before it began is in it, or has gone.
    pub fn listed(&mut self, namespace: Option<&str>) {
        let scope = self.scopes.entry(namespace.map(str::to_owned)).or_default();
        scope.done = scope.begun;
        scope.asked = false;
        let begun = scope.begun;
        self.retain(|expectation| {
            namespace.is_some_and(|namespace| namespace != expectation.entry.namespace)
                || expectation.cleared.as_ref().is_none_or(|cleared| cleared.lists >= begun)
        });
    }

    fn clear(&mut self, uid: &str, number: i64, name: &str, now: Instant) {
        let lists = self.lists;
        let of_name = self.peers.get_mut(name).into_iter().flatten();
        for expectation in of_name.filter(|of| of.entry.key == uid && of.entry.number == number) {
            expectation.cleared = Some(Cleared { at: now, lists });
            self.cleared += 1;
        }
    }

    fn retain(&mut self, keep: impl Fn(&Expectation) -> bool) {
        let names: Vec<_> = self.peers.keys().cloned().collect();
        names.iter().for_each(|name| self.retain_of(name, &keep));
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

    fn key_of(&self, namespace: &str) -> Option<String> {
        (!self.scopes.contains_key(&None)).then(|| namespace.to_owned())
    }

    fn scope_of(&mut self, namespace: &str) -> &mut Scope {
        let scope = self.key_of(namespace);
        self.scopes.entry(scope).or_default()
    }
}

impl Scope {
    /// Has the Peers listed, once for all that ask before that is done.
    fn ask(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.anew.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Peer;

    const NAME: &str = "peer-a";

    /// A version of the key, in which these uses are pending, all of the same machine.
    fn key(pending: &[i64]) -> SetupKey {
        let entry = |number: &i64| {
            json!({
                "number": number, "name": NAME, "publicKey": "", "hostname": "h",
                "tokenDigest": Digest::of("token").as_str(), "since": "2026-11-24T06:00:00Z",
            })
        };
        let pending: Vec<_> = pending.iter().map(entry).collect();
        let key = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "namespace": "n", "name": "office", "uid": "u" }, "spec": {}, "status": { "pending": pending },
        });
        serde_json::from_value(key).unwrap()
    }

    /// The Peer that was made from this use.
    fn peer(number: i64) -> Known {
        let peer = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer",
            "metadata": { "namespace": "n", "name": NAME, "uid": "p" },
            "spec": {
                "publicKey": "", "hostname": "h", "tokenDigest": "",
                "setupKeyRef": { "name": "office", "uid": "u", "id": "", "use": number },
            },
        });
        serde_json::from_value::<Peer>(peer).unwrap().into()
    }

    /// Both kinds have been listed.
    fn listed() -> Expected {
        let mut expected = Expected::default();
        expected.keys_listed(None);
        expected.listing(None);
        expected.listed(None);
        expected
    }

    fn note(expected: &mut Expected, pending: &[i64]) {
        expected.note(&key(pending), Instant::now(), |_| false);
    }

    fn is_all_shown(expected: &Expected) -> bool {
        expected.is_all_shown("n", NAME)
    }

    #[test]
    fn who_was_pending_is_expected_until_the_peer_is_shown() {
        let mut expected = listed();
        assert!(is_all_shown(&expected));
        note(&mut expected, &[1]);
        assert!(!is_all_shown(&expected));
        assert!(expected.is_all_shown("another", NAME) && expected.is_all_shown("n", "peer-b"));
        note(&mut expected, &[]);
        assert!(!is_all_shown(&expected), "it was cleared, so the Peer exists");
        expected.shown(&peer(1));
        assert!(is_all_shown(&expected));
        assert!(expected.peers.is_empty() && expected.pending.is_empty() && expected.cleared == 0);
    }

    #[test]
    fn an_older_peer_of_the_machine_does_not_count() {
        let mut expected = listed();
        note(&mut expected, &[2]);
        expected.shown(&peer(1));
        assert!(!is_all_shown(&expected));
        expected.shown(&peer(2));
        assert!(is_all_shown(&expected));
    }

    #[test]
    fn what_was_shown_before_is_not_expected() {
        let mut expected = listed();
        expected.note(&key(&[1]), Instant::now(), |entry| peer(1).is_of(entry));
        assert!(is_all_shown(&expected));
        expected.note(&key(&[1, 2]), Instant::now(), |entry| peer(1).is_of(entry));
        assert!(!is_all_shown(&expected));
    }

    #[test]
    fn a_list_tells_of_those_who_were_cleared_before_it_began() {
        let mut expected = listed();
        note(&mut expected, &[1]);
        expected.listing(None);
        expected.listed(None);
        assert!(!is_all_shown(&expected), "it was pending, so the Peer may come yet");
        expected.listing(None);
        note(&mut expected, &[]);
        expected.listed(None);
        assert!(!is_all_shown(&expected), "it was cleared, but not yet when the list began");
        expected.listing(None);
        expected.listed(None);
        assert!(is_all_shown(&expected));
    }

    #[test]
    fn nothing_is_certain_until_the_peers_were_listed_after_the_keys() {
        let mut expected = Expected::default();
        let certain = |expected: &Expected| ["n", "m"].map(|namespace| expected.is_all_shown(namespace, NAME));
        for namespace in [Some("n"), Some("m")] {
            expected.keys_listed(namespace);
        }
        assert_eq!(certain(&expected), [false, false]);
        expected.listing(Some("n"));
        expected.listed(Some("n"));
        assert_eq!(certain(&expected), [true, false]);
        // A list of Peers that is under way when keys are listed anew does not help.
        expected.listing(Some("n"));
        expected.keys_listed(Some("n"));
        expected.listed(Some("n"));
        assert_eq!(certain(&expected), [false, false]);
        expected.listing(Some("n"));
        expected.listed(Some("n"));
        assert_eq!(certain(&expected), [true, false]);
    }

    #[tokio::test]
    async fn peers_are_listed_anew_after_the_keys_and_when_many_came_to_nothing() {
        let mut expected = Expected::default();
        let anew = expected.anew(None);
        let asked = async || tokio::time::timeout(Duration::from_millis(1), anew.notified()).await.is_ok();
        assert!(!asked().await);
        expected.keys_listed(None);
        assert!(asked().await && !asked().await);
        expected.listing(None);
        expected.listed(None);
        for number in 0..=i64::try_from(MANY).unwrap() {
            note(&mut expected, &[number]);
        }
        assert!(!asked().await);
        note(&mut expected, &[]);
        note(&mut expected, &[]);
        assert!(asked().await && !asked().await);
        expected.listing(None);
        expected.listed(None);
        assert!(expected.peers.is_empty());
    }

    #[test]
    fn a_peer_that_joined_with_a_key_that_has_gone_is_still_expected() {
        let mut expected = listed();
        note(&mut expected, &[1]);
        expected.key_gone("u", Instant::now());
        assert!(!is_all_shown(&expected));
        expected.shown(&peer(1));
        assert!(is_all_shown(&expected) && expected.pending.is_empty());
    }

    #[test]
    fn who_was_pending_is_awaited_for_a_while_with_the_same_token_only() {
        let mut expected = listed();
        let (of, another) = (Digest::of("token"), Digest::of("another"));
        note(&mut expected, &[1]);
        assert!(expected.is_awaited(&key(&[]), NAME, &of) && !expected.is_awaited(&key(&[]), NAME, &another));
        expected.note(&key(&[]), Instant::now().checked_sub(AWAITED).unwrap(), |_| false);
        assert!(!expected.is_awaited(&key(&[]), NAME, &of));
    }
}
