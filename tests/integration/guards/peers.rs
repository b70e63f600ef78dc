//! Who may write what of a Peer.

use serde_json::{Value, json};

use super::{Account::*, Release, Request::*};
use crate::harness::any_peer;

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_written_by_the_operator_alone_each_account_its_own_part() {
    const CREATED: &str = "when a machine joins with a setup key; let the machine enroll";
    const HEARD_FROM: &str = "from the heartbeats of its machine";
    const RELEASED: &str = "may change nothing of an existing Peer but remove the finalizer setupkey.dev/pending";
    const QUIET: &str = "may only report in the status of a Peer that it is not connected";
    let release = Release::install("peers", false).await;
    let peer = || serde_json::to_value(any_peer()).unwrap();
    let mut held = peer();
    held["metadata"]["finalizers"] = json!(["setupkey.dev/pending", "example.com/theirs"]);
    release.does(Enrollment, "Peer", "held", Create(held)).await;
    let seen = |connected: bool, time: &str| PatchStatus(json!({ "connected": connected, "lastSeen": time }));
    release.does(Enrollment, "Peer", "held", seen(true, "2026-11-24T06:00:00Z")).await;
    let metadata = |change: Value| Change(json!({ "metadata": change }));
    let mut attacks = vec![
        (Administrator, "Peer", "forged", Create(peer()), CREATED),
        (Administrator, "Peer", "held", seen(true, "2036-11-24T06:00:00Z"), HEARD_FROM),
        (Controller, "Peer", "held", seen(true, "2036-11-24T06:00:00Z"), QUIET),
        (Controller, "Peer", "held", seen(false, "2036-11-24T06:00:00Z"), QUIET),
        (Controller, "Peer", "held", PatchStatus(Value::Null), QUIET),
    ];
    for account in [Controller, Enrollment] {
        for change in [
            json!({ "labels": { "group.setupkey.dev/admins": "" } }),
            json!({ "annotations": { "a": "b" } }),
            json!({ "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" }] }),
            json!({ "finalizers": ["setupkey.dev/pending"] }),
            json!({ "finalizers": ["setupkey.dev/pending", "example.com/theirs", "example.com/mine"] }),
        ] {
            attacks.push((account, "Peer", "held", metadata(change), RELEASED));
        }
    }
    release.repels(&attacks, &[&release.scope()]).await;

    release.does(Enrollment, "Peer", "joined", Create(peer())).await;
    release.does(Enrollment, "Peer", "joined", seen(true, "2026-11-24T06:00:00Z")).await;
    release.does(Controller, "Peer", "joined", PatchStatus(json!({ "connected": false }))).await;
    release.does(Controller, "Peer", "held", metadata(json!({ "finalizers": ["example.com/theirs"] }))).await;
    release.does(Enrollment, "Peer", "joined", metadata(json!({ "finalizers": null }))).await;
    release.does(Controller, "Peer", "completed", Create(peer())).await;
    // A Peer that was never seen has no time.
    release.does(Controller, "Peer", "completed", PatchStatus(json!({ "connected": false }))).await;
    release.does(Administrator, "Peer", "joined", metadata(json!({ "labels": { "team": "a" } }))).await;
}
