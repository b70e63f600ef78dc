//! `kubectl setupkey wait`.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use kube::api::DeleteParams;
use serde_json::json;

use super::{Person, Said, ago, ahead, issued};
use crate::harness::Cluster;

/// Runs the command, and changes something once it waits.
async fn meanwhile(person: Person, arguments: &'static [&'static str], change: impl Future<Output = ()>) -> Said {
    let command = tokio::task::spawn_blocking(move || person.runs(arguments));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!command.is_finished(), "it does not wait: {:?}", command.await.unwrap());
    change.await;
    command.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_wait_ends_once_the_key_is_so() {
    let cluster = Cluster::for_test("plugin-wait").await;
    let person = || Person::administrator(&cluster);
    issued(&cluster, "office", json!({ "usageLimit": 5 }), json!({ "usedTimes": 1 })).await;
    issued(&cluster, "lab", json!({}), json!({})).await;
    issued(&cluster, "old", json!({}), json!({ "expires": ago(TimeDelta::days(1)), "state": "expired" })).await;
    for (arguments, said) in [
        (vec!["wait", "office", "lab", "--for", "valid"], "setupkey office: valid\nsetupkey lab: valid\n"),
        (vec!["wait", "office", "office", "--for=issued"], "setupkey office: issued\n"),
        (vec!["wait", "office", "--for", "ready"], "setupkey office: ready\n"),
        (vec!["wait", "office", "--for", "used=1", "--timeout", "0s"], "setupkey office: used by 1 machine\n"),
        (vec!["wait", "old", "--for", "expired"], "setupkey old: expired\n"),
    ] {
        assert_eq!(person().runs(&arguments).ok(), said);
    }
    let used = meanwhile(person(), &["wait", "office", "--for", "used=3", "--timeout", "60s"], async {
        cluster.patch_status("office", json!({ "usedTimes": 4 })).await;
    });
    assert_eq!(used.await.ok(), "setupkey office: used by 3 machines\n");
    let rotated = meanwhile(person(), &["wait", "office", "--for", "rotated"], async {
        cluster.patch_status("office", json!({ "revision": 2 })).await;
    });
    assert_eq!(rotated.await.ok(), "setupkey office: rotated\n");
    let revoked = meanwhile(person(), &["wait", "lab", "--for", "revoked"], async {
        cluster.patch_spec("lab", json!({ "revoked": true })).await;
        cluster.patch_status("lab", json!({ "observedGeneration": 2 })).await;
    });
    assert_eq!(revoked.await.ok(), "setupkey lab: revoked\n");

    cluster.apply_quickly("new", json!({})).await;
    let mut operator = None;
    let new = meanwhile(person(), &["wait", "new", "--for", "issued"], async {
        operator = Some(cluster.start_operator().await);
    });
    assert_eq!(new.await.ok(), "setupkey new: issued\n");
    operator.expect("an operator").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_wait_says_what_is_so_instead() {
    let cluster = Cluster::for_test("plugin-wait-instead").await;
    let person = Person::administrator(&cluster);
    let condition = |type_: &str, status: &str, reason: &str, message: &str| json!({ "type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": ago(TimeDelta::zero()) });
    let revoked = json!({ "state": "revoked", "valid": false, "conditions": [
        condition("Ready", "True", "Reconciled", "All is done."),
        condition("Valid", "False", "Revoked", "The key is revoked; set revoked to false."),
    ] });
    issued(&cluster, "stopped", json!({ "revoked": true }), revoked).await;
    let late = json!({ "conditions": [
        condition("Ready", "False", "AuthorityNotReady", "The host does not answer."),
        condition("Valid", "True", "Valid", "The key admits peers until then."),
    ] });
    issued(&cluster, "late", json!({}), late).await;
    issued(&cluster, "office", json!({ "usageLimit": 5 }), json!({ "usedTimes": 1 })).await;
    let due = ahead(TimeDelta::days(20));
    issued(&cluster, "planned", json!({ "rotation": { "renewBefore": "24h" } }), json!({ "rotateAt": due })).await;
    issued(&cluster, "changed", json!({}), json!({ "observedGeneration": 0 })).await;
    cluster.apply_quickly("new", json!({})).await;
    let unseen = "the operator has not reported yet (is it running?)";
    for (name, goal, said) in [
        ("stopped", "valid", "not valid after 1s: it is revoked: The key is revoked; set revoked to false.".to_owned()),
        ("late", "ready", "not ready after 1s: The host does not answer.".to_owned()),
        ("late", "rotated", "not rotated after 1s: The host does not answer.".to_owned()),
        ("office", "used=3", "not used by 3 machines after 1s: 1 machine joined so far".to_owned()),
        ("office", "expired", "not expired after 1s: it is valid: The key admits peers.".to_owned()),
        ("office", "revoked", "not revoked after 1s: it is valid: The key admits peers.".to_owned()),
        (
            "office",
            "rotated",
            "not rotated after 1s: no rotation is due; ask for one with kubectl setupkey rotate".to_owned(),
        ),
        ("planned", "rotated", format!("not rotated after 1s: the next rotation is due at {due}")),
        ("changed", "valid", format!("not valid after 1s: its last change is not reported yet: {unseen}")),
        ("new", "issued", format!("not issued after 1s: it is not issued: {unseen}")),
    ] {
        let waited = person.runs(&["wait", name, "--for", goal, "--timeout", "1s"]);
        assert_eq!(waited.fails(), format!("setupkey {name} is {said}"));
    }
    let started = Instant::now();
    let once = person.runs(&["wait", "office", "--for", "expired", "--timeout", "0s"]);
    assert_eq!(once.fails(), "setupkey office is not expired: it is valid: The key admits peers.");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let some = person.runs(&["wait", "office", "stopped", "--for", "valid", "--timeout", "1s"]);
    assert_eq!((some.code, some.out.as_str()), (1, "setupkey office: valid\n"), "{}", some.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_wait_ends_at_once_if_the_key_can_no_longer_become_so() {
    let cluster = Cluster::for_test("plugin-wait-never").await;
    let expires = ago(TimeDelta::days(1));
    let expired = json!({ "expires": expires, "state": "expired" });
    issued(&cluster, "expired", json!({ "type": "one-off" }), expired.clone()).await;
    issued(&cluster, "used", json!({ "usageLimit": 3 }), json!({ "usedTimes": 3, "state": "overused" })).await;
    issued(&cluster, "asked", json!({}), expired).await;
    cluster.request_rotation("asked", ahead(TimeDelta::hours(1))).await;
    let person = || Person::administrator(&cluster);
    let started = Instant::now();
    for (name, goal, said) in [
        ("expired", "valid", format!("valid: it expired at {expires}, and no rotation is due")),
        ("expired", "used=1", format!("used by 1 machine: it expired at {expires}, and no rotation is due")),
        ("expired", "revoked", format!("revoked: it expired at {expires}, and stays so if it is revoked")),
        ("used", "valid", "valid: 3 machines joined, which is its limit, and no rotation is due".to_owned()),
        ("used", "used=4", "used by 4 machines: at most 3 machines may join with it".to_owned()),
    ] {
        let waited = person().runs(&["wait", name, "--for", goal, "--timeout", "10m"]);
        assert_eq!(waited.fails(), format!("setupkey {name} can no longer be {said}"));
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    // A rotation was asked for, and may come.
    let asked = person().runs(&["wait", "asked", "--for", "valid", "--timeout", "1s"]);
    assert!(asked.fails().starts_with("setupkey asked is not valid after 1s: it is expired: "), "{asked:?}");
    let deleted = meanwhile(person(), &["wait", "used", "--for", "expired", "--timeout", "10m"], async {
        cluster.keys().delete("used", &DeleteParams::default()).await.expect("a deletion");
    });
    assert_eq!(deleted.await.fails(), "setupkey used can no longer be expired: it was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_wait_refuses_what_makes_no_sense() {
    let cluster = Cluster::for_test("plugin-wait-refused").await;
    let (person, namespace) = (Person::administrator(&cluster), cluster.namespace.as_str());
    cluster.apply_quickly("office", json!({})).await;
    for (arguments, said) in [
        (
            vec!["wait", "office", "--for", "happy"],
            "there is valid, issued, rotated, used=N, expired, revoked and ready",
        ),
        (vec!["wait", "office", "--for", "used=0"], "used=N has a number of machines from 1 on, such as used=3"),
        (vec!["wait", "office"], "--for <WHAT>"),
        (vec!["wait", "--for", "valid"], "<NAME>"),
        (vec!["wait", "office", "--for", "valid", "--timeout", "1x"], "\"1x\" is no time such as 90d"),
    ] {
        let refused = person.runs(&arguments);
        assert!(refused.is_refused().contains(said), "{arguments:?}: {}", refused.err);
    }
    let missing = person.runs(&["wait", "ofice", "--for", "valid"]);
    assert_eq!(missing.fails(), format!("there is no SetupKey {namespace}/ofice; did you mean office?"));
    let guest = Person::with_rights(&cluster, "guest", &[]);
    let expected = format!(
        "could not read SetupKey {namespace}/office: system:serviceaccount:{namespace}:guest may not get setupkeys.setupkey.dev in namespace {namespace}; ask an administrator for that right"
    );
    assert_eq!(guest.runs(&["wait", "office", "--for", "valid"]).fails(), expected);
}
