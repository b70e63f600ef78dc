//! What people do at NetBird, or to the Secret, without the operator.

use control_plane::netbird::Outcome;
use serde_json::json;
use setupkey_operator::api::State;

use super::world::{SOON, World, ids};
use crate::harness::{condition, eventually, says};

#[tokio::test(flavor = "multi_thread")]
async fn netbird_behind_our_back() {
    let world = World::new("netbird_behind_our_back").await;
    let group = world.netbird.group("laptops").await;
    let operator = world.cluster.start_operator().await;
    let spec = json!({ "autoGroups": [group.name], "usageLimit": 5 });
    for name in ["deleted", "revoked", "regrouped"] {
        world.issue(name, spec.clone()).await;
    }
    let secrets = ["deleted", "revoked"].map(|name| (name, world.cluster.secret_version(name)));
    let there = world.only("deleted").await;
    world.netbird.api.delete_key(&there.id).await;
    world.netbird.api.revoke_key(&world.only("revoked").await.id).await;
    world.netbird.api.set_groups(&world.only("regrouped").await.id, &[]).await;

    for (name, expected) in [("deleted", "False DeletedAtAuthority"), ("revoked", "False RevokedAtAuthority")] {
        let message = world.key_says(name, "Valid", expected).await;
        assert!(message.contains("set revoked to true and then to false"), "{message}");
        let status = world.cluster.keys().get(name).await.unwrap().status.unwrap();
        assert_eq!((status.state, says(&status, "Ready").as_str()), (Some(State::Revoked), "True Reconciled"));
        world.cluster.event(name, expected.split_once(' ').unwrap().1).await;
    }
    eventually("the groups to be put back", || async {
        (world.only("regrouped").await.auto_groups == [group.id.clone()]).then_some(())
    })
    .await;

    // Nothing is undone by surprise, not even after a restart or without the Secret.
    operator.stop().await;
    world.cluster.delete_secret("revoked").await;
    let operator = world.cluster.start_operator().await;
    tokio::time::sleep(SOON).await;
    assert!(world.there("deleted").await.is_empty(), "a key that was deleted at NetBird is back");
    assert!(world.only("revoked").await.revoked);
    let message = world.key_says("revoked", "Ready", "True Reconciled").await;
    assert!(message.contains("nothing is issued instead: the key was revoked at its authority"), "{message}");
    for (name, version) in secrets {
        if name == "deleted" {
            assert_eq!(world.cluster.secret_version(name).await, version.await, "the Secret of {name} was written");
        }
    }

    // Asked for, there is a new key.
    for name in ["deleted", "revoked"] {
        world.cluster.patch_spec(name, json!({ "revoked": true })).await;
        world.key_says(name, "Valid", "False Revoked").await;
        world.cluster.patch_spec(name, json!({ "revoked": false })).await;
        world.key_says(name, "Valid", "True Valid").await;
        let there = world.settled_there(name).await;
        assert_eq!((there.usage_limit, &there.auto_groups), (5, &vec![group.id.clone()]));
        let agent = world.netbird.join(&format!("{}-{name}", world.netbird.prefix), &world.value(name).await).await;
        assert_eq!(agent.outcome(), Outcome::Joined);
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_value_is_compared_and_what_is_no_key_is_replaced() {
    let world = World::new("netbird_altered").await;
    let operator = world.cluster.start_operator().await;
    let mut last = world.issue("office", json!({})).await;
    let value = world.cluster.value("office", "setup-key").await;
    let altered = |changed: String| json!({ "stringData": { "setup-key": changed } });
    for patch in [
        altered(format!("{}ABCDEF", &value[..30])),
        altered("abc".to_owned()),
        altered(String::new()),
        json!({ "data": { "setup-key": null } }),
    ] {
        world.cluster.patch_secret("office", patch).await;
        let now = world
            .cluster
            .status_when("office", "reissued", |now| now.id != last.id && says(now, "Valid") == "True Valid")
            .await;
        let there = world.settled_there("office").await;
        assert_eq!(Some(&there.id), now.id.as_ref());
        let value = world.cluster.value("office", "setup-key").await;
        assert_eq!(now.digest, Some(crate::harness::digest(&value)));
        last = now;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_uses_is_not_reissued() {
    let world = World::new("netbird_used_up").await;
    let operator = world.cluster.start_operator().await;
    world.issue("once", json!({ "type": "one-off" })).await;
    let value = world.value("once").await;
    assert_eq!(world.netbird.join(&world.netbird.prefix, &value).await.outcome(), Outcome::Joined);
    world.key_says("once", "Valid", "False Overused").await;
    world.cluster.delete_secret("once").await;
    eventually("the condition to say that the Secret stays absent", || async {
        let status = world.cluster.keys().get("once").await.ok()?.status?;
        let ready = condition(&status, "Ready")?;
        let said = "nothing is issued instead: the key is used up; create another SetupKey for a new one";
        (ready.status == "True" && ready.message.contains(said)).then_some(())
    })
    .await;
    tokio::time::sleep(SOON).await;
    assert!(world.cluster.secrets().get_opt("once").await.unwrap().is_none());
    let there = world.there("once").await;
    assert_eq!((there.len(), there[0].used_times), (1, 1), "{:?}", ids(&there));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn netbird_two_clusters_one_account() {
    let world = World::new("netbird_two_clusters").await;
    let other =
        World::with("netbird_two_clusters", crate::harness::netbird::NetBird::for_test("two").await, json!({})).await;
    let (operator, second) = (world.cluster.start_operator().await, other.cluster.start_operator().await);
    world.issue("office", json!({})).await;
    let theirs = other.issue("office", json!({})).await;
    // Of a cluster that is not here: the same namespace and name, and another UID. And names that only look like ours.
    let uid = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
    let namespace = &world.cluster.namespace;
    let names = [
        format!("office [{namespace}/office {uid}]"),
        format!("office [{namespace}/office]"),
        format!(
            "office [{namespace}/office {}] ",
            world.cluster.keys().get("office").await.unwrap().metadata.uid.unwrap()
        ),
    ];
    let mut foreign = Vec::new();
    for name in &names {
        foreign.push(world.netbird.api.create_key(name, json!({})).await.id);
    }
    tokio::time::sleep(SOON).await;
    operator.stop().await;
    let operator = world.cluster.start_operator().await;
    world.delete("office").await;
    world.gone("office").await;
    tokio::time::sleep(SOON).await;
    for id in &foreign {
        let key = world.netbird.api.key(id).await.expect("a foreign key is deleted");
        assert!(key.valid && key.auto_groups.is_empty(), "a foreign key is changed");
        world.netbird.api.delete_key(id).await;
    }
    assert_eq!(Some(&other.only("office").await.id), theirs.id.as_ref());
    operator.stop().await;
    second.stop().await;
}
