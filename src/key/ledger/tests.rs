//! Each verdict, which comes before which, and what is counted.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-24T06:00:00.5Z".parse().unwrap()
}

/// The public id of every key here.
const ID: &str = "0123456789abcdefghij";

/// Uses of that key.
fn uses(numbers: impl IntoIterator<Item = i64>) -> BTreeSet<Use> {
    numbers.into_iter().map(|number| Use { key_id: ID.to_owned(), number }).collect()
}

/// The public id of the key that was replaced.
const OLD: &str = "abcdefghij0123456789";

/// The value "right" has replaced the value "old", which admits peers until 06:00:01 and has two uses left. Changed by a
/// JSON merge patch.
fn rotated(change: Value) -> SetupKey {
    let previous = json!({
        "id": OLD, "digest": digest("old").as_str(), "key": "OLDKE****", "expires": "2026-12-01T00:00:00Z",
        "admitsUntil": "2026-11-24T06:00:01Z", "usedTimes": 5, "usageLimit": 7,
    });
    let mut rotated = json!({
        "spec": { "usageLimit": 7 },
        "status": { "expires": "2027-01-01T00:00:00Z", "usedTimes": 0, "previous": [previous] },
    });
    json_patch::merge(&mut rotated, &change);
    key(rotated)
}

/// The uses of the current key and of the one that it replaced.
fn counts(key: &SetupKey) -> (i64, i64) {
    (key.used_times(), key.previous()[0].used_times)
}

fn digest(text: &str) -> Digest {
    Digest::of(text)
}

/// A key whose value is "right", changed by a JSON merge patch.
fn key(change: Value) -> SetupKey {
    let mut key = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
        "metadata": { "name": "office", "namespace": "n", "uid": "u1", "resourceVersion": "1" },
        "spec": {},
        "status": {
            "id": ID, "digest": digest("right").as_str(), "expires": "2026-11-24T06:00:01Z",
            "usedTimes": 5, "lastUsed": "2026-11-20T00:00:00Z",
        },
    });
    json_patch::merge(&mut key, &change);
    serde_json::from_value(key).unwrap()
}

fn valid() -> SetupKey {
    key(json!({}))
}

/// The machine of this number, with a token and a key of its own choice.
fn machine(number: u8, token: &str, presented: &str) -> Applicant {
    Applicant {
        key: digest(presented),
        public_key: PublicKey::from_bytes([number; 32]),
        hostname: format!("host-{number}"),
        extra_dns_labels: Vec::new(),
        token: digest(token),
    }
}

fn name(number: u8) -> PeerName {
    PeerName::of(&PublicKey::from_bytes([number; 32]))
}

fn peer(token: &str) -> Option<Existing> {
    Some(Existing { token: digest(token), leaving: false })
}

fn leaving(token: &str) -> Option<Existing> {
    Some(Existing { token: digest(token), leaving: true })
}

/// The key with this machine pending.
fn with_pending(key: &SetupKey, number: u8, token: &str) -> SetupKey {
    let (swap, verdicts) = admit(key, &[(&machine(number, token, "right"), None)], &BTreeSet::new(), now());
    assert_eq!(verdicts, [Verdict::Admitted]);
    after(key, swap)
}

/// The key as the swap leaves it.
fn after(key: &SetupKey, swap: Option<Swap>) -> SetupKey {
    swap.map_or_else(|| key.clone(), |swap| swap.onto(key))
}

/// The verdict on one machine. Nothing is written unless it is admitted.
fn verdict(key: &SetupKey, applicant: &Applicant, found: Option<Existing>) -> Verdict {
    let (swap, verdicts) = admit(key, &[(applicant, found)], &BTreeSet::new(), now());
    assert_eq!(swap.is_some(), verdicts == [Verdict::Admitted], "{verdicts:?} wrote {swap:?}");
    verdicts[0]
}

#[test]
fn an_admission_counts_one_and_enters_the_peer() {
    let mut applicant = machine(1, "t", "right");
    applicant.extra_dns_labels = vec!["db".to_owned()];
    let key = key(json!({ "spec": { "allowExtraDnsLabels": true } }));
    let (swap, verdicts) = admit(&key, &[(&applicant, None)], &BTreeSet::new(), now());
    assert_eq!(verdicts, [Verdict::Admitted]);
    let entry = PendingPeer {
        key_id: ID.to_owned(),
        number: 6,
        name: name(1).to_string(),
        public_key: applicant.public_key.to_string(),
        hostname: "host-1".to_owned(),
        extra_dns_labels: vec!["db".to_owned()],
        token_digest: digest("t").to_string(),
        since: now().into(),
    };
    assert_eq!(
        swap,
        Some(Swap { used_times: 6, last_used: Some(now().into()), pending: vec![entry], previous: Vec::new() })
    );
}

#[test]
fn a_key_that_admits_no_peer_refuses_every_machine_the_same_way() {
    let wrong = machine(1, "t", "wrong");
    assert_eq!(verdict(&valid(), &wrong, None), Verdict::Not(Refusal::Refused));
    let right = machine(1, "t", "right");
    for change in [
        json!({ "spec": { "revoked": true } }),
        json!({ "status": { "expires": "2026-11-24T06:00:00Z" } }),
        json!({ "spec": { "usageLimit": 5 } }),
        json!({ "spec": { "type": "one-off" } }),
        json!({ "metadata": { "deletionTimestamp": "2026-11-24T05:00:00Z" } }),
        json!({ "status": { "digest": null } }),
        json!({ "status": { "expires": null } }),
        json!({ "status": null }),
    ] {
        let key = key(change.clone());
        assert_eq!(verdict(&key, &right, None), Verdict::Not(Refusal::Refused), "{change}");
        assert!(!admits(&key, &right.key, now()), "{change}");
    }
    assert!(admits(&valid(), &right.key, now()));
}

#[test]
fn the_last_moment_still_admits() {
    let last = "2026-11-24T06:00:01Z".parse().unwrap();
    assert!(admits(&valid(), &digest("right"), last));
    assert!(!admits(&valid(), &digest("right"), last + chrono::Duration::milliseconds(1)));
}

#[test]
fn a_known_peer_needs_no_key() {
    let revoked = key(json!({ "spec": { "revoked": true } }));
    for presented in ["right", "wrong"] {
        for key in [&valid(), &revoked, &with_pending(&valid(), 1, "t")] {
            assert_eq!(verdict(key, &machine(1, "t", presented), peer("t")), Verdict::Known);
            assert_eq!(verdict(key, &machine(1, "t", presented), leaving("t")), Verdict::Not(Refusal::Leaving));
        }
    }
}

#[test]
fn a_pending_peer_needs_no_key_and_is_not_counted_again() {
    let mut pending = with_pending(&valid(), 1, "t");
    pending.spec.revoked = true;
    for presented in ["right", "wrong"] {
        assert_eq!(verdict(&pending, &machine(1, "t", presented), None), Verdict::Pending);
    }
}

#[test]
fn that_another_token_has_joined_is_told_only_to_a_holder_of_a_good_key() {
    let pending = with_pending(&valid(), 1, "t");
    for (presented, told) in [("right", Verdict::Not(Refusal::Taken)), ("wrong", Verdict::Not(Refusal::Refused))] {
        let other = machine(1, "another", presented);
        for found in [peer("t"), leaving("t")] {
            assert_eq!(verdict(&valid(), &other, found), told);
        }
        assert_eq!(verdict(&pending, &other, None), told);
    }
    let mut revoked = pending;
    revoked.spec.revoked = true;
    assert_eq!(verdict(&revoked, &machine(1, "another", "right"), None), Verdict::Not(Refusal::Refused));
}

#[test]
fn dns_labels_are_refused_only_to_a_holder_of_a_good_key() {
    let with_labels = |presented| Applicant { extra_dns_labels: vec!["db".to_owned()], ..machine(1, "t", presented) };
    assert_eq!(verdict(&valid(), &with_labels("right"), None), Verdict::Not(Refusal::NoExtraDnsLabels));
    assert_eq!(verdict(&valid(), &with_labels("wrong"), None), Verdict::Not(Refusal::Refused));
}

#[test]
fn a_machine_that_comes_twice_at_once_is_counted_once() {
    let (first, other) = (machine(1, "t", "right"), machine(1, "another", "right"));
    let batch = [(&first, None), (&first, None), (&other, None)];
    let (swap, verdicts) = admit(&valid(), &batch, &BTreeSet::new(), now());
    assert_eq!(verdicts, [Verdict::Admitted, Verdict::Pending, Verdict::Not(Refusal::Taken)]);
    assert_eq!(swap.unwrap().used_times, 6);
}

#[test]
fn a_batch_is_admitted_in_order_up_to_the_limit() {
    let key = key(json!({ "spec": { "usageLimit": 7 } }));
    let machines: Vec<_> = (1..=4).map(|number| machine(number, "t", "right")).collect();
    let batch: Vec<_> = machines.iter().map(|machine| (machine, None)).collect();
    let (swap, verdicts) = admit(&key, &batch, &BTreeSet::new(), now());
    assert_eq!(
        verdicts,
        [Verdict::Admitted, Verdict::Admitted, Verdict::Not(Refusal::Refused), Verdict::Not(Refusal::Refused)]
    );
    assert_eq!(swap.unwrap().used_times, 7);
}

#[test]
fn when_too_many_are_pending_there_is_room_once_some_are_cleared() {
    let machines: Vec<_> = (0..=200).map(|number| machine(number, "t", "right")).collect();
    let batch: Vec<_> = machines.iter().map(|machine| (machine, None)).collect();
    let (swap, verdicts) = admit(&valid(), &batch, &BTreeSet::new(), now());
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Admitted).count(), MOST_PENDING);
    assert_eq!(verdicts.last(), Some(&Verdict::Not(Refusal::Busy)));
    let full = after(&valid(), swap);
    assert_eq!(full.status.as_ref().unwrap().used_times, 205);
    let last = [(&machines[200], None)];
    let (swap, verdicts) = admit(&full, &last, &uses([6]), now());
    assert_eq!(verdicts, [Verdict::Admitted]);
    assert_eq!(swap.unwrap().pending.len(), MOST_PENDING);
}

#[test]
fn clearing_removes_the_given_uses_and_counts_nothing() {
    let two = with_pending(&with_pending(&valid(), 1, "t"), 2, "t");
    let swap = clear(&two, &uses([6, 9])).unwrap();
    let left: Vec<_> = swap.pending.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!((swap.used_times, left), (7, vec![name(2).as_str()]));
    assert_eq!(clear(&two, &uses([9])), None);
    assert_eq!(clear(&key(json!({ "status": null })), &uses([6])), None);
}

#[test]
fn a_machine_whose_entry_is_cleared_by_the_same_swap_is_still_pending() {
    // The machine asked again, and was looked up just before its Peer was created.
    let pending = with_pending(&valid(), 1, "t");
    let again = machine(1, "t", "right");
    let (swap, verdicts) = admit(&pending, &[(&again, None)], &uses([6]), now());
    assert_eq!(verdicts, [Verdict::Pending]);
    assert_eq!(swap.map(|swap| (swap.used_times, swap.pending)), Some((6, Vec::new())));
}

#[test]
fn a_deleted_peer_may_join_again_and_counts_again() {
    let pending = with_pending(&valid(), 1, "t");
    let cleared = after(&pending, clear(&pending, &uses([6])));
    assert_eq!(verdict(&cleared, &machine(1, "t", "right"), None), Verdict::Admitted);
    // To clear the first entry does not clear the second.
    assert_eq!(clear(&with_pending(&cleared, 1, "t"), &uses([6])), None);
}

#[test]
fn a_replaced_key_admits_only_by_its_new_value_and_counts_on() {
    let replaced = key(json!({ "status": { "digest": digest("new").as_str() } }));
    assert_eq!(verdict(&replaced, &machine(1, "t", "right"), None), Verdict::Not(Refusal::Refused));
    let (swap, _) = admit(&replaced, &[(&machine(1, "t", "new"), None)], &BTreeSet::new(), now());
    assert_eq!(swap.unwrap().used_times, 6);
}

#[test]
fn a_use_counts_on_the_key_that_was_presented_up_to_its_own_limit() {
    let key = rotated(json!({}));
    let presented = ["right", "old", "old", "old", "right"];
    let machines: Vec<_> = (1..).zip(presented).map(|(number, key)| machine(number, "t", key)).collect();
    let batch: Vec<_> = machines.iter().map(|machine| (machine, None)).collect();
    let (swap, verdicts) = admit(&key, &batch, &BTreeSet::new(), now());
    let refused = Verdict::Not(Refusal::Refused);
    assert_eq!(verdicts, [Verdict::Admitted, Verdict::Admitted, Verdict::Admitted, refused, Verdict::Admitted]);
    let admitted = after(&key, swap);
    assert_eq!(counts(&admitted), (2, 7));
    let entries: Vec<_> = admitted.pending().iter().map(|entry| (entry.key_id.as_str(), entry.number)).collect();
    assert_eq!(entries, [(ID, 1), (OLD, 6), (OLD, 7), (ID, 2)]);
    // The limit of the one is not that of the other.
    let spent = rotated(json!({ "status": { "usedTimes": 7 } }));
    assert_eq!(verdict(&spent, &machine(1, "t", "right"), None), refused);
    assert_eq!(verdict(&spent, &machine(1, "t", "old"), None), Verdict::Admitted);
}

#[test]
fn a_replaced_key_admits_up_to_and_including_its_last_second() {
    let key = rotated(json!({}));
    let last: DateTime<Utc> = "2026-11-24T06:00:01Z".parse().unwrap();
    for (moment, admitted) in [(last, true), (last + chrono::Duration::seconds(1), false)] {
        assert_eq!(admits(&key, &digest("old"), moment), admitted, "{moment}");
        assert!(admits(&key, &digest("right"), moment), "{moment}");
    }
    let mut expired = key;
    let status = expired.status.as_mut().unwrap();
    status.previous[0].expires = "2026-11-24T06:00:00Z".parse().unwrap();
    assert!(!admits(&expired, &digest("old"), now()), "it outlives its expiry");
}

#[test]
fn a_replaced_key_admits_no_more_than_its_successor_may() {
    for change in [
        json!({ "spec": { "rotation": { "overlap": "0s" } } }),
        json!({ "spec": { "revoked": true } }),
        json!({ "metadata": { "deletionTimestamp": "2026-11-24T05:00:00Z" } }),
        json!({ "spec": { "authorityRef": { "name": "vpn" } } }),
        json!({ "status": { "previous": [] } }),
    ] {
        let key = rotated(change.clone());
        assert_eq!(verdict(&key, &machine(1, "t", "old"), None), Verdict::Not(Refusal::Refused), "{change}");
    }
    let brief = rotated(json!({ "spec": { "rotation": { "overlap": "1s" } } }));
    assert_eq!(verdict(&brief, &machine(1, "t", "old"), None), Verdict::Admitted);
}

#[test]
fn uses_of_two_keys_with_one_number_are_two_uses() {
    let mut key = rotated(json!({}));
    key.status.as_mut().unwrap().previous[0].used_times = 0;
    let machines = [machine(1, "t", "right"), machine(2, "t", "old")];
    let (swap, _) = admit(&key, &machines.each_ref().map(|machine| (machine, None)), &BTreeSet::new(), now());
    let admitted = after(&key, swap);
    assert_eq!((counts(&admitted), admitted.pending()[0].number, admitted.pending()[1].number), ((1, 1), 1, 1));
    let of_old = [Use { key_id: OLD.to_owned(), number: 1 }].into();
    let left = after(&admitted, clear(&admitted, &of_old));
    assert_eq!((counts(&left), left.pending()), ((1, 1), &admitted.pending()[..1]));
}

#[test]
fn a_machine_that_was_admitted_by_the_replaced_key_is_not_counted_again_by_the_new_one() {
    let key = rotated(json!({}));
    let (swap, _) = admit(&key, &[(&machine(1, "t", "old"), None)], &BTreeSet::new(), now());
    let mut ended = after(&key, swap);
    ended.status.as_mut().unwrap().previous[0].admits_until = "2026-11-24T06:00:00Z".parse().unwrap();
    for presented in ["old", "right"] {
        assert_eq!(verdict(&ended, &machine(1, "t", presented), None), Verdict::Pending);
    }
}

#[test]
fn an_entry_of_another_key_id_with_the_same_number_is_not_cleared() {
    let mut two = with_pending(&with_pending(&valid(), 1, "t"), 2, "t");
    two.status.as_mut().unwrap().pending[1].key_id = "another-id-of-a-key-".to_owned();
    two.status.as_mut().unwrap().pending[1].number = 6;
    let swap = clear(&two, &uses([6])).unwrap();
    let left: Vec<_> = swap.pending.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(left, [name(2).as_str()]);
}

#[test]
fn a_machine_meets_its_own_peer_by_its_token() {
    let own = digest("t");
    assert_eq!(meet(None, &own), Met::NoPeer);
    assert_eq!(meet(peer("t").as_ref(), &own), Met::Own);
    assert_eq!(meet(leaving("t").as_ref(), &own), Met::OwnLeaving);
    for other in [peer("another"), leaving("another")] {
        assert_eq!(meet(other.as_ref(), &own), Met::Other);
    }
}

#[test]
fn last_used_never_goes_back() {
    let ahead = key(json!({ "status": { "lastUsed": "2026-11-24T07:00:00Z" } }));
    let (swap, _) = admit(&ahead, &[(&machine(1, "t", "right"), None)], &BTreeSet::new(), now());
    assert_eq!(swap.unwrap().last_used, Some("2026-11-24T07:00:00Z".parse().unwrap()));
}

/// A machine with its token and key, and the Peer under its name.
fn applicant() -> impl Strategy<Value = (Applicant, Option<Existing>)> {
    let token = || prop::sample::select(vec!["t", "another"]);
    let found = prop_oneof![
        3 => Just(None),
        1 => (token(), any::<bool>()).prop_map(|(token, leaving)| Some(Existing { token: digest(token), leaving })),
    ];
    let presented = prop::sample::select(vec!["right", "right", "right", "old", "wrong"]);
    (0..6u8, token(), presented, any::<bool>(), found).prop_map(|(number, token, presented, labels, found)| {
        let labels = if labels { vec!["db".to_owned()] } else { Vec::new() };
        (Applicant { extra_dns_labels: labels, ..machine(number, token, presented) }, found)
    })
}

proptest! {
    /// Batch after batch, with any requests and any entries cleared in between.
    #[test]
    fn uses_never_exceed_the_limit_never_go_down_and_are_one_per_entry(
        batches in prop::collection::vec(
            (
                prop::collection::vec(applicant(), 0..6), prop::collection::btree_set(1..9i64, 0..3),
                prop::collection::btree_set(6..8i64, 0..2),
            ),
            0..6,
        ),
        limit in 0..9,
    ) {
        let mut key = rotated(json!({ "spec": { "usageLimit": limit } }));
        for (batch, clearable, of_old) in batches {
            let mut clearable = uses(clearable);
            clearable.extend(of_old.into_iter().map(|number| Use { key_id: OLD.to_owned(), number }));
            let batch: Vec<_> = batch.iter().map(|(applicant, found)| (applicant, found.clone())).collect();
            let (swap, verdicts) = admit(&key, &batch, &clearable, now());
            prop_assert_eq!(verdicts.len(), batch.len());
            let before = key.status.clone().unwrap();
            key = after(&key, swap.clone());
            let status = key.status.clone().unwrap();
            let admitted = verdicts.iter().filter(|verdict| **verdict == Verdict::Admitted).count();

            let [(current, old), (current_before, old_before)] =
                [&status, &before].map(|status| (status.used_times, status.previous[0].used_times));
            prop_assert!(current >= current_before && old >= old_before);
            prop_assert_eq!(current + old, current_before + old_before + i64::try_from(admitted).unwrap());
            prop_assert!((limit == 0 || current <= i64::from(limit)) && old <= 7);
            prop_assert_eq!(swap.is_some(), status != before, "it writes what is there already, or not what it decided");
            let stay = before.pending.iter().filter(|entry| !clearable.contains(&Use::of(entry)));
            prop_assert_eq!(status.pending.len(), stay.count() + admitted);
            let mut names: Vec<_> = status.pending.iter().map(|entry| &entry.name).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), status.pending.len(), "a machine is pending twice");
            let uses: BTreeSet<_> = status.pending.iter().map(Use::of).collect();
            prop_assert_eq!(uses.len(), status.pending.len(), "two entries are one use");
            let counted = |used: &Use| if used.key_id == ID { current } else { old };
            prop_assert!(uses.iter().all(|used| used.number <= counted(used)));
            for ((applicant, _), verdict) in batch.iter().zip(&verdicts) {
                let entered = status.pending.iter().any(|entry| {
                    entry.name == PeerName::of(&applicant.public_key).as_str()
                        && entry.token_digest == applicant.token.as_str()
                });
                prop_assert!(*verdict != Verdict::Admitted || entered, "{:?} is not entered", applicant);
            }
        }
    }

    /// A machine without a key that admits it learns one thing only: whether its own token is known.
    #[test]
    fn without_a_good_key_there_is_one_answer(
        batch in prop::collection::vec(applicant(), 1..6), revoked: bool, pending in prop::option::of(0..6u8),
    ) {
        let mut key = valid();
        if let Some(number) = pending {
            key = with_pending(&key, number, "t");
        }
        key.spec.revoked = revoked;
        let known = |applicant: &Applicant, found: &Option<Existing>| match found {
            Some(existing) => existing.token == applicant.token,
            None => key.status.as_ref().unwrap().pending.iter().any(|entry| {
                entry.name == PeerName::of(&applicant.public_key).as_str()
                    && entry.token_digest == applicant.token.as_str()
            }),
        };
        let wrong = |applicant: &Applicant| revoked || applicant.key != digest("right");
        let judged: Vec<_> = batch.iter().map(|(applicant, found)| (applicant, found.clone())).collect();
        let (_, verdicts) = admit(&key, &judged, &BTreeSet::new(), now());
        // A machine that was admitted earlier in the same batch is known by then.
        let unknown = |place: usize| {
            let (applicant, found) = &batch[place];
            let earlier = batch[..place].iter().any(|(other, _)| other.public_key == applicant.public_key);
            !known(applicant, found) && !earlier
        };
        for place in (0..batch.len()).filter(|place| wrong(&batch[*place].0) && unknown(*place)) {
            prop_assert_eq!(verdicts[place], Verdict::Not(Refusal::Refused));
        }
    }
}
