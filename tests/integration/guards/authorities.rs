//! Who may write what in the status of an authority.

use serde_json::{Value, json};

use super::{Account::*, Release, Request::*, condition};

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_an_authority_is_written_by_the_controller_alone() {
    const REFUSAL: &str = "from what NetBird answers. Other controllers may only set conditions of types other than";
    // A ClusterAuthority is used only by a release for the whole cluster.
    let release = Release::install("authorities", true).await;
    let authority = |kind: &str| {
        let netbird = json!({ "url": "https://api.netbird.io", "tokenSecretRef": { "name": "netbird" } });
        let mut spec = json!({ "netbird": netbird });
        if kind == "ClusterAuthority" {
            spec["namespaceSelector"] = json!({});
        }
        Create(json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": kind, "spec": spec }))
    };
    let (ready, theirs) = (condition("Ready", "False"), condition("example.com/Audited", "True"));
    let of_controller = json!({ "observedGeneration": 1, "type": "NetBird", "keys": 3, "conditions": [ready, theirs] });
    let mut attacks = Vec::new();
    for (kind, name) in [("Authority", "office"), ("ClusterAuthority", "office")] {
        release.does(Administrator, kind, name, authority(kind)).await;
        release.does(Administrator, kind, name, PatchStatus(of_controller.clone())).await;
        for status in [
            json!({ "keys": 4 }),
            json!({ "keys": null }),
            json!({ "tokenExpires": "2036-01-01T00:00:00Z" }),
            json!({ "observedGeneration": 2 }),
            json!({ "conditions": [condition("Ready", "True"), theirs] }),
            json!({ "conditions": [theirs] }),
            json!({ "conditions": [ready, condition("Stalled", "True"), theirs] }),
            Value::Null,
        ] {
            attacks.push((Administrator, kind, name, PatchStatus(status), REFUSAL));
        }
    }
    // The other guards would bind the accounts of the other tests.
    let others = ["setupKeyStatus", "peers"].map(|guard| format!("policies.guards.{guard}=false"));
    release.repels(&attacks, &others.each_ref().map(String::as_str)).await;

    for (kind, name) in [("Authority", "office"), ("ClusterAuthority", "office")] {
        // Another controller may set, change and remove conditions of its own.
        for conditions in
            [json!([condition("example.com/Audited", "False"), ready]), json!([ready]), json!([ready, theirs])]
        {
            release.does(Administrator, kind, name, PatchStatus(json!({ "conditions": conditions }))).await;
        }
        let up = json!({ "keys": 4, "conditions": [condition("Ready", "True"), theirs] });
        release.does(Controller, kind, name, PatchStatus(up)).await;
        let spec = json!({ "spec": { "netbird": { "interval": "5m" } } });
        release.does(Administrator, kind, name, Change(spec)).await;
    }
}
