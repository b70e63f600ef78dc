//! The way out of docs/rotation.md for a key that leaked, as a person types it, at a real NetBird.

use control_plane::netbird::Outcome;
use serde_json::json;
use setupkey_operator::api::SetupKeyStatus;

use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_key_never_admits_again_at_netbird_once_the_documented_commands_are_run() {
    let world = World::new("nb-leaked").await;
    let prefix = &world.netbird.prefix;
    let operator = world.cluster.start_operator().await;
    let first = world.issue("office", json!({ "usageLimit": 3, "rotation": { "overlap": "2h" } })).await;
    let mut leaked = vec![world.value("office").await];
    world.cluster.rotate("office", &first).await;
    leaked.push(world.value("office").await);
    assert_eq!(world.there("office").await.iter().filter(|there| there.valid).count(), 2, "both admit before");

    world.cluster.follow_the_documentation("rotation.md", "## A key leaked");
    let fresh = |status: &SetupKeyStatus| status.revision == Some(3) && status.valid == Some(true);
    let status = world.cluster.status_when("office", "valid, with the next key", fresh).await;
    assert_eq!((status.previous.len(), status.used_times), (0, 0), "a leaked key is still on record");
    let only = world.settled_there("office").await;
    assert_eq!(Some(&only.id), status.id.as_ref());
    for (number, key) in leaked.iter().enumerate() {
        let agent = world.netbird.join(&format!("{prefix}-leaked-{number}"), key).await;
        assert_eq!(agent.outcome(), Outcome::Refused, "a leaked key admits an agent: {}", agent.log());
    }
    let agent = world.netbird.join(&format!("{prefix}-fresh"), &world.value("office").await).await;
    assert_eq!(agent.outcome(), Outcome::Joined, "{}", agent.log());
    operator.stop().await;
}
