//! A controller whose caches lag or have gaps.

use std::time::Duration;

use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use crate::{
    faults::{Fault, Faults, Watches},
    harness::{Cluster, QUIET, Setup, digest, eventually, exactly, quiet_for, says},
};

#[tokio::test(flavor = "multi_thread")]
async fn stale_cache_never_replaces_a_key_twice() {
    let cluster = Cluster::for_test("stale_cache").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let before = cluster.ready("office").await;

    // The controller sees that the Secret was altered and repairs it. It does not see its own status write.
    operator.faults.set_key_watch(Watches::Held);
    operator.requests.clear();
    cluster.patch_secret("office", json!({ "data": { "setup-key": "AAAA" } })).await;
    cluster.status_when("office", "issued again", |status| status.digest != before.digest).await;
    let value = cluster.value("office", "setup-key").await;
    // Each of these triggers a reconcile with the old status in the cache: at once, and after the controller has
    // stopped waiting for its own write.
    for (number, wait) in [0, 2000, 4500].into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        cluster.patch_secret("office", json!({ "metadata": { "labels": { "poke": number.to_string() } } })).await;
    }
    exactly(1, QUIET, || operator.requests.secret_writes()).await;
    assert_eq!(cluster.value("office", "setup-key").await, value, "the key was replaced once more");
    operator.faults.set_key_watch(Watches::Flow);
    let status = cluster.ready("office").await;
    assert_eq!(status.digest, Some(digest(&value)));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_cache_is_not_acted_on_before_it_shows_our_own_writes() {
    let cluster = Cluster::for_test("own_writes").await;
    let operator = cluster.start_operator_among(Faults::holding_the_key_watch_from_write(0)).await;
    cluster.apply("office", "");
    // The Secret watch delivers the new Secret and triggers a reconcile. The cached SetupKey still has no status.
    cluster.ready("office").await;
    exactly(2, QUIET, || operator.attempts.on_objects()).await;
    operator.faults.set_key_watch(Watches::Flow);
    exactly(2, QUIET, || operator.attempts.on_objects()).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_cache_after_a_restart_does_no_harm() {
    let cluster = Cluster::for_test("time_travel").await;
    cluster.apply("office", "");
    // One controller sees the key without a Secret, and dies.
    let first = Setup { faults: Faults::at_write(0, Fault::DieBefore), wait_until_ready: false, ..Setup::default() };
    let first = cluster.start_operator_with(first).await;
    first.faults.died().await;
    let past = first.faults.clone();
    first.kill().await;
    // Another controller issues the key.
    let second = cluster.start_operator().await;
    let issued = cluster.ready("office").await;
    second.stop().await;
    let (value, version) = (cluster.value("office", "setup-key").await, cluster.secret_version("office").await);

    // A third controller reads what the first one read, as if from an API server that lags.
    let third = cluster.start_operator_among(Faults::in_the_past_of(&past)).await;
    eventually("an outdated write", || async { (!third.requests.writes().is_empty()).then_some(()) }).await;
    // No decision from the old state takes effect, and the present state needs none.
    exactly(0, QUIET, || third.requests.applied()).await;
    third.faults.return_to_the_present();
    exactly(0, QUIET, || third.requests.applied()).await;
    let status = cluster.ready("office").await;
    assert_eq!((status.id, status.digest), (issued.id, issued.digest));
    assert_eq!(cluster.value("office", "setup-key").await, value);
    assert_eq!(cluster.secret_version("office").await, version);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unobserved_changes_are_made_up_for() {
    for watches in [Watches::Flow, Watches::Coalesced, Watches::Lost] {
        let cluster = Cluster::for_test(&format!("unobserved-{watches:?}").to_lowercase()).await;
        let operator = cluster.start_operator().await;
        for name in ["deleted", "replaced", "recreated", "revoked"] {
            cluster.apply(name, "");
            cluster.ready(name).await;
        }
        let before = cluster.ready("deleted").await;
        let replaced = cluster.ready("replaced").await;
        operator.faults.set_watches(Watches::Held);
        operator.requests.clear();
        cluster.delete_secret("deleted").await;
        // A foreign Secret comes and goes in place of the operator's.
        cluster.delete_secret("replaced").await;
        cluster.kubectl_ok(&["create", "secret", "generic", "replaced", "--from-literal=a=b"], "");
        cluster.delete_secret("replaced").await;
        cluster.keys().delete("recreated", &DeleteParams::default()).await.unwrap();
        cluster.apply("recreated", "usageLimit: 1");
        cluster.patch_spec("revoked", json!({ "revoked": true })).await;
        cluster.patch_spec("revoked", json!({ "revoked": false })).await;
        quiet_for(&operator.requests, QUIET).await;
        operator.faults.set_watches(watches);

        let after = cluster.status_when("deleted", "issued again", |status| status.digest != before.digest).await;
        assert_eq!(after.id, before.id, "{watches:?}");
        let after = cluster.status_when("replaced", "issued again", |status| status.digest != replaced.digest).await;
        assert_eq!(after.id, replaced.id, "{watches:?}");
        let recreated = cluster.ready("recreated").await;
        let uid = cluster.keys().get("recreated").await.unwrap().uid().unwrap();
        assert_eq!(cluster.secrets().get("recreated").await.unwrap().owner_references()[0].uid, uid);
        assert_eq!(recreated.digest, Some(digest(&cluster.value("recreated", "setup-key").await)), "{watches:?}");
        let revoked = cluster.ready("revoked").await;
        assert_eq!(says(&revoked, "Valid"), "True Valid", "{watches:?}");
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unobserved_deletion_of_a_secret_is_made_up_for_when_its_watch_starts_anew() {
    let cluster = Cluster::for_test("missed_deletion").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let before = cluster.ready("office").await;
    // The SetupKey does not change, so only the new list of Secrets can show it.
    operator.faults.set_secret_watch(Watches::Held);
    operator.requests.clear();
    cluster.delete_secret("office").await;
    quiet_for(&operator.requests, QUIET).await;
    assert!(cluster.secrets().get_opt("office").await.unwrap().is_none(), "it saw the deletion");
    operator.faults.set_secret_watch(Watches::Lost);
    let after = cluster.status_when("office", "issued again", |status| status.digest != before.digest).await;
    assert_eq!(after.id, before.id);
    operator.stop().await;
}
