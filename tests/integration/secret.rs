//! What happens to the Secret, and its effect on the key.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{ObjectMeta, PostParams},
};
use serde_json::json;
use setupkey_operator::api::State;

use crate::harness::{Cluster, QUIET, eventually, exactly, no_write_for, says};

#[tokio::test(flavor = "multi_thread")]
async fn foreign_secret_is_untouched_and_conflict_heals() {
    let cluster = Cluster::for_test("conflict").await;
    let operator = cluster.start_operator().await;
    let foreign = Secret {
        metadata: ObjectMeta { name: Some("office".to_owned()), ..ObjectMeta::default() },
        string_data: Some([("password".to_owned(), "theirs".to_owned())].into()),
        ..Secret::default()
    };
    let foreign = cluster.secrets().create(&PostParams::default(), &foreign).await.unwrap();
    cluster.apply("office", "");
    let status = cluster.status_when("office", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!(says(&status, "Ready"), "False SecretConflict");
    assert_eq!(says(&status, "Stalled"), "True SecretConflict");
    assert_eq!(says(&status, "Valid"), "False NotIssued");
    assert_eq!((status.state, status.digest, status.key), (None, None, None));
    cluster.event("office", "SecretConflict").await;
    operator.requests.clear();
    no_write_for(&operator.requests, QUIET).await;
    let untouched = cluster.secrets().get("office").await.unwrap();
    assert_eq!(untouched.resource_version(), foreign.resource_version());
    assert_eq!(untouched.data, foreign.data);

    cluster.delete_secret("office").await;
    let healed = cluster.ready("office").await;
    assert_eq!(says(&healed, "Stalled"), "");
    assert_eq!(healed.state, Some(State::Valid));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_one_secret_name() {
    let cluster = Cluster::for_test("two_keys").await;
    let operator = cluster.start_operator().await;
    cluster.apply("first", "secret: {name: shared}");
    cluster.ready("first").await;
    let value = cluster.value("shared", "setup-key").await;
    cluster.apply("second", "secret: {name: shared}");
    let second = cluster.status_when("second", "in conflict", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!(says(&second, "Ready"), "False SecretConflict");
    assert_eq!(says(&cluster.ready("first").await, "Ready"), "True Reconciled");
    assert_eq!(cluster.value("shared", "setup-key").await, value);

    // Once the first is gone and its Secret collected, the name is free.
    cluster.kubectl_ok(&["delete", "sk", "first"], "");
    cluster.ready("second").await;
    assert_ne!(cluster.value("shared", "setup-key").await, value);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_secret_comes_back_with_a_new_value_and_the_same_budget() {
    let cluster = Cluster::for_test("deleted_secret").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "usageLimit: 3");
    let before = cluster.ready("office").await;
    cluster.patch_status("office", json!({ "usedTimes": 2 })).await;
    let value = cluster.value("office", "setup-key").await;

    cluster.delete_secret("office").await;
    let after = cluster.status_when("office", "issued again", |status| status.digest != before.digest).await;
    assert_ne!(cluster.value("office", "setup-key").await, value);
    assert_eq!(after.id, before.id);
    assert_eq!(after.expires, before.expires);
    assert_eq!(after.used_times, 2);
    cluster.event("office", "KeyRegenerated").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_secret_is_replaced() {
    let cluster = Cluster::for_test("tampered").await;
    let operator = cluster.start_operator().await;
    let known = "563A1F41-DB48-43E6-B871-0EF6B9304390";
    for (name, data) in [
        ("altered", json!({ "stringData": { "setup-key": known } })),
        ("garbled", json!({ "data": { "setup-key": "AAAA" } })),
        ("removed", json!({ "data": { "setup-key": null } })),
    ] {
        cluster.apply(name, "");
        let before = cluster.ready(name).await;
        let value = cluster.value(name, "setup-key").await;
        operator.requests.clear();
        cluster.patch_secret(name, data).await;
        let after = cluster.status_when(name, "issued again", |status| status.digest != before.digest).await;
        let replaced = cluster.value(name, "setup-key").await;
        assert!(replaced != value && replaced != known, "{name}: the key is not new");
        assert_eq!((after.id, after.expires), (before.id, before.expires), "{name}");
        cluster.event(name, "KeyRegenerated").await;
        exactly(2, QUIET, || operator.requests.writes()).await;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_while_the_operator_was_down_is_noticed() {
    let cluster = Cluster::for_test("tampered_down").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let before = cluster.ready("office").await;
    operator.stop().await;
    cluster
        .patch_secret("office", json!({ "stringData": { "setup-key": "563A1F41-DB48-43E6-B871-0EF6B9304390" } }))
        .await;
    let operator = cluster.start_operator().await;
    let after = cluster.status_when("office", "issued again", |status| status.digest != before.digest).await;
    assert_eq!(after.id, before.id);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drifted_metadata_comes_back_and_other_peoples_stays() {
    let cluster = Cluster::for_test("drift").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {labels: {team: network}, annotations: {example.com/note: ours}}");
    let before = cluster.ready("office").await;
    let value = cluster.value("office", "setup-key").await;
    cluster
        .patch_secret(
            "office",
            json!({ "metadata": {
                "labels": { "team": "other", "setupkey.dev/key": null, "theirs": "kept" },
                "annotations": { "setupkey.dev/id": "00000000000000000000", "theirs/note": "kept" },
            }}),
        )
        .await;
    let secret = eventually("the metadata to be restored", || async {
        let secret = cluster.secrets().get("office").await.unwrap();
        (secret.labels().get("team").is_some_and(|team| team == "network")).then_some(secret)
    })
    .await;
    assert_eq!(secret.labels()["setupkey.dev/key"], "office");
    assert_eq!(secret.labels()["theirs"], "kept");
    assert_eq!(secret.annotations()["theirs/note"], "kept");
    assert_eq!(Some(&secret.annotations()["setupkey.dev/id"]), before.id.as_ref());
    assert_eq!(cluster.ready("office").await.id, before.id);
    assert_eq!(cluster.value("office", "setup-key").await, value);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_annotations_of_the_secret_follow_the_spec() {
    let cluster = Cluster::for_test("template").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {labels: {team: network, site: a}, annotations: {example.com/note: ours}}");
    cluster.ready("office").await;
    cluster.patch_secret("office", json!({ "metadata": { "labels": { "theirs": "kept" } } })).await;
    cluster.apply("office", "secret: {labels: {site: b}}");
    cluster.status_when("office", "observed", |_| true).await;
    let secret = cluster.secrets().get("office").await.unwrap();
    assert_eq!(secret.labels().get("team"), None, "a label that is no longer asked for stayed");
    assert_eq!(secret.annotations().get("example.com/note"), None);
    assert_eq!(secret.labels()["site"], "b");
    assert_eq!(secret.labels()["theirs"], "kept");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_reference_that_is_taken_away_stops_the_key_until_it_is_back() {
    let cluster = Cluster::for_test("owner").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let before = cluster.ready("office").await;
    let owners = cluster.secrets().get("office").await.unwrap().owner_references().to_vec();
    cluster.patch_secret("office", json!({ "metadata": { "ownerReferences": null } })).await;
    let stalled = cluster.status_when("office", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!((says(&stalled, "Ready").as_str(), stalled.valid), ("False SecretConflict", Some(false)));
    cluster.patch_secret("office", json!({ "metadata": { "ownerReferences": owners } })).await;
    let healed = cluster.ready("office").await;
    assert_eq!((healed.id, healed.digest), (before.id, before.digest), "the key was replaced");
    operator.stop().await;
}
