//! The Secret of a key at NetBird, where it cannot be written, and the groups that it cannot have.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ResourceQuota, Secret};
use kube::api::{Api, PostParams};
use serde_json::json;

use super::world::{SOON, World, ids};
use crate::harness::{condition, eventually, says};

const CREATE: &str = "POST /api/setup-keys";

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_else_is_left_alone_and_costs_no_keys() {
    let world = World::new("netbird_foreign").await;
    let operator = world.cluster.start_operator().await;
    world.cluster.kubectl_ok(&["create", "secret", "generic", "office", "--from-literal=password=theirs"], "");
    world.cluster.kubectl_ok(&["create", "configmap", "other"], "");
    let uid = world.cluster.kubectl_ok(&["get", "configmap", "other", "-o", "jsonpath={.metadata.uid}"], "");
    let owned: Secret = serde_json::from_value(json!({
        "metadata": { "name": "owned", "ownerReferences": [
            { "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": uid, "controller": true },
        ] },
        "stringData": { "password": "theirs" },
    }))
    .unwrap();
    world.cluster.secrets().create(&PostParams::default(), &owned).await.unwrap();
    let versions = [world.cluster.secret_version("office").await, world.cluster.secret_version("owned").await];
    for name in ["office", "owned"] {
        world.create(name, json!({})).await;
        world.key_says(name, "Ready", "False SecretConflict").await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let created = world.netbird.proxy.heard(CREATE);
    println!("a_secret_of_somebody_else: {created} keys created at NetBird for 2 SetupKeys");
    assert!(created <= 2, "{created} keys were created");
    for (name, version) in ["office", "owned"].into_iter().zip(versions) {
        let left = world.there(name).await;
        assert!(left.is_empty(), "{name}: {:?} at NetBird", ids(&left));
        world.delete(name).await;
        world.gone(name).await;
        assert_eq!(world.cluster.secret_version(name).await, version, "Secret {name} was written");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_refuses_the_secret_costs_one_key_at_most() {
    let world = World::new("netbird_quota").await;
    let secrets = world.cluster.secrets().list(&Default::default()).await.unwrap().items.len();
    let quotas: Api<ResourceQuota> = Api::namespaced(world.cluster.client.clone(), &world.cluster.namespace);
    let quota = serde_json::from_value(
        json!({ "metadata": { "name": "few" }, "spec": { "hard": { "secrets": secrets.to_string() } } }),
    )
    .unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    eventually("the quota to be counted", || async {
        quotas.get("few").await.ok()?.status?.used?.contains_key("secrets").then_some(())
    })
    .await;
    let operator = world.cluster.start_operator().await;
    world.create("office", json!({})).await;
    let message = world.key_says("office", "Ready", "False SecretRefused").await;
    assert!(message.contains("exceeded quota"), "{message}");
    tokio::time::sleep(Duration::from_secs(15)).await;
    let created = world.netbird.proxy.heard(CREATE);
    assert_eq!(created, 1, "keys were created that no Secret could hold");
    assert!(world.there("office").await.is_empty(), "one of them is left");
    quotas.delete("few", &Default::default()).await.unwrap();
    world.cluster.ready("office").await;
    world.settled_there("office").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_names_or_ids_and_never_guessed_at() {
    let world = World::new("netbird_groups").await;
    let operator = world.cluster.start_operator().await;
    let named = world.netbird.group("named").await;
    let missing = world.netbird.name("missing");
    world.create("office", json!({ "autoGroups": [named.name, missing] })).await;
    let message = world.key_says("office", "Ready", "False GroupNotFound").await;
    assert!(message.contains(&format!("{missing:?}")), "{message}");
    let status = world.cluster.keys().get("office").await.unwrap().status.unwrap();
    assert_eq!(says(&status, "Stalled"), "", "it heals when the group appears");
    assert!(world.there("office").await.is_empty());
    let created = world.netbird.api.create_group(&missing).await;
    world.cluster.ready("office").await;
    let mut groups = world.only("office").await.auto_groups;
    groups.sort();
    let mut expected = vec![named.id.clone(), created.id.clone()];
    expected.sort();
    assert_eq!(groups, expected);

    // By id, and one call for a change.
    world.cluster.patch_spec("office", json!({ "autoGroups": [created.id] })).await;
    eventually("the groups to change", || async {
        (world.only("office").await.auto_groups == [created.id.clone()]).then_some(())
    })
    .await;

    // A group that loses its name, and another that gets it.
    let all = world.netbird.api.groups().await.into_iter().find(|group| group.name == "All").expect("All");
    for spelling in ["All".to_owned(), all.id] {
        world.cluster.patch_spec("office", json!({ "autoGroups": [spelling] })).await;
        let message = world.key_says("office", "Ready", "False AuthorityRefused").await;
        assert!(message.contains("can't add 'all' group to the setup key"), "{message}");
        world.cluster.patch_spec("office", json!({ "autoGroups": [named.id] })).await;
        world.key_says("office", "Ready", "True Reconciled").await;
    }
    let status = world.cluster.ready("office").await;
    assert!(condition(&status, "Stalled").is_none());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_groups_are_joined_and_missing_ones_are_created_where_that_is_asked_for() {
    let netbird = crate::harness::netbird::NetBird::for_test("netbird_allowed").await;
    let (allowed, admins) = (netbird.group("allowed").await, netbird.group("admins").await);
    let later = netbird.name("later");
    let changes = json!({ "allowedGroups": [allowed.name, later], "netbird": { "createGroups": true } });
    let world = World::with("netbird_allowed", netbird, changes).await;
    let operator = world.cluster.start_operator().await;
    for spelling in [&admins.name, &admins.id] {
        world.create("office", json!({ "autoGroups": [allowed.id, spelling] })).await;
        let message = world.key_says("office", "Stalled", "True GroupNotAllowed").await;
        assert!(message.contains(&format!("{spelling:?}")) && !message.contains(&allowed.id), "{message}");
        assert!(world.there("office").await.is_empty());
        world.delete("office").await;
        world.gone("office").await;
    }
    world.issue("office", json!({ "autoGroups": [allowed.id, later] })).await;
    let groups = world.netbird.api.groups().await;
    assert_eq!(groups.iter().filter(|group| group.name == later).count(), 1);

    // What was allowed once, and is not any more.
    let patch = kube::api::Patch::Merge(json!({ "spec": { "allowedGroups": [later] } }));
    world.authorities().patch(super::world::AUTHORITY, &Default::default(), &patch).await.unwrap();
    world.key_says("office", "Stalled", "True GroupNotAllowed").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_only_name_an_authority_of_its_namespace() {
    let world = World::new("netbird_elsewhere").await;
    let other = World::new("netbird_elsewhere").await;
    other.add_authority("theirs", json!({})).await;
    let operator = world.cluster.start_operator().await;
    world.create("office", json!({ "authorityRef": { "name": "theirs" } })).await;
    let message = world.key_says("office", "Stalled", "True AuthorityNotFound").await;
    assert!(message.starts_with("There is no Authority \"theirs\""), "{message}");
    tokio::time::sleep(SOON).await;
    assert!(world.there("office").await.is_empty());
    world.delete("office").await;
    world.gone("office").await;
    operator.stop().await;
}
