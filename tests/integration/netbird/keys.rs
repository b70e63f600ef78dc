//! The life of a key at NetBird.

use control_plane::netbird::Outcome;
use serde_json::json;

use super::world::World;
use crate::harness::{condition, eventually, says};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_with_the_key_in_the_secret() {
    let world = World::new("netbird_life").await;
    let group = world.netbird.group("laptops").await;
    let operator = world.cluster.start_operator().await;
    let status = world
        .issue(
            "office",
            json!({ "name": "The Office", "autoGroups": [group.name], "usageLimit": 2, "expiresIn": "48h" }),
        )
        .await;
    assert_eq!(says(&status, "Valid"), "True Valid");
    let there = world.only("office").await;
    assert_eq!(Some(&there.id), status.id.as_ref());
    assert!(there.name.starts_with("The Office ["), "{}", there.name);
    assert_eq!((there.usage_limit, there.kind.as_str(), &there.auto_groups), (2, "reusable", &vec![group.id]));
    let expires = status.expires.expect("an expiry").moment();
    assert_eq!(expires.timestamp(), there.expires.timestamp());

    let value = world.value("office").await;
    let agent = world.netbird.join(&world.netbird.prefix, &value).await;
    assert_eq!(agent.outcome(), Outcome::Joined, "{}", agent.log());
    let used = world.cluster.status_when("office", "used once", |status| status.used_times == 1).await;
    assert!(used.last_used.is_some());

    world.cluster.patch_spec("office", json!({ "revoked": true })).await;
    let revoked =
        world.cluster.status_when("office", "revoked", |status| says(status, "Valid") == "False Revoked").await;
    assert_eq!(says(&revoked, "Ready"), "True Reconciled");
    assert!(world.only("office").await.revoked);
    assert_eq!(world.netbird.join("late", &value).await.outcome(), Outcome::Refused);

    world.delete("office").await;
    world.gone("office").await;
    assert!(world.there("office").await.is_empty(), "the key is still at NetBird");
    let peers = world.netbird.api.peers().await;
    assert!(peers.iter().any(|peer| peer.hostname == world.netbird.prefix), "the peer went with the key");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_admit_any_more_is_reissued_with_what_is_left() {
    let world = World::new("netbird_reissue").await;
    let operator = world.cluster.start_operator().await;
    let first = world.issue("office", json!({ "usageLimit": 3 })).await;
    let value = world.value("office").await;
    assert_eq!(world.netbird.join(&world.netbird.prefix, &value).await.outcome(), Outcome::Joined);

    world.cluster.delete_secret("office").await;
    let second = world
        .cluster
        .status_when("office", "reissued", |status| status.id != first.id && says(status, "Ready") == "True Reconciled")
        .await;
    let there = world.settled_there("office").await;
    assert_eq!(Some(&there.id), second.id.as_ref());
    assert_eq!((there.usage_limit, second.used_times), (2, 1));
    // NetBird takes whole seconds, so a new key expires up to two of them earlier than the last one, and never later.
    let earlier = first.expires.unwrap().moment() - second.expires.unwrap().moment();
    assert!((0..=2).contains(&earlier.num_seconds()), "{earlier}");
    assert_eq!(world.netbird.join("old", &value).await.outcome(), Outcome::Refused);

    world.cluster.patch_spec("office", json!({ "revoked": true })).await;
    world.cluster.status_when("office", "revoked", |status| says(status, "Valid") == "False Revoked").await;
    world.cluster.patch_spec("office", json!({ "revoked": false })).await;
    let third = world
        .cluster
        .status_when("office", "valid again", |status| status.id != second.id && says(status, "Valid") == "True Valid")
        .await;
    let there = world.settled_there("office").await;
    assert_eq!(Some(&there.id), third.id.as_ref());
    assert_eq!((there.usage_limit, third.used_times), (2, 1));
    let ready = condition(&third, "Ready").unwrap();
    assert_eq!(ready.status, "True", "{}", ready.message);
    world.cluster.event("office", "Reissued").await;
    let agent = world.netbird.join("again", &world.value("office").await).await;
    assert_eq!(agent.outcome(), Outcome::Joined);
    eventually("the use to be counted on top", || async {
        let status = world.cluster.keys().get("office").await.ok()?.status?;
        (status.used_times == 2).then_some(())
    })
    .await;
    operator.stop().await;
}
