use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::crd_manifests;

const HOUR: i64 = 3600;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_500_000 + seconds, 0).unwrap()
}

/// A key that was issued at 0 with this spec, and with all that the status of an issued key has.
fn key(spec: Value) -> SetupKey {
    let mut key: SetupKey = serde_json::from_value(json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
        "metadata": { "name": "k", "creationTimestamp": Timestamp::from(at(-1)) }, "spec": spec,
    }))
    .unwrap();
    let lifetime = i64::try_from(key.spec.expires_in.as_secs()).unwrap();
    let status = json!({
        "id": KeyId::from_random_bytes([1; 20]).to_string(), "digest": "d1", "key": "AAAAA****", "revision": 1,
        "issuedAt": Timestamp::from(at(0)), "expires": Timestamp::from(at(lifetime)), "usedTimes": 0,
    });
    key.status = serde_json::from_value(status).unwrap();
    key
}

fn request(key: &mut SetupKey, moment: &str) {
    key.metadata.annotations = Some([(ROTATE_ANNOTATION.to_owned(), moment.to_owned())].into());
}

/// Rotates the key if that is due, as a pass does.
fn pass(key: &mut SetupKey, now: DateTime<Utc>) -> Option<Reason> {
    let reason = due(key, now)?;
    let (before, mut status) = (key.status.clone().unwrap(), key.status.clone().unwrap());
    begin(&mut status, key, now);
    let revision = u8::try_from(status.revision.unwrap()).unwrap();
    status.id = Some(KeyId::from_random_bytes([revision; 20]).to_string());
    status.digest = Some(format!("d{revision}"));
    status.expires = Some(Timestamp::from(now).plus_seconds(key.spec.expires_in.as_secs()));
    assert_eq!(reason_of(key, &before, &status), reason, "the notice tells another reason");
    key.status = Some(status);
    Some(reason)
}

fn status(key: &SetupKey) -> &SetupKeyStatus {
    key.status.as_ref().unwrap()
}

/// The fields below `spec` in the CRD, those of objects one by one.
fn fields_of_the_spec() -> BTreeSet<String> {
    fn collect(path: &str, schema: &Value, fields: &mut BTreeSet<String>) {
        match schema["properties"].as_object() {
            Some(properties) => properties.iter().for_each(|(name, schema)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&path, schema, fields);
            }),
            None => drop(fields.insert(path.to_owned())),
        }
    }
    let crd = crd_manifests().into_iter().find(|crd| crd.file.contains("setupkeys"));
    let crd: Value = serde_yaml::from_str(&crd.expect("the CRD of SetupKeys").text).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut fields = BTreeSet::new();
    collect("", spec, &mut fields);
    fields
}

/// Each field of the spec, another value for it, and whether a key rotates because of that. A day before its expiry, only
/// `renewBefore` makes a key due.
#[test]
fn each_field_rotates_or_not() {
    let table = [
        ("name", json!("another"), None),
        ("type", json!("one-off"), None),
        ("expiresIn", json!("48h"), None),
        ("autoGroups", json!(["b"]), None),
        ("usageLimit", json!(7), None),
        ("ephemeral", json!(true), None),
        ("allowExtraDnsLabels", json!(true), None),
        ("revoked", json!(true), None),
        ("rotation.renewBefore", json!("24h"), Some(Reason::Schedule)),
        ("rotation.overlap", json!("1h"), None),
        ("revokeUnusedAfter", json!("24h"), None),
        ("secret.name", json!("another"), None),
        ("secret.key", json!("another"), None),
        ("secret.aliases", json!(["NB_SETUP_KEY"]), None),
        ("secret.managementUrlKey", json!("NB_MANAGEMENT_URL"), None),
        ("secret.labels", json!({ "team": "b" }), None),
        ("secret.annotations", json!({ "team": "b" }), None),
        ("authorityRef.kind", json!("ClusterAuthority"), None),
        ("authorityRef.name", json!("another"), None),
        ("deletionPolicy", json!("Retain"), None),
    ];
    let named: BTreeSet<_> = table.iter().map(|(field, ..)| (*field).to_owned()).collect();
    assert_eq!(named, fields_of_the_spec(), "a field of the spec is not in the table, or not in the CRD");
    for (field, value, expected) in table {
        let mut spec = json!({ "expiresIn": "720h", "secret": {}, "authorityRef": { "name": "netbird" } });
        let path = format!("/{}", field.replace('.', "/"));
        let parent = path.rsplit_once('/').unwrap().0;
        if spec.pointer(parent).is_none() {
            spec[parent.trim_start_matches('/')] = json!({});
        }
        spec.pointer_mut(parent).unwrap()[field.rsplit('.').next().unwrap()] = value;
        let before = key(json!({ "expiresIn": "720h", "authorityRef": { "name": "netbird" } }));
        let key = SetupKey { spec: serde_json::from_value(spec).unwrap(), ..before.clone() };
        assert_ne!(key.spec, before.spec, "{field} is not changed");
        assert_eq!(due(&key, at(719 * HOUR)), expected, "{field}");
    }
}

#[test]
fn a_key_rotates_once_before_its_expiry_and_then_waits_for_the_next() {
    let mut key = key(json!({ "expiresIn": "720h", "rotation": { "renewBefore": "168h" } }));
    let moment = at(552 * HOUR);
    assert_eq!(rotate_at(&key, status(&key), at(0)), Some(moment.into()));
    assert_eq!(pass(&mut key, moment - chrono::Duration::milliseconds(1)), None);
    assert_eq!(pass(&mut key, moment), Some(Reason::Schedule));
    assert_eq!((status(&key).revision, status(&key).issued_at), (Some(2), Some(moment.into())));
    let [previous] = status(&key).previous.as_slice() else { panic!("no previous key") };
    assert_eq!((previous.digest.as_str(), previous.admits_until), ("d1", at(576 * HOUR).into()));
    assert_eq!(rotate_at(&key, status(&key), moment), Some(at(1104 * HOUR).into()));
    assert_eq!(pass(&mut key, at(1104 * HOUR - 1)), None);
}

#[test]
fn a_request_is_carried_out_once_and_an_older_one_never() {
    let mut key = key(json!({ "expiresIn": "720h" }));
    request(&mut key, &Timestamp::from(at(100)).to_string());
    assert_eq!(rotate_at(&key, status(&key), at(0)), Some(at(100).into()), "a moment to come is not waited for");
    assert_eq!(pass(&mut key, at(99)), None);
    assert_eq!(pass(&mut key, at(500)), Some(Reason::Request));
    for old in [0, 100, 499, 500] {
        request(&mut key, &Timestamp::from(at(old)).to_string());
        assert_eq!(pass(&mut key, at(10_000)), None, "{old}");
    }
    request(&mut key, &Timestamp::from(at(501)).to_string());
    assert_eq!(pass(&mut key, at(10_000)), Some(Reason::Request));
}

#[test]
fn a_request_that_cannot_be_met_is_told() {
    let mut key = key(json!({ "expiresIn": "720h" }));
    let told = |key: &SetupKey, now| unmet_request(key, status(key), now);
    for (text, part) in [
        ("tomorrow", "is \"tomorrow\", which is no RFC 3339 time such as 2026-11-24T06:00:00Z"),
        ("", "is \"\", which is no RFC 3339 time"),
        ("2026-11-24", "which is no RFC 3339 time"),
        ("1999-01-01T00:00:00Z", "is 1999-01-01T00:00:00Z, which was before this SetupKey was created"),
    ] {
        request(&mut key, text);
        let said = told(&key, at(10)).unwrap_or_else(|| panic!("{text} is not told"));
        assert!(said.starts_with("The annotation setupkey.dev/rotate-requested-at ") && said.contains(part), "{said}");
        assert_eq!(due(&key, at(10)), None);
        assert!(!is_told(&key, at(10)));
    }
    request(&mut key, &"x".repeat(1000));
    assert!(told(&key, at(10)).unwrap().len() < 200);
    for fine in [Timestamp::from(at(-1)), at(5).into(), at(5000).into()] {
        request(&mut key, &fine.to_string());
        assert_eq!(told(&key, at(10)), None, "{fine}");
    }
}

#[test]
fn a_scheduled_rotation_is_skipped_where_it_is_of_no_use() {
    let spec = json!({ "expiresIn": "720h", "rotation": { "renewBefore": "168h" } });
    let due_at = at(552 * HOUR);
    for (case, change, skipped) in [
        ("used", json!({}), false),
        ("one-off", json!({ "type": "one-off" }), true),
        ("revoked", json!({ "revoked": true }), true),
        ("unused", json!({ "revokeUnusedAfter": "500h" }), true),
        ("not unused yet", json!({ "revokeUnusedAfter": "600h" }), false),
    ] {
        let mut changed = spec.clone();
        changed.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut key = key(changed);
        key.status.as_mut().unwrap().used_times = i64::from(case == "used" || case == "one-off");
        let before = due_at - chrono::Duration::seconds(1);
        assert!(rotate_at(&key, status(&key), before).is_some(), "{case}: it may be brought back before that");
        assert_eq!(due(&key, due_at).is_none(), skipped, "{case}");
        assert_eq!(rotate_at(&key, status(&key), due_at).is_none(), skipped, "{case}");
        request(&mut key, &Timestamp::from(due_at).to_string());
        assert_eq!(due(&key, due_at), Some(Reason::Request), "{case}: a request is carried out");
    }
    let unused = key(json!({ "type": "one-off", "expiresIn": "720h", "rotation": { "renewBefore": "168h" } }));
    assert_eq!(due(&unused, due_at), Some(Reason::Schedule), "a one-off key that no machine has used");
}

#[test]
fn a_request_waits_for_a_revoked_key_at_an_authority_and_says_so() {
    let mut key = key(json!({ "expiresIn": "720h", "revoked": true, "authorityRef": { "name": "netbird" } }));
    request(&mut key, &Timestamp::from(at(10)).to_string());
    assert_eq!((due(&key, at(20)), rotate_at(&key, status(&key), at(20))), (None, None));
    assert_eq!(unmet_request(&key, status(&key), at(20)).as_deref(), Some(WAITS));
    key.spec.revoked = false;
    assert_eq!(due(&key, at(20)), Some(Reason::Request));
}

#[test]
fn an_expired_key_rotates_too_and_gets_no_overlap() {
    let mut key = key(json!({ "expiresIn": "24h", "rotation": { "renewBefore": "1h" } }));
    assert_eq!(pass(&mut key, at(100 * HOUR)), Some(Reason::Schedule));
    assert_eq!(status(&key).previous, []);
}

#[test]
fn the_overlap_ends_with_the_key_itself_and_a_revoked_key_has_none() {
    for (spec, overlap) in [
        (json!({}), Some(24)),
        (json!({ "rotation": { "overlap": "1h" } }), Some(1)),
        (json!({ "rotation": { "overlap": "720h" } }), Some(710)),
        (json!({ "rotation": { "overlap": "0s" } }), None),
        (json!({ "revoked": true }), None),
        (json!({ "revokeUnusedAfter": "24h" }), Some(24)),
    ] {
        let mut whole = json!({ "expiresIn": "720h" });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let mut key = key(whole);
        request(&mut key, &Timestamp::from(at(10 * HOUR)).to_string());
        assert_eq!(pass(&mut key, at(10 * HOUR)), Some(Reason::Request));
        let ends: Vec<_> = status(&key).previous.iter().map(|previous| previous.admits_until).collect();
        let expected: Vec<_> = overlap
            .map(|hours: i64| Timestamp::from(at((10 + hours) * HOUR).min(at(720 * HOUR))))
            .into_iter()
            .collect();
        assert_eq!(ends, expected, "{spec}");
    }
}

#[test]
fn at_a_ninth_replaced_key_the_oldest_ends() {
    let mut key = key(json!({ "expiresIn": "720h" }));
    for minute in 1..=9 {
        request(&mut key, &Timestamp::from(at(60 * minute)).to_string());
        assert_eq!(pass(&mut key, at(60 * minute)), Some(Reason::Request));
    }
    let digests: Vec<_> = status(&key).previous.iter().map(|previous| previous.digest.as_str()).collect();
    assert_eq!(digests, ["d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9"]);
}

#[test]
fn a_rotation_by_schedule_does_not_make_an_unused_key_a_used_one() {
    let mut key =
        key(json!({ "expiresIn": "720h", "rotation": { "renewBefore": "168h" }, "revokeUnusedAfter": "720h" }));
    assert_eq!(pass(&mut key, at(552 * HOUR)), Some(Reason::Schedule));
    let unused = |key: &SetupKey, hours: i64| Facts::of(key).unwrap().is_unused(at(hours * HOUR + 1));
    assert_eq!((unused(&key, 719), unused(&key, 720)), (false, true));
    // A person who asks for a new key is about to use it.
    request(&mut key, &Timestamp::from(at(721 * HOUR)).to_string());
    assert_eq!(pass(&mut key, at(721 * HOUR)), Some(Reason::Request));
    assert_eq!((unused(&key, 721 + 719), unused(&key, 721 + 720)), (false, true));
}

#[test]
fn a_key_without_a_moment_of_issue_on_record_counts_from_its_expiry() {
    let mut key = key(json!({ "expiresIn": "720h" }));
    key.status.as_mut().unwrap().issued_at = None;
    request(&mut key, &Timestamp::from(at(0)).to_string());
    assert_eq!(due(&key, at(10)), None);
    request(&mut key, &Timestamp::from(at(1)).to_string());
    assert_eq!(due(&key, at(10)), Some(Reason::Request));
}

#[test]
fn a_clock_of_an_authority_that_is_behind_causes_no_second_rotation() {
    let mut key = key(json!({ "expiresIn": "24h", "rotation": { "renewBefore": "23h" } }));
    assert_eq!(pass(&mut key, at(HOUR)), Some(Reason::Schedule));
    // As if the new key had been issued five hours ago.
    key.status.as_mut().unwrap().expires = Some(at(20 * HOUR).into());
    assert_eq!(due(&key, at(HOUR + 1)), None);
    assert_eq!(due(&key, at(2 * HOUR)), Some(Reason::Schedule), "one an hour, and no more");
}

#[test]
fn an_entry_that_names_no_key_is_of_the_replaced_one() {
    let key = key(json!({ "expiresIn": "720h" }));
    let mut after = status(&key).clone();
    let entry = json!({
        "number": 1, "name": "peer-a", "publicKey": "", "hostname": "h", "tokenDigest": "", "since": Timestamp::from(at(0)),
    });
    after.pending.push(serde_json::from_value(entry).unwrap());
    begin(&mut after, &key, at(10));
    assert_eq!(Some(&after.pending[0].key_id), status(&key).id.as_ref());
}

/// As when the clock has stepped back between a rotation at an authority and its record.
#[test]
fn no_revision_is_issued_before_the_last_one() {
    let key = key(json!({ "expiresIn": "720h" }));
    let mut after = status(&key).clone();
    begin(&mut after, &key, at(-500));
    assert_eq!(after.issued_at, Some(at(0).into()));
}

/// What may happen between two passes. Times are in minutes.
#[derive(Clone, Debug)]
enum Happening {
    Clock(i64),
    Request(i64),
    Revoke(bool),
    Use,
    RenewBefore(Option<u64>),
    Overlap(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (-4000..9000i64).prop_map(Happening::Clock),
        3 => (-1000..40_000i64).prop_map(Happening::Request),
        1 => any::<bool>().prop_map(Happening::Revoke),
        1 => Just(Happening::Use),
        2 => prop::option::of(60..1380u64).prop_map(Happening::RenewBefore),
        1 => (0..1440u64).prop_map(Happening::Overlap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// In any order of expiry, renewal, overlap, requests and steps of the clock.
    #[test]
    fn one_reason_causes_one_rotation(happenings in prop::collection::vec(happening(), 0..30)) {
        let mut key = key(json!({ "expiresIn": "24h", "usageLimit": 3, "rotation": {} }));
        let (mut minute, mut requests, mut schedules) = (0, BTreeSet::new(), BTreeSet::new());
        for happening in happenings {
            match happening {
                Happening::Clock(step) => minute += step,
                Happening::Request(moment) => request(&mut key, &Timestamp::from(at(60 * moment)).to_string()),
                Happening::Revoke(revoked) => key.spec.revoked = revoked,
                Happening::Use => key.status.as_mut().unwrap().used_times += 1,
                Happening::RenewBefore(before) => {
                    key.spec.rotation.as_mut().unwrap().renew_before = before.map(Lifetime::minutes);
                }
                Happening::Overlap(overlap) => key.spec.rotation.as_mut().unwrap().overlap = Lifetime::minutes(overlap),
            }
            let (now, issued, expires) = (at(60 * minute), status(&key).issued_at, status(&key).expires);
            let scheduled = rotate_at(&key, status(&key), now);
            match pass(&mut key, now) {
                Some(Reason::Request) => {
                    let asked = requested(&key).unwrap().unwrap();
                    prop_assert!(requests.insert(asked), "{} causes a second rotation", asked);
                    prop_assert!(requests.last() == Some(&asked) && Some(asked) > issued, "{} is an old request", asked);
                    prop_assert!(asked.moment() <= now, "{} is to come", asked);
                }
                Some(Reason::Schedule) => {
                    prop_assert!(!key.spec.revoked);
                    prop_assert!(schedules.insert(expires), "a key rotates twice by schedule");
                    prop_assert!(scheduled.is_some_and(|moment| moment.moment() <= now));
                }
                None => {}
            }
            // Whatever the clock says then, there is no reason left, until another moment comes.
            for back in [0, 1, 60, 6000] {
                prop_assert_eq!(due(&key, now - chrono::Duration::minutes(back)), None, "{} minutes before", back);
            }
            prop_assert!(status(&key).previous.len() <= MOST_PREVIOUS);
            for previous in &status(&key).previous {
                prop_assert!(previous.admits_until <= previous.expires);
            }
        }
    }
}
