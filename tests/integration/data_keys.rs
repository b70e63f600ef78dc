//! The data keys of the Secret beside the one that holds the key: aliases, and what others keep there.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use setupkey_operator::api::SetupKeyStatus;

use crate::harness::{Cluster, QUIET, condition, exactly, no_write_for, says};

impl Cluster {
    /// The names of the data keys that hold the same value as `setup-key`, and the other data.
    async fn data(&self, name: &str) -> (Vec<String>, BTreeMap<String, String>) {
        let data = self.secrets().get(name).await.expect("the Secret").data.unwrap_or_default();
        let text = |value: Vec<u8>| String::from_utf8(value).expect("text");
        let mut data: BTreeMap<_, _> = data.into_iter().map(|(name, value)| (name, text(value.0))).collect();
        let key = data.get("setup-key").cloned().expect("the key");
        let same = data.iter().filter(|(_, value)| **value == key).map(|(name, _)| name.clone()).collect();
        data.retain(|_, value| *value != key);
        (same, data)
    }
}

fn aliases(status: &SetupKeyStatus) -> Vec<&str> {
    status.secret.as_ref().expect("a Secret on record").aliases.iter().map(String::as_str).collect()
}

fn theirs() -> BTreeMap<String, String> {
    [("password".to_owned(), "theirs".to_owned())].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_come_and_go_with_the_spec_and_other_data_stays() {
    let cluster = Cluster::for_test("aliases").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {aliases: [NB_SETUP_KEY, key]}");
    let status = cluster.ready("office").await;
    exactly(2, QUIET, || operator.requests.writes()).await;
    assert_eq!(aliases(&status), ["NB_SETUP_KEY", "key"]);
    assert_eq!(cluster.data("office").await.0, ["NB_SETUP_KEY", "key", "setup-key"]);
    cluster.patch_secret("office", json!({ "stringData": { "password": "theirs" } })).await;
    cluster.status_when("office", "settled", |now| now.secret != status.secret).await;

    operator.requests.clear();
    cluster.patch_spec("office", json!({ "secret": { "aliases": ["key", "SETUP_KEY"] } })).await;
    let changed = cluster.ready("office").await;
    exactly(2, QUIET, || operator.requests.writes()).await;
    assert_eq!((aliases(&changed), &changed.digest), (vec!["key", "SETUP_KEY"], &status.digest));
    let data = cluster.data("office").await;
    assert_eq!(data, (["SETUP_KEY", "key", "setup-key"].map(str::to_owned).into(), theirs()));

    cluster.patch_spec("office", json!({ "secret": { "aliases": null } })).await;
    cluster.ready("office").await;
    assert_eq!(cluster.data("office").await, (vec!["setup-key".to_owned()], theirs()));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_alias_is_put_back_in_one_write() {
    let cluster = Cluster::for_test("altered_alias").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {aliases: [a, b]}");
    let mut before = cluster.ready("office").await;
    let another_key = "563A1F41-DB48-43E6-B871-0EF6B9304390";
    for (what, data) in [
        ("altered", json!({ "stringData": { "a": "altered" } })),
        ("another key", json!({ "stringData": { "a": another_key, "b": another_key } })),
        ("removed", json!({ "data": { "a": null } })),
    ] {
        operator.requests.clear();
        cluster.patch_secret("office", data).await;
        let after = cluster.status_when("office", what, |now| now.secret != before.secret).await;
        exactly(2, QUIET, || operator.requests.writes()).await;
        assert_eq!(cluster.data("office").await, (["a", "b", "setup-key"].map(str::to_owned).into(), BTreeMap::new()));
        assert_eq!((&after.id, &after.digest), (&before.id, &before.digest), "{what}: the key was replaced");
        assert_eq!(says(&after, "Ready"), "True Reconciled");
        before = after;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_in_which_others_keep_something_is_left_alone_until_it_is_free() {
    let cluster = Cluster::for_test("alias_conflict").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let issued = cluster.ready("office").await;
    cluster.patch_secret("office", json!({ "stringData": { "password": "theirs" } })).await;
    cluster.status_when("office", "settled", |now| now.secret != issued.secret).await;
    cluster.patch_spec("office", json!({ "secret": { "aliases": ["password", "key"] } })).await;
    let status = cluster.status_when("office", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!((says(&status, "Ready").as_str(), status.valid), ("False DataKeyConflict", Some(true)));
    let message = &condition(&status, "Ready").unwrap().message;
    assert!(message.contains(r#"left alone: "password". Delete them from the Secret, or take"#), "{message}");
    assert!(!message.contains("theirs"), "{message}");
    cluster.event("office", "DataKeyConflict").await;
    assert_eq!(aliases(&status), ["key"], "the other alias is missing");
    operator.requests.clear();
    no_write_for(&operator.requests, QUIET).await;

    // Another key changes nothing about that.
    cluster.patch_secret("office", json!({ "data": { "setup-key": null } })).await;
    let replaced = cluster.status_when("office", "issued again", |now| now.digest != status.digest).await;
    assert_eq!(says(&replaced, "Ready"), "False DataKeyConflict");
    let data = cluster.data("office").await;
    assert_eq!(data, (["key", "setup-key"].map(str::to_owned).into(), theirs()));

    cluster.patch_secret("office", json!({ "data": { "password": null } })).await;
    let healed = cluster.ready("office").await;
    assert_eq!((says(&healed, "Stalled").as_str(), aliases(&healed)), ("", vec!["password", "key"]));
    assert_eq!(cluster.data("office").await.1, BTreeMap::new());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_goes_into_all_aliases_in_one_write() {
    let cluster = Cluster::for_test("aliases_together").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {aliases: [a, b]}");
    let mut before = cluster.ready("office").await;
    let all = || (["a", "b", "setup-key"].map(str::to_owned).into(), BTreeMap::new());
    for what in ["rotated", "altered", "deleted"] {
        operator.requests.clear();
        match what {
            "rotated" => {
                // A request must be later than the issue, to the second.
                let moment = before.issued_at.expect("a moment").plus_seconds(1);
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                cluster.request_rotation("office", moment).await;
            }
            "altered" => {
                cluster
                    .patch_secret("office", json!({ "stringData": { "setup-key": "altered", "a": "altered" } }))
                    .await;
            }
            _ => cluster.delete_secret("office").await,
        }
        let after =
            cluster.status_when("office", what, |now| now.digest != before.digest && now.digest.is_some()).await;
        exactly(2, QUIET, || operator.requests.writes()).await;
        assert_eq!(cluster.data("office").await, all(), "{what}");
        assert_eq!(after.revision, Some(2), "{what}");
        before = after;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_status_and_a_restored_secret_aliases_are_ours_by_what_they_hold() {
    let cluster = Cluster::for_test("aliases_restored").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {aliases: [a, b]}");
    let before = cluster.ready("office").await;
    operator.stop().await;
    // A restored Secret has the managedFields of the tool that restored it.
    let mut secret = cluster.secrets().get("office").await.unwrap();
    cluster.delete_secret("office").await;
    secret.metadata.resource_version = None;
    secret.metadata.managed_fields = None;
    let restored: Value = serde_json::to_value(&secret).unwrap();
    cluster.kubectl_ok(&["create", "-f", "-"], &restored.to_string());
    cluster.lose_status("office").await;

    let operator = cluster.start_operator().await;
    let after = cluster.ready("office").await;
    assert_eq!((&after.digest, aliases(&after)), (&before.digest, vec!["a", "b"]));
    cluster.patch_spec("office", json!({ "secret": { "aliases": ["b"] } })).await;
    cluster.ready("office").await;
    assert_eq!(cluster.data("office").await.0, ["b", "setup-key"]);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_replaces_the_whole_secret_costs_one_write() {
    let cluster = Cluster::for_test("aliases_replaced").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {aliases: [a, b]}");
    let before = cluster.ready("office").await;
    let key = BASE64_STANDARD.encode(cluster.value("office", "setup-key").await);
    operator.requests.clear();
    let data = json!([{ "op": "replace", "path": "/data", "value": { "setup-key": key, "theirs": "dA==" } }]);
    let patch = kube::api::Patch::<()>::Json(serde_json::from_value(data).unwrap());
    cluster.secrets().patch("office", &Default::default(), &patch).await.expect("a patched Secret");
    let after = cluster.status_when("office", "put right", |now| now.secret != before.secret).await;
    exactly(2, QUIET, || operator.requests.writes()).await;
    assert_eq!((cluster.data("office").await.0.len(), after.digest), (3, before.digest));
    operator.stop().await;
}
