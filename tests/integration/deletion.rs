//! Deleting a key.

use k8s_openapi::api::core::v1::Secret;
use kube::{ResourceExt, api::Api};

use crate::harness::{Cluster, QUIET, eventually, quiet_for};

async fn gone(secrets: &Api<Secret>, name: &str) {
    eventually("the Secret to be collected", || async { secrets.get_opt(name).await.unwrap().is_none().then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_key_collects_its_secret() {
    let cluster = Cluster::for_test("deletion").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    let key = cluster.keys().get("office").await.unwrap();
    assert!(key.finalizers().is_empty(), "deletion must not wait for the operator");
    cluster.kubectl_ok(&["delete", "sk", "office"], "");
    gone(&cluster.secrets(), "office").await;
    assert!(cluster.keys().get_opt("office").await.unwrap().is_none());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_being_deleted_gets_no_new_secret() {
    let cluster = Cluster::for_test("foreground").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    // A foreign finalizer keeps the object while it is being deleted.
    cluster.kubectl_ok(
        &["patch", "sk", "office", "--type=merge", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#],
        "",
    );
    cluster.kubectl_ok(&["delete", "sk", "office", "--wait=false"], "");
    operator.requests.clear();
    cluster.delete_secret("office").await;
    quiet_for(&operator.requests, QUIET).await;
    assert!(cluster.secrets().get_opt("office").await.unwrap().is_none());
    cluster.kubectl_ok(&["patch", "sk", "office", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_same_name_is_another_key() {
    let cluster = Cluster::for_test("recreated").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let first = cluster.ready("office").await;
    cluster.kubectl_ok(&["delete", "sk", "office"], "");
    cluster.apply("office", "");
    let second = cluster.ready("office").await;
    assert_ne!(first.id, second.id);
    assert_ne!(first.digest, second.digest);
    let uid = cluster.keys().get("office").await.unwrap().uid().unwrap();
    assert_eq!(cluster.secrets().get("office").await.unwrap().owner_references()[0].uid, uid);
    operator.stop().await;
}
