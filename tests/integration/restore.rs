//! What a backup is worth: a SetupKey and its Secret, deleted and then restored as Velero does it.
//!
//! Velero creates each object again without UID, owner references and status. It creates Secrets before custom
//! resources, and skips objects that exist (velero: pkg/restore/restore.go).

use kube::ResourceExt;
use serde_json::{Value, json};
use setupkey_operator::api::SetupKeyStatus;

use crate::harness::{Cluster, QUIET, condition, eventually, exactly, says};

/// The objects in the backup, and what was true when it was made.
struct Backup {
    key: Value,
    secret: Value,
    status: SetupKeyStatus,
    value: String,
}

impl Backup {
    /// A key that was used twice, backed up and then deleted with its Secret.
    async fn of_a_key_that_is_gone(cluster: &Cluster) -> Self {
        cluster.apply("office", "usageLimit: 3");
        cluster.ready("office").await;
        cluster.patch_status("office", json!({ "usedTimes": 2 })).await;
        let saved = |kind: &str| serde_json::from_str(&cluster.kubectl_ok(&["get", kind, "office", "-o", "json"], ""));
        let backup = Self {
            key: saved("setupkey").unwrap(),
            secret: saved("secret").unwrap(),
            status: cluster.ready("office").await,
            value: cluster.value("office", "setup-key").await,
        };
        cluster.kubectl_ok(&["delete", "setupkey", "office"], "");
        let secrets = cluster.secrets();
        eventually("the Secret to be collected", || async {
            secrets.get_opt("office").await.unwrap().is_none().then_some(())
        })
        .await;
        backup
    }
}

/// The saved object without the fields that Velero drops.
fn restorable(saved: &Value) -> Value {
    let mut object = saved.clone();
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences"] {
        metadata.remove(field);
    }
    object["metadata"]["labels"]["velero.io/restore-name"] = "after-the-fire".into();
    object
}

fn create(cluster: &Cluster, object: &Value) {
    cluster.kubectl_ok(&["create", "-f", "-"], &object.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_keeps_its_key_once_its_secret_is_given_to_the_new_setup_key() {
    for with_status in [false, true] {
        let cluster = Cluster::for_test("restored").await;
        let mut operator = cluster.start_operator().await;
        let backup = Backup::of_a_key_that_is_gone(&cluster).await;
        operator.stop().await;
        create(&cluster, &restorable(&backup.secret));
        create(&cluster, &restorable(&backup.key));
        if with_status {
            cluster.patch_status("office", backup.key["status"].clone()).await;
        }
        let restored = cluster.secret_version("office").await;
        operator = cluster.start_operator().await;

        let in_conflict = |status: &SetupKeyStatus| says(status, "Stalled") == "True SecretConflict";
        let status = cluster.status_when("office", "in conflict", in_conflict).await;
        let said = &condition(&status, "Ready").unwrap().message;
        let uid = cluster.keys().get("office").await.unwrap().uid().unwrap();
        assert!(said.contains("To keep its key") && said.contains(&uid), "{said}");
        assert_eq!((status.valid, status.digest), (Some(false), None), "a key that is not ours admits no machine");
        exactly(0, QUIET, || operator.requests.secret_writes()).await;
        assert_eq!(cluster.secret_version("office").await, restored, "the Secret was written");

        cluster.follow_the_documentation("operations.md", "## Backup and restore");
        let status = cluster.ready("office").await;
        assert_eq!(says(&status, "Stalled"), "");
        let was = &backup.status;
        assert_eq!((&status.id, &status.digest, status.expires), (&was.id, &was.digest, was.expires));
        assert_eq!(cluster.value("office", "setup-key").await, backup.value);
        assert_eq!(status.used_times, if with_status { 2 } else { 0 }, "status restored: {with_status}");
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_whose_setup_key_comes_first_gets_a_new_key() {
    let cluster = Cluster::for_test("restored_key_first").await;
    let operator = cluster.start_operator().await;
    let backup = Backup::of_a_key_that_is_gone(&cluster).await;
    create(&cluster, &restorable(&backup.key));
    let issued = cluster.ready("office").await;
    cluster.event("office", "Issued").await;
    let value = cluster.value("office", "setup-key").await;
    assert!(issued.id != backup.status.id && value != backup.value);
    let secret = restorable(&backup.secret);
    operator.requests.clear();
    let refused = cluster.kubectl(&["create", "-f", "-"], &secret.to_string());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("already exists"));
    exactly(0, QUIET, || operator.requests.secret_writes()).await;
    assert_eq!(cluster.value("office", "setup-key").await, value);

    // Velero's --existing-resource-policy=update puts the old key into the new Secret: the same as tampering.
    let metadata = json!({ "labels": secret["metadata"]["labels"], "annotations": secret["metadata"]["annotations"] });
    cluster.patch_secret("office", json!({ "metadata": metadata, "data": secret["data"] })).await;
    let again = cluster.status_when("office", "issued again", |status| status.digest != issued.digest).await;
    cluster.event("office", "KeyRegenerated").await;
    assert_eq!((&again.id, again.expires), (&issued.id, issued.expires));
    let replaced = cluster.value("office", "setup-key").await;
    assert!(replaced != value && replaced != backup.value);
    operator.stop().await;
}

/// Other tools keep the owner references. These name a deleted SetupKey, so Kubernetes collects the Secrets.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_with_its_owner_reference_loses_its_secret_and_gets_a_new_key() {
    let cluster = Cluster::for_test("restored_owner").await;
    let operator = cluster.start_operator().await;
    let backup = Backup::of_a_key_that_is_gone(&cluster).await;
    let mut secret = restorable(&backup.secret);
    secret["metadata"]["ownerReferences"] = backup.secret["metadata"]["ownerReferences"].clone();
    create(&cluster, &secret);
    create(&cluster, &restorable(&backup.key));
    let status = cluster.ready("office").await;
    assert_eq!(says(&status, "Stalled"), "");
    assert!(status.id != backup.status.id && status.digest != backup.status.digest);
    assert_ne!(cluster.value("office", "setup-key").await, backup.value);
    operator.stop().await;
}
