//! What users break around the operator. A condition reports the problem for as long as it lasts, and clears soon after
//! the repair.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::json;

use crate::harness::{Cluster, Operator, Setup, condition, eventually, says};

/// How long a repair may take to show: one that the operator sees, or one of an error that is retried quickly at first.
const REPAIR: Duration = Duration::from_secs(5);

/// A right or a quota is not watched. Its repair shows at the next retry, and pauses double: what was refused for some
/// seconds is retried within twice as long.
const UNSEEN_REPAIR: Duration = Duration::from_secs(15);

/// Two roles that an operator can lose one by one.
const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: keys }
rules:
  - { apiGroups: [setupkey.dev], resources: [setupkeys], verbs: [get, list, watch] }
  - { apiGroups: [setupkey.dev], resources: [setupkeys/status], verbs: [patch] }
  - { apiGroups: [setupkey.dev], resources: [peers], verbs: [list, watch] }
  - { apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: secrets }
rules:
  - { apiGroups: [""], resources: [secrets], verbs: [get, list, watch, create, patch] }
"#;

fn grant(cluster: &Cluster, role: &str) {
    let subject = format!("--user={}", user_of(cluster));
    cluster.kubectl_ok(&["create", "rolebinding", role, &format!("--role={role}"), &subject], "");
}

/// The user that runs the operator of this test. All tests share the operator's own account, which must keep its rights.
fn user_of(cluster: &Cluster) -> String {
    format!("operator-of-{}", cluster.namespace)
}

fn take_away(cluster: &Cluster, role: &str) {
    cluster.kubectl_ok(&["delete", "rolebinding", role], "");
}

async fn confined_operator(cluster: &Cluster) -> Operator {
    cluster.kubectl_ok(&["apply", "-f", "-"], RIGHTS);
    grant(cluster, "keys");
    grant(cluster, "secrets");
    cluster.start_operator_with(Setup { user: Some(user_of(cluster)), ..Setup::default() }).await
}

async fn ready_within(cluster: &Cluster, name: &str, since: Instant, limit: Duration) {
    cluster.ready(name).await;
    assert!(since.elapsed() < limit, "{name} was well {:?} after the repair", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_faults_rights_on_secrets_are_taken_away_and_given_back() {
    let cluster = Cluster::for_test("no_secrets").await;
    let operator = confined_operator(&cluster).await;
    cluster.apply("before", "");
    let before = cluster.ready("before").await;
    take_away(&cluster, "secrets");
    cluster.apply("after", "");
    let refused = cluster.status_when("after", "refused", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!(says(&refused, "Ready"), "False SecretRefused");
    let message = &refused.conditions[0].message;
    assert!(message.contains("cannot create resource \"secrets\""), "{message}");
    // The key that was issued before keeps its value and stays valid, although its Secret cannot be read.
    cluster.patch_spec("before", json!({ "autoGroups": ["a"] })).await;
    let unread = cluster.status_when("before", "observed", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!((unread.digest, unread.valid), (before.digest, Some(true)));
    // The report stays for as long as the rights are missing.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for name in ["before", "after"] {
            let status = cluster.keys().get(name).await.unwrap().status.unwrap();
            assert_eq!(says(&status, "Ready"), "False SecretRefused", "{name}");
        }
    }

    grant(&cluster, "secrets");
    let repaired = Instant::now();
    ready_within(&cluster, "after", repaired, UNSEEN_REPAIR).await;
    ready_within(&cluster, "before", repaired, UNSEEN_REPAIR).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_faults_all_rights_are_taken_away_and_given_back() {
    let cluster = Cluster::for_test("no_rights").await;
    let operator = confined_operator(&cluster).await;
    take_away(&cluster, "secrets");
    take_away(&cluster, "keys");
    cluster.apply("office", "");
    tokio::time::sleep(Duration::from_secs(4)).await;
    // The operator cannot even report what is wrong.
    let status = cluster.keys().get("office").await.unwrap().status.unwrap();
    assert_eq!(status.observed_generation, Some(-1));
    grant(&cluster, "keys");
    grant(&cluster, "secrets");
    ready_within(&cluster, "office", Instant::now(), REPAIR).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_faults_a_watch_that_is_refused_from_the_start() {
    let cluster = Cluster::for_test("no_watch").await;
    cluster.kubectl_ok(&["apply", "-f", "-"], RIGHTS);
    let setup = Setup { user: Some(user_of(&cluster)), wait_until_ready: false, ..Setup::default() };
    let operator = cluster.start_operator_with(setup).await;
    cluster.apply("office", "");
    tokio::time::sleep(Duration::from_secs(6)).await;
    grant(&cluster, "keys");
    grant(&cluster, "secrets");
    ready_within(&cluster, "office", Instant::now(), REPAIR).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_faults_keys_are_looked_after_without_rights_on_peers() {
    let cluster = Cluster::for_test("no_peers").await;
    let rights: Vec<_> = RIGHTS.lines().filter(|line| !line.contains("resources: [peers]")).collect();
    cluster.kubectl_ok(&["apply", "-f", "-"], &rights.join("\n"));
    grant(&cluster, "keys");
    grant(&cluster, "secrets");
    let setup = Setup { user: Some(user_of(&cluster)), wait_until_ready: false, ..Setup::default() };
    let operator = cluster.start_operator_with(setup).await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    // It still ends when it is asked to.
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_faults_a_quota_is_used_up_and_lifted() {
    let cluster = Cluster::for_test("quota").await;
    let operator = cluster.start_operator().await;
    cluster.kubectl_ok(&["create", "quota", "none", "--hard=secrets=0"], "");
    eventually("the quota to be enforced", || async {
        let used = cluster.kubectl_ok(&["get", "quota", "none", "-o", "jsonpath={.status.hard.secrets}"], "");
        (used == "0").then_some(())
    })
    .await;
    cluster.apply("office", "");
    let status = cluster.status_when("office", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!(says(&status, "Ready"), "False SecretRefused");
    let message = &status.conditions[0].message;
    assert!(message.contains("exceeded quota: none"), "{message}");
    cluster.event("office", "SecretRefused").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (busiest, object) = operator.attempts.busiest_second();
    assert!(busiest <= 10, "{busiest} requests within a second on {object}");
    cluster.kubectl_ok(&["delete", "quota", "none"], "");
    ready_within(&cluster, "office", Instant::now(), UNSEEN_REPAIR).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_faults_a_policy_refuses_the_secret_and_is_lifted() {
    let cluster = Cluster::for_test("policy").await;
    let operator = cluster.start_operator().await;
    // An immutable Secret exists already, and the SetupKey owns it: the operator cannot repair the key in it.
    cluster.apply("office", "");
    let before = cluster.ready("office").await;
    cluster.patch_secret("office", json!({ "data": { "setup-key": "AAAA" }, "immutable": true })).await;
    let stalled = cluster.status_when("office", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!(says(&stalled, "Ready"), "False SecretRefused");
    let message = &condition(&stalled, "Ready").unwrap().message;
    assert!(message.contains("immutable") && message.contains("Delete the Secret"), "{message}");
    assert_eq!((stalled.digest, stalled.valid), (None, Some(false)), "no machine may join with what is in that Secret");
    cluster.delete_secret("office").await;
    ready_within(&cluster, "office", Instant::now(), REPAIR).await;
    assert_eq!(cluster.ready("office").await.id, before.id);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_faults_owner_and_labels_are_stomped() {
    let cluster = Cluster::for_test("stomped").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let before = cluster.ready("office").await;
    let owners = cluster.secrets().get("office").await.unwrap().owner_references().to_vec();
    // Without its label, the Secret is outside the operator's watch. The operator notices all the same.
    cluster
        .patch_secret(
            "office",
            json!({ "metadata": { "ownerReferences": null, "labels": { "setupkey.dev/key": null } } }),
        )
        .await;
    let stalled = cluster.status_when("office", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    assert_eq!(says(&stalled, "Ready"), "False SecretConflict");
    cluster.patch_secret("office", json!({ "metadata": { "ownerReferences": owners } })).await;
    ready_within(&cluster, "office", Instant::now(), REPAIR).await;
    let healed = cluster.ready("office").await;
    assert_eq!((healed.id, healed.digest), (before.id, before.digest), "the key was replaced");
    let secret = cluster.secrets().get("office").await.unwrap();
    assert_eq!(secret.labels()["setupkey.dev/key"], "office");
    operator.stop().await;
}
