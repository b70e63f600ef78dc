//! Revoking a key.

use serde_json::json;
use setupkey_operator::api::State;

use crate::harness::{Cluster, QUIET, TestClock, exactly, says};

#[tokio::test(flavor = "multi_thread")]
async fn revoke_and_unrevoke() {
    let cluster = Cluster::for_test("revoke").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let issued = cluster.ready("office").await;
    let (value, version) = (cluster.value("office", "setup-key").await, cluster.secret_version("office").await);

    operator.requests.clear();
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    let revoked = cluster.status_when("office", "revoked", |status| status.state == Some(State::Revoked)).await;
    assert_eq!(revoked.valid, Some(false));
    assert_eq!(says(&revoked, "Valid"), "False Revoked");
    assert_eq!(says(&revoked, "Ready"), "True Reconciled", "a revoked key is as the spec wants it");
    assert_eq!(says(&revoked, "Stalled"), "");
    cluster.event("office", "Revoked").await;
    assert_eq!(operator.requests.writes().len(), 1, "{:#?}", operator.requests.writes());

    cluster.patch_spec("office", json!({ "revoked": false })).await;
    let back = cluster.status_when("office", "valid", |status| status.state == Some(State::Valid)).await;
    assert_eq!(says(&back, "Valid"), "True Valid");
    cluster.event("office", "Unrevoked").await;
    assert_eq!((back.id, back.digest, back.expires), (issued.id, issued.digest, issued.expires));
    assert_eq!(cluster.value("office", "setup-key").await, value);
    assert_eq!(cluster.secret_version("office").await, version, "the Secret was written");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_be_created_revoked() {
    let cluster = Cluster::for_test("born_revoked").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "revoked: true");
    let status = cluster.ready("office").await;
    assert_eq!(status.state, Some(State::Revoked));
    assert_eq!(cluster.value("office", "setup-key").await.len(), 36, "pods that mount the Secret must start");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_key_that_expires_reads_expired() {
    let cluster = Cluster::for_test("revoked_expires").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "revoked: true, expiresIn: 24h");
    let issued = cluster.ready("office").await;
    operator.stop().await;

    let soon = issued.expires.unwrap().moment() - chrono::Duration::seconds(2);
    let operator = cluster.start_operator_at(TestClock::reading(soon)).await;
    assert_eq!(cluster.ready("office").await.state, Some(State::Revoked));
    let expired = cluster.status_when("office", "expired", |status| status.state == Some(State::Expired)).await;
    assert_eq!(says(&expired, "Valid"), "False Expired");
    assert_eq!(says(&expired, "Ready"), "True Reconciled");

    // An un-revoked key stays expired.
    operator.requests.clear();
    cluster.patch_spec("office", json!({ "revoked": false })).await;
    assert_eq!(cluster.ready("office").await.state, Some(State::Expired));
    exactly(1, QUIET, || operator.requests.writes()).await;
    operator.stop().await;
}
