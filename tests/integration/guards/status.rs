//! Who may write what in the status of a SetupKey.

use serde_json::{Value, json};

use super::{Account::*, Release, Request::*, condition};
use crate::harness::{digest, entry};

/// A key that was replaced and has five uses, changed by a JSON merge patch.
fn replaced(change: Value) -> Value {
    let mut replaced = json!({
        "id": "c".repeat(20), "digest": digest("a replaced value"), "key": "CCCCC****", "usedTimes": 5, "usageLimit": 9,
        "expires": "2027-01-01T00:00:00Z", "admitsUntil": "2026-11-25T00:00:00Z",
    });
    json_patch::merge(&mut replaced, &change);
    replaced
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_setup_key_is_written_by_the_operator_alone() {
    const REFUSAL: &str = "; change the spec instead. Other controllers may only set conditions of types other than";
    let release = Release::install("status", false).await;
    release.issued("office").await;
    let attack = |status: Value| (Administrator, "SetupKey", "office", PatchStatus(status), REFUSAL);
    let (ready, theirs) = (condition("Ready", "True"), condition("example.com/Audited", "False"));
    release
        .repels(
            &[
                attack(json!({ "digest": digest("a value that I know") })),
                attack(json!({ "usedTimes": 4 })),
                attack(json!({ "pending": [] , "lastUsed": "2026-11-24T06:00:00Z" })),
                attack(json!({ "expires": "2036-01-01T00:00:00Z" })),
                attack(json!({ "id": null })),
                attack(json!({ "previous": [replaced(json!({}))] })),
                attack(json!({ "revision": 2 })),
                attack(json!({ "issuedAt": "2026-11-24T06:00:00Z" })),
                attack(json!({ "unusedSince": "2036-11-24T06:00:00Z" })),
                attack(json!({ "conditions": [condition("Ready", "False"), theirs] })),
                attack(json!({ "conditions": [theirs] })),
                attack(json!({ "conditions": [ready, condition("Valid", "True"), theirs] })),
                attack(Value::Null),
            ],
            &[&release.scope()],
        )
        .await;
    // Another controller may set, change and remove conditions of its own, in any order.
    for conditions in [json!([theirs, ready]), json!([ready, condition("example.com/Counted", "True")]), json!([ready])]
    {
        release.does(Administrator, "SetupKey", "office", PatchStatus(json!({ "conditions": conditions }))).await;
    }
    // The first condition of all comes before the controller's.
    let fresh = json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "spec": {} });
    release.does(Administrator, "SetupKey", "fresh", Create(fresh)).await;
    for conditions in [json!([theirs]), json!([]), Value::Null] {
        release.does(Administrator, "SetupKey", "fresh", PatchStatus(json!({ "conditions": conditions }))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_enrollment_service_writes_only_the_ledger_and_takes_no_use_back() {
    const LEDGER: &str =
        "may change only lastUsed, pending and the usedTimes of each key in the status of a SetupKey; install";
    let release = Release::install("ledger", false).await;
    release.issued("office").await;
    release.does(Controller, "SetupKey", "office", PatchStatus(json!({ "previous": [replaced(json!({}))] }))).await;
    let attack = |status: Value| (Enrollment, "SetupKey", "office", ReplaceStatus(status), LEDGER);
    let lowered =
        (Enrollment, "SetupKey", "office", ReplaceStatus(json!({ "usedTimes": 2 })), "usedTimes may go down only");
    let (ready, theirs) = (condition("Ready", "True"), condition("example.com/Audited", "True"));
    let mut attacks = vec![lowered];
    attacks.extend([
        attack(json!({ "digest": digest("a value that I know") })),
        attack(json!({ "digest": null })),
        attack(json!({ "id": "b".repeat(20), "usedTimes": 0 })),
        attack(json!({ "expires": "2036-01-01T00:00:00Z" })),
        attack(json!({ "state": "revoked", "valid": false })),
        attack(json!({ "secret": { "resourceVersion": "2" } })),
        attack(json!({ "usageLimit": null })),
        attack(json!({ "updatedAt": "2026-11-24T06:00:00Z" })),
        attack(json!({ "observedGeneration": 2 })),
        attack(json!({ "conditions": [condition("Ready", "False"), theirs] })),
        attack(json!({ "conditions": [ready, condition("example.com/Audited", "False")] })),
        attack(json!({ "conditions": [ready] })),
        attack(json!({ "conditions": null })),
        attack(json!({ "revision": 2 })),
        attack(json!({ "issuedAt": "2026-11-24T06:00:00Z" })),
        attack(json!({ "unusedSince": "2026-11-24T06:00:00Z" })),
        attack(json!({ "previous": null })),
        attack(json!({ "previous": [replaced(json!({})), replaced(json!({ "id": "d".repeat(20) }))] })),
    ]);
    for change in [
        json!({ "id": "d".repeat(20) }),
        json!({ "digest": digest("a value that I know") }),
        json!({ "key": "BBBBB****" }),
        json!({ "expires": "2036-01-01T00:00:00Z" }),
        json!({ "admitsUntil": "2026-12-31T00:00:00Z" }),
        json!({ "usageLimit": 10 }),
        json!({ "usageLimit": null }),
    ] {
        attacks.push(attack(json!({ "previous": [replaced(change)] })));
    }
    let uncounted = ReplaceStatus(json!({ "previous": [replaced(json!({ "usedTimes": 4 }))] }));
    attacks.push((Enrollment, "SetupKey", "office", uncounted, "of a key in previous may not go down"));
    release.repels(&attacks, &[&release.scope()]).await;

    // An empty list of conditions counts as none.
    release.does(Administrator, "SetupKey", "office", PatchStatus(json!({ "conditions": [ready] }))).await;
    let key = json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "spec": {} });
    release.does(Administrator, "SetupKey", "bare", Create(key)).await;
    release.does(Administrator, "SetupKey", "bare", PatchStatus(json!({ "conditions": [] }))).await;
    let used = json!({ "usedTimes": 1, "conditions": null });
    release.does(Enrollment, "SetupKey", "bare", ReplaceStatus(used)).await;
    // The service writes the time of another controller's condition in its own format.
    release.does(Administrator, "SetupKey", "office", PatchStatus(json!({ "conditions": [ready, theirs] }))).await;
    let mut respelled = theirs;
    respelled["lastTransitionTime"] = "2026-11-24T05:00:00Z".into();
    let entry = serde_json::to_value(entry(4)).unwrap();
    let admitted = json!({
        "usedTimes": 4, "lastUsed": "2026-11-24T06:00:00Z", "pending": [entry], "conditions": [ready, respelled],
        "previous": [replaced(json!({ "usedTimes": 6 }))],
    });
    release.does(Enrollment, "SetupKey", "office", ReplaceStatus(admitted)).await;
    release.does(Enrollment, "SetupKey", "office", ReplaceStatus(json!({ "pending": null }))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_counts_from_zero_only_under_another_id() {
    let release = Release::install("count", false).await;
    release.issued("office").await;
    let attack = |status: Value| {
        (
            Controller,
            "SetupKey",
            "office",
            PatchStatus(status),
            "usedTimes may go down only when the key gets another id",
        )
    };
    let attacks = [attack(json!({ "usedTimes": 2 })), attack(json!({ "usedTimes": 0, "id": null }))];
    release.repels(&attacks, &[&release.scope()]).await;
    let again = json!({ "usedTimes": 0, "id": "b".repeat(20) });
    release.does(Controller, "SetupKey", "office", PatchStatus(again)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_gives_no_use_of_a_replaced_key_back() {
    let release = Release::install("replaced", false).await;
    release.issued("office").await;
    release.does(Controller, "SetupKey", "office", PatchStatus(json!({ "previous": [replaced(json!({}))] }))).await;
    // The current key has three uses.
    let current = |used: i64| replaced(json!({ "id": "a".repeat(20), "digest": digest("a value"), "usedTimes": used }));
    let rotated = |used: i64| json!({ "revision": 2, "id": "b".repeat(20), "usedTimes": 0, "previous": [replaced(json!({})), current(used)] });
    let attack =
        |status: Value| (Controller, "SetupKey", "office", PatchStatus(status), "of a key in previous may not go down");
    let back = json!({ "id": "c".repeat(20), "usedTimes": 4, "previous": null });
    let lowered = json!({ "previous": [replaced(json!({ "usedTimes": 4 }))] });
    release.repels(&[attack(lowered), attack(rotated(2)), attack(back)], &[&release.scope()]).await;
    release.does(Controller, "SetupKey", "office", PatchStatus(rotated(3))).await;
    release.does(Controller, "SetupKey", "office", PatchStatus(json!({ "previous": [current(3)] }))).await;
}
