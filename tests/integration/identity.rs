//! A key belongs to one SetupKey, whatever a tenant copies into the status or the Secret of another.

use kube::ResourceExt;
use serde_json::{Value, json};
use setupkey_operator::api::SetupKeyStatus;

use crate::harness::{Cluster, QUIET, Setup, at_rest_for, eventually, no_write_for, says};

/// The part of a status by which a key is recognised.
fn record(status: &SetupKeyStatus) -> Value {
    json!([status.id, status.digest, status.expires, status.issued_at, status.previous])
}

impl Cluster {
    /// Makes a Secret with this value and the marks of a restored key, and gives it to the SetupKey, as the documentation
    /// says.
    async fn adopt(&self, name: &str, value: &str, id: &str) {
        let key = self.keys().get(name).await.unwrap();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": name,
                "labels": { "setupkey.dev/key": name }, "annotations": { "setupkey.dev/id": id },
                "ownerReferences": [{
                    "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "name": name,
                    "uid": key.uid().unwrap(), "controller": true,
                }],
            },
            "stringData": { "setup-key": value },
        });
        self.kubectl_ok(&["create", "-f", "-"], &secret.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_on_record_for_another_setup_key_is_not_adopted() {
    let (owner, tenant) = (Cluster::for_test("owner").await, Cluster::for_test("tenant").await);
    let operator =
        owner.start_operator_with(Setup { neighbours: vec![tenant.namespace.clone()], ..Setup::default() }).await;
    owner.apply("office", "");
    let victim = owner.ready("office").await;
    let value = owner.value("office", "setup-key").await;

    // The Secret is there before the SetupKey is seen, so that nothing else stands in its name.
    operator.stop().await;
    tenant.apply("mine", "");
    tenant.adopt("mine", &value, victim.id.as_deref().unwrap()).await;
    let operator =
        owner.start_operator_with(Setup { neighbours: vec![tenant.namespace.clone()], ..Setup::default() }).await;

    let adopted = tenant.ready("mine").await;
    assert_ne!(adopted.digest, victim.digest, "the tenant's key has the digest of another");
    assert_ne!(adopted.id, victim.id);
    assert_ne!(tenant.value("mine", "setup-key").await, value);
    let event = tenant.event("mine", "KeyRegenerated").await;
    let note = event.note.unwrap_or_default();
    assert!(note.contains("stands on record for another SetupKey"), "{note}");
    assert!(!note.contains(&owner.namespace), "the event names the other tenant: {note}");
    assert_eq!(record(&owner.ready("office").await), record(&victim));
    assert_eq!(owner.value("office", "setup-key").await, value);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_value_does_not_come_back_in_another_namespace() {
    let (owner, tenant) = (Cluster::for_test("revoker").await, Cluster::for_test("taker").await);
    let operator =
        owner.start_operator_with(Setup { neighbours: vec![tenant.namespace.clone()], ..Setup::default() }).await;
    owner.apply("office", "");
    owner.ready("office").await;
    let value = owner.value("office", "setup-key").await;
    owner.apply("office", "revoked: true");
    let victim = owner.status_when("office", "revoked", |status| says(status, "Valid") == "False Revoked").await;
    operator.stop().await;
    tenant.apply("mine", "");
    tenant.adopt("mine", &value, victim.id.as_deref().unwrap()).await;
    let operator =
        owner.start_operator_with(Setup { neighbours: vec![tenant.namespace.clone()], ..Setup::default() }).await;
    assert_ne!(tenant.ready("mine").await.digest, victim.digest);
    operator.stop().await;
}

/// Changes the status as another writer who may, and returns what the operator makes of it.
async fn restored_after(cluster: &Cluster, change: Value) -> SetupKeyStatus {
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let before = cluster.ready("office").await;
    let value = cluster.value("office", "setup-key").await;
    cluster.patch_status("office", change.clone()).await;
    cluster
        .status_when("office", &format!("restored after {change}"), |status| record(status) == record(&before))
        .await;
    cluster.event("office", "StatusRestored").await;
    let after = cluster.ready("office").await;
    assert_eq!(cluster.value("office", "setup-key").await, value, "a change of the status costs the key");
    // What is restored is settled.
    at_rest_for(&operator.requests, QUIET).await;
    operator.requests.clear();
    no_write_for(&operator.requests, QUIET).await;
    operator.stop().await;
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_another_writer_changes_is_restored_from_the_secret() {
    let cluster = Cluster::for_test("altered").await;
    for change in [
        json!({ "digest": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" }),
        json!({ "expires": "2099-01-01T00:00:00Z" }),
        json!({ "id": "00000000000000000000" }),
        json!({ "id": null, "digest": null, "expires": null }),
        json!({ "previous": [{
            "id": "00000000000000000000", "digest": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "key": "AAAAA****",
            "expires": "2099-01-01T00:00:00Z", "admitsUntil": "2099-01-01T00:00:00Z",
        }] }),
    ] {
        restored_after(&cluster, change).await;
        cluster.kubectl_ok(&["delete", "setupkey", "office"], "");
        let secrets = cluster.secrets();
        eventually("the Secret to be collected", || async {
            secrets.get_opt("office").await.unwrap().is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_survive_a_changed_record() {
    let cluster = Cluster::for_test("altered_uses").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "usageLimit: 5");
    let before = cluster.ready("office").await;
    cluster.patch_status("office", json!({ "usedTimes": 4, "id": "00000000000000000000" })).await;
    let after = cluster.status_when("office", "restored", |status| record(status) == record(&before)).await;
    assert_eq!(after.used_times, 4);
    operator.stop().await;
}

/// The digest of another key, copied while no operator was there to see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copied_digest_is_found_after_a_restart() {
    let (owner, tenant) = (Cluster::for_test("copied").await, Cluster::for_test("copier").await);
    let both = || Setup { neighbours: vec![tenant.namespace.clone()], ..Setup::default() };
    let operator = owner.start_operator_with(both()).await;
    // The tenant's key is the younger one.
    owner.apply("office", "");
    let victim = owner.ready("office").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    tenant.apply("mine", "");
    let own = tenant.ready("mine").await;
    operator.stop().await;
    tenant.patch_status("mine", json!({ "digest": victim.digest })).await;
    let operator = owner.start_operator_with(both()).await;
    let restored = tenant.status_when("mine", "no digest of another", |status| status.digest != victim.digest).await;
    assert_eq!(restored.id, own.id);
    assert_eq!(record(&owner.ready("office").await), record(&victim));
    operator.stop().await;
}
