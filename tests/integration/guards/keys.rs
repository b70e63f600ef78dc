//! What the controller may write of a SetupKey itself.

use serde_json::{Value, json};

use super::{Account::*, Release, Request::*};

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_changes_nothing_of_a_key_but_its_own_finalizer() {
    const OWN: &str = "may change nothing of a SetupKey but its own finalizer setupkey.dev/authority; install";
    const OURS: &str = "setupkey.dev/authority";
    let release = Release::install("keys", false).await;
    let key = |finalizers: Value| {
        let metadata = json!({
            "labels": { "team": "a" }, "annotations": { "note": "b" }, "finalizers": finalizers,
        });
        let spec = json!({ "usageLimit": 9, "autoGroups": ["office"], "revoked": true });
        Create(json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": metadata, "spec": spec }))
    };
    release.does(Administrator, "SetupKey", "bare", key(Value::Null)).await;
    release.does(Administrator, "SetupKey", "held", key(json!([OURS, "example.com/theirs"]))).await;
    let owner = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u" }]);
    let mut attacks = Vec::new();
    for change in [
        json!({ "spec": { "revoked": false } }),
        json!({ "spec": { "autoGroups": ["admins"] } }),
        json!({ "spec": { "autoGroups": null } }),
        json!({ "metadata": { "labels": { "team": "b" } } }),
        json!({ "metadata": { "labels": null } }),
        json!({ "metadata": { "annotations": { "more": "c" } } }),
        json!({ "metadata": { "ownerReferences": owner } }),
        json!({ "metadata": { "finalizers": [OURS] } }),
        json!({ "metadata": { "finalizers": [] } }),
        json!({ "metadata": { "finalizers": ["example.com/mine", OURS, "example.com/theirs"] } }),
        json!({ "metadata": { "finalizers": ["example.com/theirs"] }, "spec": { "revoked": false } }),
    ] {
        attacks.push((Controller, "SetupKey", "held", Change(change), OWN));
    }
    let hold = json!({ "metadata": { "finalizers": ["example.com/mine"] } });
    attacks.push((Controller, "SetupKey", "bare", Change(hold), OWN));
    release.repels(&attacks, &[&release.scope()]).await;

    // What the controller does, and what others do.
    let finalizers = |finalizers: Value| Change(json!({ "metadata": { "finalizers": finalizers } }));
    release.does(Controller, "SetupKey", "bare", finalizers(json!([OURS]))).await;
    release.does(Controller, "SetupKey", "bare", finalizers(json!([]))).await;
    release.does(Controller, "SetupKey", "held", finalizers(json!(["example.com/theirs"]))).await;
    release.does(Controller, "SetupKey", "held", finalizers(json!(["example.com/theirs", OURS]))).await;
    release.does(Controller, "SetupKey", "held", PatchStatus(json!({ "observedGeneration": 1 }))).await;
    release.does(Administrator, "SetupKey", "held", Change(json!({ "spec": { "revoked": false } }))).await;

    // A key that is being deleted is let go.
    release.does(Administrator, "SetupKey", "bare", finalizers(json!([OURS]))).await;
    let keys = release.api(Administrator, "SetupKey").await;
    keys.delete("bare", &Default::default()).await.unwrap();
    release.does(Controller, "SetupKey", "bare", finalizers(Value::Null)).await;
    assert!(keys.get_opt("bare").await.unwrap().is_none());
}
