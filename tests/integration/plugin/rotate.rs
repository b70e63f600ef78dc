//! `kubectl setupkey rotate`.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use chrono::TimeDelta;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use setupkey_operator::api::{SetupKeyStatus, Timestamp, metadata::ROTATE_ANNOTATION};

use super::{Person, Said, ago, issued};
use crate::harness::{Cluster, TestClock, eventually, says};

/// The spec of a key as it is stored.
fn spec(cluster: &Cluster, name: &str) -> Value {
    let stored = cluster.kubectl_ok(&["get", "setupkeys.setupkey.dev", name, "-o", "json"], "");
    serde_json::from_str::<Value>(&stored).unwrap()["spec"].clone()
}

async fn status(cluster: &Cluster, name: &str) -> SetupKeyStatus {
    cluster.keys().get(name).await.unwrap().status.unwrap()
}

fn mask(status: &SetupKeyStatus) -> &str {
    status.key.as_deref().unwrap()
}

/// Runs a command as the person would type it.
fn typed(person: &Person, line: &str) -> Said {
    let kubectl = person.kubectl();
    let real = kubectl.get_program().to_owned();
    let mut shell = Command::new("bash");
    for (name, value) in kubectl.get_envs() {
        value.map(|value| shell.env(name, value));
    }
    Said::by(shell.args(["-euc", &format!("kubectl() {{ \"$0\" \"$@\"; }}\n{line}")]).arg(real))
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_asks_for_the_next_key_or_waits_for_it() {
    let cluster = Cluster::for_test("plugin-rotate").await;
    let person = Person::administrator(&cluster);
    let operator = cluster.start_operator().await;
    cluster.apply("office", "usageLimit: 3");
    cluster.apply("brief", "rotation: {overlap: 0s}");
    let first = cluster.ready("office").await;
    let brief = cluster.ready("brief").await;
    assert_eq!(person.runs(&["rotate", "office"]).ok(), "setupkey office: rotation requested\n");
    let second = cluster.status_when("office", "rotated", |status| status.revision == Some(2)).await;
    assert!(second.previous.iter().any(|previous| Some(&previous.id) == first.id.as_ref()));

    let said = person.runs(&["rotate", "office", "brief", "--wait"]);
    let (third, brief_second) = (status(&cluster, "office").await, status(&cluster, "brief").await);
    let replaced = third.previous.iter().find(|previous| Some(&previous.id) == second.id.as_ref()).unwrap();
    let expected = format!(
        "setupkey office: revision 3 issued ({}); {} admits until {}\nsetupkey brief: revision 2 issued ({}); {} admits no machine any more\n",
        mask(&third),
        mask(&second),
        replaced.admits_until,
        mask(&brief_second),
        mask(&brief),
    );
    assert_eq!(said.ok(), expected);
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    let revoked = person.runs(&["rotate", "office", "--wait"]);
    let fourth = status(&cluster, "office").await;
    let expected = format!(
        "setupkey office: revision 4 issued ({}), revoked like the last one; {} admits no machine any more\n",
        mask(&fourth),
        mask(&third)
    );
    assert_eq!(revoked.ok(), expected);

    let key = cluster.keys().get("office").await.unwrap();
    let managed = key.metadata.managed_fields.unwrap();
    let ours = managed.iter().find(|entry| entry.manager.as_deref() == Some("kubectl-setupkey")).expect("our writes");
    let fields = json!({ "f:metadata": { "f:annotations": { format!("f:{ROTATE_ANNOTATION}"): {} } } });
    assert_eq!(serde_json::to_value(&ours.fields_v1).unwrap(), fields, "more was written than the annotation");
    operator.stop().await;
    let late = person.runs(&["rotate", "office", "--wait", "--timeout", "1s"]);
    let expected = "the rotation of setupkey office is requested, and is not done after 1s: the operator has not reported yet (is it running?)";
    assert_eq!(late.fails(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_now_ends_all_earlier_keys_and_puts_the_overlap_back() {
    let cluster = Cluster::for_test("plugin-rotate-now").await;
    let person = Person::administrator(&cluster);
    let operator = cluster.start_operator().await;
    let mut before = Vec::new();
    for (name, fields) in [
        ("plain", "usageLimit: 3"),
        ("worded", "rotation: {renewBefore: 48h, overlap: 1440m}"),
        ("brief", "rotation: {overlap: 0m}"),
    ] {
        cluster.apply(name, fields);
        let first = cluster.ready(name).await;
        let second = cluster.rotate(name, &first).await;
        assert_eq!(second.previous.len(), usize::from(name != "brief"), "{name}: keys that were replaced before");
        before.push((name, spec(&cluster, name), second));
    }
    let said = person.runs(&["rotate", "plain", "worded", "brief", "--now"]);
    let mut expected = String::new();
    for (name, spec_before, second) in before {
        let generation = cluster.keys().get(name).await.unwrap().metadata.generation;
        let after = cluster.status_when(name, "reported", |status| status.observed_generation == generation).await;
        assert_eq!((after.revision, after.previous.len()), (Some(3), 0), "{name}: a replaced key came back");
        assert_eq!(spec(&cluster, name), spec_before, "{name}: the spec is not as it was");
        let (new, old) = (mask(&after), mask(&second));
        expected += &format!("setupkey {name}: revision 3 issued ({new}); {old} admits no machine any more\n");
    }
    assert_eq!(said.ok(), expected);
    // The next rotation has its overlap again.
    let after = person.runs(&["rotate", "worded", "--wait"]);
    assert!(after.ok().contains(" admits until "), "{after:?}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_now_says_what_is_left_to_do() {
    let cluster = Cluster::for_test("plugin-rotate-left").await;
    let (person, namespace) = (Person::administrator(&cluster), cluster.namespace.as_str());
    let operator = cluster.start_operator().await;
    for (name, fields) in [("plain", "usageLimit: 3"), ("worded", "rotation: {renewBefore: 48h, overlap: 1440m}")] {
        cluster.apply(name, fields);
        cluster.ready(name).await;
    }
    operator.stop().await;
    for (name, back) in
        [("plain", "{\"spec\":{\"rotation\":null}}"), ("worded", "{\"spec\":{\"rotation\":{\"overlap\":\"1440m\"}}}")]
    {
        let before = spec(&cluster, name);
        let said = person.runs(&["rotate", name, "--now", "--timeout", "1s"]);
        let command = format!("kubectl patch setupkeys.setupkey.dev {name} -n {namespace} --type=merge -p '{back}'");
        let expected = format!(
            "the rotation of setupkey {name} is requested, and it is not done after 1s: the operator has not reported yet (is it running?); spec.rotation.overlap is 0s, which ends all replaced keys; once the next key is issued and status.previous is empty, put it back with: {command}"
        );
        assert_eq!(said.fails(), expected);
        assert_eq!(spec(&cluster, name)["rotation"]["overlap"], "0s");
        let typed = typed(&person, &command);
        assert_eq!((typed.code, typed.err.as_str()), (0, ""));
        assert_eq!(spec(&cluster, name), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_now_that_is_interrupted_says_so() {
    let cluster = Cluster::for_test("plugin-rotate-stop").await;
    let person = Person::administrator(&cluster);
    issued(&cluster, "office", json!({}), json!({})).await;
    let mut command = person.kubectl();
    command.args(["setupkey", "rotate", "office", "--now"]).stdin(Stdio::null());
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
    eventually("the request", || async { (spec(&cluster, "office")["rotation"]["overlap"] == "0s").then_some(()) })
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let killed = Command::new("kill").args(["-INT", &running.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let output = running.wait_with_output().expect("an end");
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("the wait for it was interrupted; spec.rotation.overlap is 0s"), "{err}");
    assert!(err.trim_end().ends_with("-p '{\"spec\":{\"rotation\":null}}'"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_now_notices_that_the_overlap_was_put_back_too_early() {
    let cluster = Cluster::for_test("plugin-rotate-race").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "rotation: {overlap: 2h}");
    cluster.ready("office").await;
    operator.stop().await;
    let person = Person::administrator(&cluster);
    let command = tokio::task::spawn_blocking(move || person.runs(&["rotate", "office", "--now"]));
    eventually("the request", || async { (spec(&cluster, "office")["rotation"]["overlap"] == "0s").then_some(()) })
        .await;
    cluster.patch_spec("office", json!({ "rotation": { "overlap": "2h" } })).await;
    let operator = cluster.start_operator().await;
    let expected = "setupkey office is rotated, and replaced keys still admit machines: another writer has set spec.rotation.overlap to 2h meanwhile; suspend what manages it, and run this again";
    assert_eq!(command.await.unwrap().fails(), expected);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_refuses_what_would_not_take_place() {
    let cluster = Cluster::for_test("plugin-rotate-refused").await;
    let (person, namespace) = (Person::administrator(&cluster), cluster.namespace.as_str());
    issued(&cluster, "there", json!({ "revoked": true, "authorityRef": { "name": "netbird" } }), json!({})).await;
    issued(&cluster, "going", json!({}), json!({})).await;
    issued(&cluster, "office", json!({}), json!({})).await;
    cluster.apply_quickly("new", json!({})).await;
    let finalizer = json!({ "metadata": { "finalizers": ["example.com/held"] } });
    let held = kube::api::Patch::Merge(finalizer);
    cluster.keys().patch("going", &Default::default(), &held).await.unwrap();
    cluster.keys().delete("going", &DeleteParams::default()).await.unwrap();
    for (name, why) in [
        (
            "there",
            "it is revoked, and NetBird creates no key that is revoked; kubectl setupkey unrevoke there issues another key",
        ),
        ("new", "it has no key yet: the operator has not reported yet (is it running?)"),
        ("going", "it is being deleted"),
    ] {
        for flags in [&["rotate", name][..], &["rotate", name, "--now"]] {
            assert_eq!(person.runs(flags).fails(), format!("setupkey {name} is not rotated: {why}"));
        }
        let key = cluster.keys().get(name).await.unwrap();
        assert!(key.metadata.annotations.unwrap_or_default().is_empty(), "{name} was changed");
    }
    let all = person.runs(&["rotate", "--all"]);
    assert_eq!((all.code, all.out.as_str()), (1, "setupkey office: rotation requested\n"));
    assert_eq!(all.err.lines().count(), 3, "{}", all.err);
    let idle = person.runs(&["rotate", "office", "--timeout", "5s"]);
    assert_eq!(idle.fails(), "--timeout needs --wait or --now: without them, rotate only asks and does not wait");

    let reader = Person::with_rights(&cluster, "reader", &[("get,list", "setupkeys.setupkey.dev")]);
    for flags in [&["rotate", "office"][..], &["rotate", "office", "--now"]] {
        let expected = format!(
            "could not change SetupKey {namespace}/office: system:serviceaccount:{namespace}:reader may not patch setupkeys.setupkey.dev in namespace {namespace}; ask an administrator for that right"
        );
        assert_eq!(reader.runs(flags).fails(), expected);
    }
    let nothing = json!({ "metadata": { "finalizers": null } });
    cluster.keys().patch("going", &Default::default(), &kube::api::Patch::Merge(nothing)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_counts_later_than_the_current_key_also_if_the_clock_is_behind() {
    let cluster = Cluster::for_test("plugin-rotate-clocks").await;
    let person = Person::administrator(&cluster);
    // The clock of the operator is two minutes ahead, so the key seems to be issued in the future.
    let ahead = TestClock::default();
    ahead.step(TimeDelta::minutes(2));
    let operator = cluster.start_operator_at(ahead).await;
    cluster.apply("office", "usageLimit: 3");
    cluster.ready("office").await;
    let said = person.runs(&["rotate", "office", "--wait"]);
    assert!(said.ok().starts_with("setupkey office: revision 2 issued ("), "{said:?}");
    operator.stop().await;

    // The operator's clock is an hour behind: the rotation is due in an hour.
    let hour_ago: Timestamp = ago(TimeDelta::hours(1));
    cluster.patch_status("office", json!({ "issuedAt": ago(TimeDelta::hours(3)) })).await;
    let operator = cluster.start_operator_at(TestClock::reading(hour_ago.moment())).await;
    let said = person.runs(&["rotate", "office", "--wait", "--timeout", "10s"]);
    let after = status(&cluster, "office").await;
    assert_eq!((after.revision, says(&after, "Ready").as_str()), (Some(2), "True Reconciled"));
    let due = after.rotate_at.expect("a rotation that is due");
    let expected = format!(
        "the rotation of setupkey office is requested, and is not done after 10s: it is due at {due} by the clock of the operator; is the clock here ahead?"
    );
    assert_eq!(said.fails(), expected);
    operator.stop().await;
}
