//! From a `SetupKey` to a Secret and a status.

use kube::ResourceExt;
use serde_json::json;

use crate::harness::{Cluster, condition, digest, kubectl, says};
use setupkey_operator::api::State;

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_key_becomes_a_secret_and_an_honest_status() {
    let cluster = Cluster::for_test("issuing").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "usageLimit: 3, expiresIn: 48h, autoGroups: [office]");
    let status = cluster.ready("office").await;

    let key = cluster.keys().get("office").await.unwrap();
    let secret = cluster.secrets().get("office").await.unwrap();
    let value = cluster.value("office", "setup-key").await;
    let id = status.id.clone().unwrap();
    let expires = status.expires.unwrap();
    assert_eq!(value.len(), 36);
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(secret.owner_references()[0].uid, key.uid().unwrap());
    assert_eq!(secret.annotations()["setupkey.dev/id"], id);
    assert_eq!(secret.annotations()["setupkey.dev/expires"], expires.to_string());
    assert_eq!(secret.labels()["setupkey.dev/key"], "office");

    assert!(id.len() == 20 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v')), "{id}");
    assert_eq!(status.key.unwrap(), format!("{}****", &value[..5]));
    assert_eq!(status.digest.unwrap(), digest(&value));
    assert_eq!(status.state, Some(State::Valid));
    assert_eq!(status.valid, Some(true));
    assert_eq!(status.usage_limit, Some(3));
    assert_eq!(status.used_times, 0);
    assert_eq!(status.last_used, None);
    let recorded = status.secret.unwrap();
    assert_eq!((recorded.name.as_str(), recorded.key.as_str()), ("office", "setup-key"));
    assert_eq!(recorded.resource_version, secret.resource_version().unwrap());
    let lifetime = expires.moment() - chrono::Utc::now();
    assert!((47 * 60 + 59..=48 * 60).contains(&lifetime.num_minutes()), "{lifetime}");

    cluster.event("office", "Issued").await;
    let (writes, reads) = (operator.requests.writes(), operator.requests.on_objects());
    assert_eq!(writes.len(), 2, "a key costs two writes: {writes:#?}");
    assert_eq!(reads, writes, "a new key costs no read");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_tells_a_person_what_is_going_on() {
    let cluster = Cluster::for_test("table").await;
    let operator = cluster.start_operator().await;
    cluster.apply("many", "usageLimit: 3");
    cluster.apply("one", "type: one-off");
    cluster.apply("any", "");
    for name in ["many", "one", "any"] {
        cluster.ready(name).await;
    }
    let columns = |name: &str| {
        let table = cluster.kubectl_ok(&["get", "sk", name], "");
        let lines: Vec<Vec<String>> =
            table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        (lines[0].clone(), lines[1].clone())
    };
    let (header, many) = columns("many");
    assert_eq!(header, ["NAME", "TYPE", "STATE", "USED", "LIMIT", "EXPIRES", "SECRET", "READY", "AGE"]);
    assert_eq!(&many[..5], ["many", "reusable", "valid", "0", "3"]);
    assert_eq!(&many[6..8], ["many", "True"]);
    assert!(many[5].ends_with('Z'), "{many:?}");
    assert_eq!(&columns("one").1[..5], ["one", "one-off", "valid", "0", "1"]);
    // Without a limit the column is empty.
    assert_eq!(&columns("any").1[..4], ["any", "reusable", "valid", "0"]);
    assert!(columns("any").1[4].ends_with('Z'));

    let names = |selector: &str| cluster.kubectl_ok(&["get", "sk", "-o", "name", "--field-selector", selector], "");
    assert_eq!(names("status.state=valid").lines().count(), 3);
    assert_eq!(names("spec.type=one-off"), "setupkey.setupkey.dev/one\n");
    assert_eq!(cluster.kubectl_ok(&["get", "setupkey", "-o", "name"], "").lines().count(), 3);
    // Also while there are authorities: as a category of several kinds, the word would take no name.
    assert_eq!(cluster.kubectl_ok(&["get", "setupkey", "one", "-o", "name"], ""), "setupkey.setupkey.dev/one\n");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_reads_like_documentation() {
    let _cluster = Cluster::for_test("explain").await;
    let of_spec = [
        "",
        ".name",
        ".type",
        ".expiresIn",
        ".autoGroups",
        ".usageLimit",
        ".ephemeral",
        ".revoked",
        ".rotation",
        ".rotation.renewBefore",
        ".rotation.overlap",
        ".revokeUnusedAfter",
        ".secret.labels",
        ".secret.aliases",
        ".secret.managementUrlKey",
    ];
    let of_status = [".revision", ".issuedAt", ".rotateAt", ".unusedSince", ".previous", ".previous.admitsUntil"];
    let fields =
        of_spec.map(|field| format!("spec{field}")).into_iter().chain(of_status.map(|field| format!("status{field}")));
    for field in fields {
        let output = kubectl().args(["explain", &format!("setupkeys.{field}")]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let description = text.split("DESCRIPTION:").nth(1).unwrap_or_default();
        assert!(description.trim().len() > 30, "{field}: {text}");
        assert!(!description.contains("<empty>"), "{field}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_before_the_first_pass_reads_as_in_progress() {
    let cluster = Cluster::for_test("fresh").await;
    cluster.apply("fresh", "");
    let status = cluster.keys().get("fresh").await.unwrap().status.unwrap();
    assert_eq!(status.observed_generation, Some(-1));
    assert!(status.conditions.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn status_lost_is_rebuilt() {
    let cluster = Cluster::for_test("status_lost").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "expiresIn: 48h");
    let before = cluster.ready("office").await;
    let (value, version) = (cluster.value("office", "setup-key").await, cluster.secret_version("office").await);

    let key = cluster.keys().get("office").await.unwrap();
    let generation = key.metadata.generation;
    cluster.lose_status("office").await;
    let after = cluster.ready("office").await;
    assert_eq!(after.id, before.id);
    assert_eq!(after.expires, before.expires);
    assert_eq!(after.digest, before.digest);
    assert_eq!(after.observed_generation, generation);
    assert_eq!(cluster.value("office", "setup-key").await, value, "the key was replaced");
    assert_eq!(cluster.secret_version("office").await, version, "the Secret was written");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_in_the_status_is_read_and_never_written() {
    let cluster = Cluster::for_test("usage").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "usageLimit: 3");
    cluster.ready("office").await;
    let used = "2026-11-24T06:00:00Z";
    cluster.patch_status("office", json!({ "usedTimes": 3, "lastUsed": used })).await;
    let overused = cluster.status_when("office", "overused", |status| status.state == Some(State::Overused)).await;
    assert_eq!(says(&overused, "Valid"), "False Overused");
    assert_eq!(says(&overused, "Ready"), "True Reconciled");
    cluster.event("office", "Overused").await;

    // A change of the spec makes the controller write the status. The write must leave the ledger as it is.
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    let revoked = cluster.status_when("office", "revoked", |status| status.state == Some(State::Revoked)).await;
    assert_eq!(revoked.used_times, 3);
    assert_eq!(revoked.last_used.unwrap().to_string(), used);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_from_before_a_crash_is_adopted() {
    let cluster = Cluster::for_test("adoption").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let before = cluster.ready("office").await;
    operator.stop().await;

    // A crash between the two writes leaves the Secret and no status.
    cluster.lose_status("office").await;
    let operator = cluster.start_operator().await;
    let after = cluster.ready("office").await;
    assert_eq!((after.id, after.digest, after.expires), (before.id, before.digest, before.expires));
    assert_eq!(operator.requests.writes().len(), 1, "{:#?}", operator.requests.writes());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_groups_are_taken_up_and_the_secret_stays() {
    let cluster = Cluster::for_test("groups").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "autoGroups: [a]");
    cluster.ready("office").await;
    let version = cluster.secret_version("office").await;
    cluster.patch_spec("office", json!({ "autoGroups": ["a", "b"] })).await;
    let status = cluster.status_when("office", "observed", |_| true).await;
    assert_eq!(condition(&status, "Ready").unwrap().observed_generation, Some(2));
    assert_eq!(cluster.secret_version("office").await, version);
    operator.stop().await;
}
