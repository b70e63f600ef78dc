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
    let mut key = key.clone();
    if let (Some(swap), Some(status)) = (swap, &mut key.status) {
        status.used_times = swap.used_times;
        status.last_used = swap.last_used;
        status.pending = swap.pending;
    }
    key
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
    let presented = prop::sample::select(vec!["right", "right", "right", "wrong"]);
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
            (prop::collection::vec(applicant(), 0..6), prop::collection::btree_set(1..9i64, 0..3)), 0..6,
        ),
        limit in 0..9,
    ) {
        let mut key = key(json!({ "spec": { "usageLimit": limit }, "status": { "usedTimes": 0 } }));
        for (batch, clearable) in batches {
            let clearable = uses(clearable);
            let batch: Vec<_> = batch.iter().map(|(applicant, found)| (applicant, found.clone())).collect();
            let (swap, verdicts) = admit(&key, &batch, &clearable, now());
            prop_assert_eq!(verdicts.len(), batch.len());
            let before = key.status.clone().unwrap();
            key = after(&key, swap.clone());
            let status = key.status.clone().unwrap();
            let admitted = verdicts.iter().filter(|verdict| **verdict == Verdict::Admitted).count();

            prop_assert_eq!(status.used_times, before.used_times + i64::try_from(admitted).unwrap());
            prop_assert!(limit == 0 || status.used_times <= i64::from(limit));
            prop_assert_eq!(swap.is_some(), status != before, "it writes what is there already, or not what it decided");
            let stay = before.pending.iter().filter(|entry| !clearable.contains(&Use::of(entry)));
            prop_assert_eq!(status.pending.len(), stay.count() + admitted);
            let mut names: Vec<_> = status.pending.iter().map(|entry| &entry.name).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), status.pending.len(), "a machine is pending twice");
            let numbers: BTreeSet<_> = status.pending.iter().map(|entry| entry.number).collect();
            prop_assert_eq!(numbers.len(), status.pending.len(), "two entries have one number");
            prop_assert!(numbers.last() <= Some(&status.used_times));
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
        let wrong = |applicant: &Applicant| revoked || applicant.key == digest("wrong");
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
