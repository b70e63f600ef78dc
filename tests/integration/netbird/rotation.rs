//! Rotations of keys at NetBird, and keys that no machine uses.

use chrono::Duration;
use control_plane::netbird::Outcome;
use serde_json::json;
use setupkey_operator::api::{SetupKeyStatus, State};

use super::world::{AUTHORITY, World};
use crate::harness::{Operator, QUIET, TestClock, digest, eventually, exactly, says};

/// A controller whose clock is so far ahead.
async fn operator_ahead(world: &World, by: Duration) -> Operator {
    let clock = TestClock::default();
    clock.step(by);
    world.cluster.start_operator_at(clock).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_join_with_both_keys_until_the_overlap_is_over() {
    let world = World::new("nb-overlap").await;
    let prefix = &world.netbird.prefix;
    let operator = world.cluster.start_operator().await;
    let before = world.issue("office", json!({ "usageLimit": 3, "rotation": { "overlap": "2h" } })).await;
    let (old, old_id) = (world.value("office").await, before.id.clone().unwrap());
    operator.stop().await;

    let operator = operator_ahead(&world, Duration::seconds(5)).await;
    world.netbird.proxy.forget();
    operator.requests.clear();
    world.cluster.request_rotation("office", before.issued_at.unwrap().plus_seconds(1)).await;
    let after = world.cluster.status_when("office", "rotated", |status| status.revision == Some(2)).await;
    let new = world.value("office").await;
    assert_eq!(after.digest, Some(digest(secrecy::ExposeSecret::expose_secret(&new))));
    assert_eq!(world.netbird.proxy.count("POST /api/setup-keys"), 1);
    let writes: Vec<_> = operator.requests.writes().into_iter().filter(|write| write.contains("/office")).collect();
    assert_eq!(writes.len(), 2, "{writes:#?}");
    let names: Vec<_> = world.there("office").await.into_iter().map(|there| (there.name, there.valid)).collect();
    let uid = world.cluster.keys().get("office").await.unwrap().metadata.uid.unwrap();
    let name = |suffix: &str| format!("office [{}/office {uid}{suffix}]", world.cluster.namespace);
    assert_eq!(names, [(name(""), true), (name(" r2"), true)]);

    // Machines that still have the old file join, and so do those that have the new one. Each key counts its own.
    for (host, key) in [("with-old", &old), ("with-new", &new)] {
        let agent = world.netbird.join(&format!("{prefix}-{host}"), key).await;
        assert_eq!(agent.outcome(), Outcome::Joined, "{host}: {}", agent.log());
    }
    let counted = |status: &SetupKeyStatus| (status.used_times, status.previous.first().map(|key| key.used_times));
    world.cluster.status_when("office", "counted", |status| counted(status) == (1, Some(1))).await;
    let event = world.cluster.event("office", "Rotated").await;
    let expected = format!(
        "Secret \"office\" holds the key of revision 2, issued on request; the replaced key admits peers until {}",
        after.previous[0].admits_until
    );
    assert_eq!(event.note, Some(expected));
    operator.stop().await;

    world.netbird.proxy.forget();
    let operator = operator_ahead(&world, Duration::hours(3)).await;
    let ended = world.cluster.status_when("office", "alone", |status| status.previous.is_empty()).await;
    assert_eq!((ended.id, ended.used_times), (after.id, 1));
    assert_eq!(world.netbird.proxy.count("DELETE /api/setup-keys/{id}"), 1);
    assert!(world.netbird.api.key(&old_id).await.is_none(), "the replaced key is still there");
    world.cluster.event("office", "PreviousKeyEnded").await;
    assert_eq!(world.netbird.join(&format!("{prefix}-too-late"), &old).await.outcome(), Outcome::Refused);
    assert_eq!(world.netbird.join(&format!("{prefix}-in-time"), &new).await.outcome(), Outcome::Joined);
    let peers = world.netbird.api.peers().await;
    for host in ["with-old", "with-new", "in-time"] {
        assert!(peers.iter().any(|peer| peer.hostname == format!("{prefix}-{host}")), "{host} was removed");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_rotation_waits_for_netbird_and_says_so() {
    let world = World::new("nb-renewal").await;
    let operator = world.cluster.start_operator().await;
    let before = world.issue("office", json!({ "expiresIn": "48h", "rotation": { "renewBefore": "12h" } })).await;
    assert_eq!(before.rotate_at.unwrap().plus_seconds(12 * 3600), before.expires.unwrap());
    operator.stop().await;

    world.netbird.proxy.down();
    let operator = operator_ahead(&world, Duration::hours(37)).await;
    world.authority_says(AUTHORITY, "False Unreachable").await;
    let message = world.key_says("office", "Ready", "False AuthorityNotReady").await;
    assert!(message.contains("did not answer as a NetBird server"), "{message}");
    let event = world.cluster.event("office", "RotationFailed").await;
    let due = before.rotate_at.unwrap();
    let note = event.note.unwrap_or_default();
    assert!(note.starts_with(&format!("The key was to be replaced at {due}, and is not yet: ")), "{note}");
    let waiting = world.cluster.keys().get("office").await.unwrap().status.unwrap();
    assert_eq!((&waiting.digest, waiting.state), (&before.digest, Some(State::Valid)));

    world.netbird.proxy.up().await;
    let after = world.cluster.status_when("office", "rotated", |status| status.revision == Some(2)).await;
    assert_eq!((says(&after, "Ready").as_str(), after.previous.len()), ("True Reconciled", 1));
    assert!(after.rotate_at > before.rotate_at);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_keys_are_revoked_at_netbird() {
    let world = World::new("nb-unused").await;
    let operator = world.cluster.start_operator().await;
    let before = world.issue("office", json!({ "usageLimit": 3, "revokeUnusedAfter": "48h" })).await;
    world.issue("once", json!({ "type": "one-off", "revokeUnusedAfter": "48h" })).await;
    let once = world.netbird.join(&format!("{}-once", world.netbird.prefix), &world.value("once").await).await;
    assert_eq!(once.outcome(), Outcome::Joined);
    world.cluster.status_when("once", "used", |status| status.state == Some(State::Overused)).await;
    operator.stop().await;

    let operator = operator_ahead(&world, Duration::hours(49)).await;
    let unused = |status: &SetupKeyStatus| says(status, "Valid") == "False Unused";
    let status = world.cluster.status_when("office", "unused", unused).await;
    assert_eq!((status.state, says(&status, "Ready").as_str()), (Some(State::Revoked), "True Reconciled"));
    assert!(world.only("office").await.revoked, "it is reported before NetBird has taken it");
    let event = world.cluster.event("office", "Unused").await;
    assert_eq!(
        event.note.as_deref(),
        Some("No peer has used the key for as long as revokeUnusedAfter allows; it admits no more peers")
    );
    let once = world.cluster.keys().get("once").await.unwrap().status.unwrap();
    assert_eq!(once.state, Some(State::Overused), "a used one-off key is not unused");

    world.cluster.patch_spec("office", json!({ "revokeUnusedAfter": "96h" })).await;
    let again =
        world.cluster.status_when("office", "issued again", |status| says(status, "Valid") == "True Valid").await;
    assert!(again.id != before.id && again.digest != before.digest && again.revision == Some(1));
    eventually("one key at NetBird", || async { (world.there("office").await.len() == 1).then_some(()) }).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_first_release_is_taken_up_by_one_write() {
    let world = World::new("nb-first-release").await;
    let operator = world.cluster.start_operator().await;
    let before = world.issue("office", json!({})).await;
    operator.stop().await;
    world.cluster.patch_status("office", json!({ "revision": null, "issuedAt": null })).await;

    world.netbird.proxy.forget();
    let operator = world.cluster.start_operator().await;
    let after = world.cluster.status_when("office", "taken up", |status| status.revision == Some(1)).await;
    assert_eq!((&after.id, &after.digest), (&before.id, &before.digest));
    assert!(after.issued_at.is_some());
    let writes = || operator.requests.writes().into_iter().filter(|write| write.contains("/office")).collect();
    exactly(1, QUIET, writes).await;
    let calls = world.netbird.proxy.calls();
    assert!(calls.iter().all(|call| !call.is_write()), "NetBird is written to");
    operator.stop().await;
}
