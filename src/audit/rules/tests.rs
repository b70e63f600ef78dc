use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::key::{Digest, KeyId};

const DAY: i64 = 24 * 60 * 60;

/// The moment for which every table is written.
fn now() -> DateTime<Utc> {
    "2026-11-24T06:00:00Z".parse::<Timestamp>().unwrap().moment()
}

/// So many seconds ago; negative ones are to come.
fn ago(seconds: i64) -> Timestamp {
    (now() - chrono::Duration::seconds(seconds)).into()
}

/// An issued, valid key that no rule has anything to say about, changed by a merge patch, or several.
fn key(change: &Value) -> SetupKey {
    let mut key = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
        "metadata": { "name": "office", "namespace": "network" },
        "spec": { "usageLimit": 50, "expiresIn": "2160h", "ephemeral": false },
        "status": {
            "id": KeyId::from_random_bytes([1; 20]).to_string(), "digest": Digest::of("a key").to_string(),
            "issuedAt": ago(DAY), "expires": ago(-89 * DAY), "usedTimes": 7, "lastUsed": ago(60),
        },
    });
    merge(&mut key, change);
    serde_json::from_value(key).unwrap()
}

fn merge(key: &mut Value, change: &Value) {
    match change {
        Value::Array(changes) => changes.iter().for_each(|change| merge(key, change)),
        change => json_patch::merge(key, change),
    }
}

/// Every state of a key in which its terms do not matter any more.
fn without_future() -> [Value; 4] {
    [
        json!({ "spec": { "revoked": true } }),
        json!({ "spec": { "revoked": true }, "status": null }),
        json!({ "status": { "expires": ago(1) } }),
        json!({ "status": { "usedTimes": 50 } }),
    ]
}

fn pods(spec: &Value, kind: &str) -> Readers {
    let owner = json!({ "apiVersion": "v1", "kind": kind, "name": "agent", "uid": "u", "controller": true });
    let metadata = json!({ "name": "p", "namespace": "network", "ownerReferences": [owner] });
    let mut pod = json!({ "metadata": metadata, "spec": { "containers": [] } });
    json_patch::merge(&mut pod, &json!({ "spec": spec }));
    Readers::of(&[serde_json::from_value(pod).unwrap()])
}

fn mounted() -> Value {
    json!({ "volumes": [{ "name": "v", "secret": { "secretName": "office" } }] })
}

fn in_variable(data_key: &str) -> Value {
    let from = json!({ "secretKeyRef": { "name": "office", "key": data_key } });
    json!({ "containers": [{ "name": "c", "env": [{ "name": "KEY", "valueFrom": from }] }] })
}

fn find(id: &str, change: &Value, readers: Option<&Readers>) -> Option<(String, String)> {
    let rule = RULES.iter().filter(|rule| rule.id == id);
    let mut found = findings(rule, &key(change), readers, &Thresholds::default(), now());
    assert!(found.len() <= 1);
    found.pop().map(|found| (found.finding, found.advice))
}

/// What a rule says about the key with this change.
#[track_caller]
fn found(id: &str, change: Value, finding: &str, advice: &str) {
    assert_eq!(find(id, &change, None), Some((finding.to_owned(), advice.to_owned())), "{id} {change}");
}

#[track_caller]
fn silent(id: &str, change: Value) {
    assert_eq!(find(id, &change, None), None, "{id} {change}");
}

/// A change of a key, and then a further one.
fn with(change: &Value, further: &Value) -> Value {
    json!([change, further])
}

#[test]
fn a_key_in_order_has_no_findings() {
    let readers = pods(&mounted(), "Deployment");
    assert_eq!(findings(&RULES, &key(&json!({})), Some(&readers), &Thresholds::default(), now()), []);
}

#[test]
fn ids_are_in_order_and_never_change_their_severity() {
    let rules: Vec<_> = RULES.iter().map(|rule| (rule.id, rule.severity)).collect();
    let (warn, info) = (Severity::Warn, Severity::Info);
    let expected = [warn, warn, warn, warn, warn, info, info, info, info];
    let expected: Vec<_> = (1..=9).map(|number| format!("SK00{number}")).zip(expected).collect();
    assert_eq!(rules, expected.iter().map(|(id, severity)| (id.as_str(), *severity)).collect::<Vec<_>>());
}

#[test]
fn sk001_finds_a_lifetime_above_the_longest_advised() {
    let advice = "shorter expiresIn with rotation";
    let lives = |expires_in: &str| json!({ "spec": { "expiresIn": expires_in } });
    found("SK001", lives("8760h"), "lives 365 days; longest advised 90", advice);
    found("SK001", lives("2160h1s"), "lives 7776001 seconds; longest advised 90 days", advice);
    found("SK001", lives("2161h"), "lives 2161 hours; longest advised 90 days", advice);
    silent("SK001", lives("2160h"));
    let long = lives("8760h");
    let rotates = json!({ "spec": { "rotation": { "renewBefore": "168h" } } });
    found("SK001", with(&long, &rotates), "lives 365 days; longest advised 90", advice);
    for still_judged in [
        json!({ "status": null }),
        json!({ "metadata": { "deletionTimestamp": ago(0) } }),
        json!({ "status": { "usedTimes": 50, "rotateAt": ago(-DAY) } }),
    ] {
        found("SK001", with(&long, &still_judged), "lives 365 days; longest advised 90", advice);
    }
    without_future().iter().for_each(|gone| silent("SK001", with(&long, gone)));
}

#[test]
fn sk002_finds_a_reusable_key_without_a_limit() {
    let (finding, advice) = ("reusable without usageLimit", "set a limit, or type: one-off");
    let unlimited = json!({ "spec": { "usageLimit": 0 } });
    found("SK002", unlimited.clone(), finding, advice);
    found("SK002", with(&unlimited, &json!({ "status": null })), finding, advice);
    silent("SK002", json!({ "spec": { "usageLimit": 1 } }));
    silent("SK002", json!({ "spec": { "usageLimit": 0, "type": "one-off" } }));
    without_future()[..3].iter().for_each(|gone| silent("SK002", with(&unlimited, gone)));
}

#[test]
fn sk003_finds_a_key_that_no_machine_has_used_since_its_issue() {
    let unused = |issued: i64| json!({ "status": { "usedTimes": 0, "lastUsed": null, "issuedAt": ago(issued) } });
    let advice = "kubectl setupkey revoke office -n network";
    found("SK003", unused(45 * DAY), "never used in 45 days since it was issued", advice);
    found("SK003", unused(30 * DAY + 1), "never used in 30 days since it was issued", advice);
    silent("SK003", unused(30 * DAY));
    let long_unused = unused(45 * DAY);
    let previous = json!({
        "id": "", "digest": "", "key": "", "expires": ago(-DAY), "admitsUntil": ago(-DAY), "usedTimes": 1,
    });
    for not_found in [
        json!({ "status": { "lastUsed": ago(40 * DAY) } }),
        json!({ "status": { "usedTimes": 1 } }),
        json!({ "status": { "previous": [previous] } }),
        json!({ "spec": { "revoked": true } }),
        json!({ "spec": { "revokeUnusedAfter": "720h" } }),
        json!({ "status": { "expires": ago(1) } }),
        json!({ "metadata": { "deletionTimestamp": ago(0) } }),
        json!({ "status": null }),
    ] {
        silent("SK003", with(&long_unused, &not_found));
    }
    let rotated = with(&unused(DAY), &json!({ "status": { "unusedSince": ago(60 * DAY) } }));
    found("SK003", rotated, "never used in 60 days since it was issued", advice);
}

#[test]
fn sk004_finds_a_key_whose_last_use_is_long_ago() {
    let used = |seconds: i64| json!({ "status": { "lastUsed": ago(seconds) } });
    let advice = "revoke, or revokeUnusedAfter";
    found("SK004", used(120 * DAY), "valid, last used 120 days ago", advice);
    found("SK004", used(90 * DAY + 1), "valid, last used 90 days ago", advice);
    silent("SK004", used(90 * DAY));
    let idle = used(120 * DAY);
    // Of an earlier revision.
    found("SK004", with(&idle, &json!({ "status": { "usedTimes": 0 } })), "valid, last used 120 days ago", advice);
    let bounded = json!({ "spec": { "revokeUnusedAfter": "8760h" } });
    let shorter = "revoke, or shorter revokeUnusedAfter";
    found("SK004", with(&idle, &bounded), "valid, last used 120 days ago", shorter);
    without_future().iter().for_each(|gone| silent("SK004", with(&idle, gone)));
    silent("SK004", with(&idle, &json!({ "metadata": { "deletionTimestamp": ago(0) } })));
    silent("SK004", json!({ "status": { "lastUsed": null } }));
}

#[test]
fn sk005_finds_a_key_in_use_that_ends_soon() {
    let expires = |seconds: i64| json!({ "status": { "expires": ago(-seconds), "usedTimes": 40 } });
    let advice = "add spec.rotation";
    found("SK005", expires(2 * DAY), "expires in 2 days, no rotation, used 40 times so far", advice);
    found("SK005", expires(7 * DAY), "expires in 7 days, no rotation, used 40 times so far", advice);
    found("SK005", expires(0), "expires in 0 seconds, no rotation, used 40 times so far", advice);
    silent("SK005", expires(7 * DAY + 1));
    silent("SK005", expires(-1));
    let soon = expires(DAY);
    let once = json!({ "status": { "usedTimes": 1 } });
    found("SK005", with(&soon, &once), "expires in 24 hours, no rotation, used once so far", advice);
    silent("SK005", with(&soon, &json!({ "status": { "usedTimes": 0 } })));
    silent("SK005", with(&soon, &json!({ "status": { "rotateAt": ago(-60) } })));
    silent("SK005", with(&soon, &json!({ "metadata": { "deletionTimestamp": ago(0) } })));
    without_future().iter().for_each(|gone| silent("SK005", with(&soon, gone)));
}

#[test]
fn sk006_finds_a_key_that_expired_more_than_a_month_ago() {
    let expired = |seconds: i64| json!({ "status": { "expires": ago(seconds) } });
    found("SK006", expired(60 * DAY), "expired 60 days ago", "delete");
    found("SK006", expired(30 * DAY + 1), "expired 30 days ago", "delete");
    silent("SK006", expired(30 * DAY));
    let revoked = json!({ "spec": { "revoked": true } });
    found("SK006", with(&expired(60 * DAY), &revoked), "expired 60 days ago", "delete");
    silent("SK006", with(&expired(60 * DAY), &json!({ "metadata": { "deletionTimestamp": ago(0) } })));
    silent("SK006", json!({ "status": null }));
}

#[test]
fn sk007_finds_a_reusable_key_for_one_machine() {
    let single = json!({ "spec": { "usageLimit": 1 }, "status": { "usedTimes": 0 } });
    found("SK007", single.clone(), "reusable with usageLimit 1", "type: one-off");
    found("SK007", with(&single, &json!({ "status": null })), "reusable with usageLimit 1", "type: one-off");
    silent("SK007", json!({ "spec": { "usageLimit": 2 } }));
    silent("SK007", json!({ "spec": { "usageLimit": 1, "type": "one-off" }, "status": { "usedTimes": 0 } }));
    silent("SK007", with(&single, &json!({ "spec": { "rotation": { "renewBefore": "168h" } } })));
    let on_request = json!({ "spec": { "rotation": { "overlap": "1h" } } });
    found("SK007", with(&single, &on_request), "reusable with usageLimit 1", "type: one-off");
    without_future().iter().for_each(|gone| silent("SK007", with(&single, gone)));
}

#[test]
fn sk008_finds_a_key_of_jobs_whose_machines_stay() {
    let of = |change: Value, pod: Value, kind: &str| find("SK008", &change, Some(&pods(&pod, kind)));
    let finding = |reads: &str| {
        let finding = format!("not ephemeral, but its Secret is {reads} by a Job");
        Some((finding, "ephemeral: true".to_owned()))
    };
    assert_eq!(of(json!({}), mounted(), "Job"), finding("mounted"));
    assert_eq!(of(json!({}), in_variable("setup-key"), "Job"), finding("read"));
    assert_eq!(of(json!({}), in_variable("other"), "Job"), None);
    assert_eq!(of(json!({}), mounted(), "DaemonSet"), None);
    assert_eq!(of(json!({ "spec": { "ephemeral": true } }), mounted(), "Job"), None);
    assert_eq!(of(json!({ "spec": { "secret": { "name": "other" } } }), mounted(), "Job"), None);
    assert_eq!(of(json!({ "status": null }), mounted(), "Job"), None);
    assert_eq!(of(json!({ "metadata": { "deletionTimestamp": ago(0) } }), mounted(), "Job"), None);
    without_future().iter().for_each(|gone| assert_eq!(of(gone.clone(), mounted(), "Job"), None, "{gone}"));
    silent("SK008", json!({}));
}

#[test]
fn sk009_finds_a_key_in_environment_variables() {
    let of = |change: Value, pod: Value| find("SK009", &change, Some(&pods(&pod, "DaemonSet")));
    let expected =
        Some(("read as env variable by daemonset/agent".to_owned(), "mount as file, NB_SETUP_KEY_FILE".to_owned()));
    let alias = json!({ "spec": { "secret": { "aliases": ["NB_SETUP_KEY"] } } });
    assert_eq!(of(json!({}), in_variable("setup-key")), expected);
    assert_eq!(of(alias.clone(), in_variable("NB_SETUP_KEY")), expected);
    assert_eq!(of(alias, in_variable("NB_MANAGEMENT_URL")), None);
    assert_eq!(of(json!({}), mounted()), None);
    assert_eq!(of(json!({ "metadata": { "namespace": "other" } }), in_variable("setup-key")), None);
    assert_eq!(of(json!({ "status": null }), in_variable("setup-key")), None);
    assert_eq!(of(json!({ "metadata": { "deletionTimestamp": ago(0) } }), in_variable("setup-key")), None);
    without_future().iter().for_each(|gone| assert_eq!(of(gone.clone(), in_variable("setup-key")), None, "{gone}"));
    silent("SK009", json!({}));
}

#[test]
fn thresholds_decide_what_is_found() {
    let second = Lifetime::seconds(1);
    let strict = Thresholds { max_age: second, unused: second, idle: second, soon: second };
    let ids = |change: Value| -> Vec<_> {
        let found = findings(&RULES, &key(&change), None, &strict, now());
        found.into_iter().map(|found| (found.id, found.finding)).collect()
    };
    let lives = ("SK001", "lives 90 days; longest advised 1 second".to_owned());
    assert_eq!(ids(json!({})), [lives.clone(), ("SK004", "valid, last used 60 seconds ago".to_owned())]);
    let unused = json!({ "status": { "usedTimes": 0, "lastUsed": null } });
    assert_eq!(ids(unused), [lives, ("SK003", "never used in 24 hours since it was issued".to_owned())]);
}

proptest! {
    #[test]
    fn an_exact_span_loses_nothing(seconds in 0_u64..10_000_000) {
        let span = Span::exact(seconds);
        let (_, size) = UNITS.into_iter().find(|(unit, _)| *unit == span.unit).unwrap();
        prop_assert_eq!(span.number * size, seconds);
    }
}
