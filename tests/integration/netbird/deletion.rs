//! Deleting `SetupKey`s, their authority and their namespace.

use control_plane::netbird::Outcome;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::json;

use super::world::{AUTHORITY, SOON, World, ids};
use crate::{
    harness::{
        eventually,
        netbird::{Fault, Which, on},
    },
    observability::related,
};

const DELETE: &str = "DELETE /api/setup-keys/{id}";

#[tokio::test(flavor = "multi_thread")]
async fn netbird_deletion() {
    let world = World::new("netbird_deletion").await;
    let operator = world.cluster.start_operator().await;
    for name in ["plain", "retained", "pending", "gone-there"] {
        world.issue(name, json!({})).await;
    }
    let value = world.value("plain").await;
    let agent = world.netbird.join(&world.netbird.prefix, &value).await;
    assert_eq!(agent.outcome(), Outcome::Joined);

    // When kubectl returns, no machine can join with the key.
    world.cluster.kubectl_ok(&["delete", "setupkeys.setupkey.dev", "plain", "--timeout=20s"], "");
    assert!(world.there("plain").await.is_empty());
    assert_eq!(world.netbird.join("late", &value).await.outcome(), Outcome::Refused);
    assert!(world.netbird.api.peers().await.iter().any(|peer| peer.hostname == world.netbird.prefix));

    world.netbird.api.delete_key(&world.only("gone-there").await.id).await;
    world.delete("gone-there").await;
    world.gone("gone-there").await;

    world.cluster.patch_spec("retained", json!({ "deletionPolicy": "Retain" })).await;
    world.delete("retained").await;
    world.gone("retained").await;
    assert!(world.only("retained").await.valid);
    let told = world.cluster.event("retained", "KeyRetained").await;
    assert!(told.note.unwrap().contains(&world.only("retained").await.id));
    assert_eq!(related(&world.cluster, "retained", "KeyRetained").await, format!("Authority {AUTHORITY}"));

    world.netbird.proxy.down();
    world.authority_says(AUTHORITY, "False Unreachable").await;
    world.delete("pending").await;
    let message = world.key_says("pending", "Ready", "False DeletionPending").await;
    assert!(message.contains("set deletionPolicy to Retain"), "{message}");
    tokio::time::sleep(SOON).await;
    world.netbird.proxy.up().await;
    world.gone("pending").await;
    assert!(world.there("pending").await.is_empty());

    // The same, but the author does not want to wait.
    world.issue("let-go", json!({})).await;
    world.netbird.proxy.down();
    world.authority_says(AUTHORITY, "False Unreachable").await;
    world.delete("let-go").await;
    world.key_says("let-go", "Ready", "False DeletionPending").await;
    world.cluster.patch_spec("let-go", json!({ "deletionPolicy": "Retain" })).await;
    world.gone("let-go").await;
    world.netbird.proxy.up().await;
    assert!(world.only("let-go").await.valid);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_authority_goes_first_is_still_deleted_there() {
    let world = World::new("netbird_authority_gone").await;
    let operator = world.cluster.start_operator().await;
    world.issue("office", json!({})).await;
    world.issue("waiting", json!({})).await;
    world.authorities().delete(AUTHORITY, &DeleteParams::default()).await.unwrap();
    let message = world.key_says("waiting", "Ready", "False AuthorityNotFound").await;
    assert_eq!(message, "There is no Authority \"netbird\". Create it; the operator then goes on with this key.");
    world.delete("office").await;
    world.gone("office").await;
    assert!(world.there("office").await.is_empty(), "the operator knew the token, and the key is still there");

    // A restarted operator has never seen the token, so the key is left behind.
    operator.stop().await;
    let operator = world.cluster.start_operator().await;
    world.delete("waiting").await;
    world.gone("waiting").await;
    let left = world.only("waiting").await;
    let told = world.cluster.event("waiting", "KeyLeftBehind").await.note.unwrap();
    assert!(told.contains(&left.id), "{told}");
    assert_eq!(related(&world.cluster, "waiting", "KeyLeftBehind").await, format!("Authority {AUTHORITY}"));

    // With the authority back, other keys go on.
    world.create("late", json!({})).await;
    world.key_says("late", "Ready", "False AuthorityNotFound").await;
    world.add_authority(AUTHORITY, json!({})).await;
    world.cluster.ready("late").await;
    operator.stop().await;
}

/// The order in which a namespace loses its objects is not fixed.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_token_goes_before_its_authority_is_still_deleted_there() {
    let world = World::new("netbird_token_first").await;
    let operator = world.cluster.start_operator().await;
    world.issue("office", json!({})).await;
    let secrets: Api<Secret> = Api::namespaced(world.cluster.client.clone(), &world.cluster.namespace);
    secrets.delete(AUTHORITY, &DeleteParams::default()).await.unwrap();
    world.authority_says(AUTHORITY, "False TokenMissing").await;
    world.delete("office").await;
    world.key_says("office", "Ready", "False DeletionPending").await;
    world.authorities().delete(AUTHORITY, &DeleteParams::default()).await.unwrap();
    world.gone("office").await;
    assert!(world.there("office").await.is_empty(), "the operator knew the token, and the key is still there");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_takes_its_keys_with_it() {
    let world = World::new("netbird_namespace").await;
    let operator = world.cluster.start_operator().await;
    let names: Vec<_> = (0..60).map(|number| format!("key-{number}")).collect();
    stream::iter(&names).for_each_concurrent(8, |name| world.create(name, json!({}))).await;
    for name in &names {
        world.cluster.ready(name).await;
    }
    let namespaces: Api<Namespace> = Api::all(world.cluster.client.clone());
    namespaces.delete(&world.cluster.namespace, &DeleteParams::default()).await.unwrap();
    eventually("the keys of the namespace to be gone", || async {
        world.cluster.keys().list(&Default::default()).await.ok()?.items.is_empty().then_some(())
    })
    .await;
    let part = format!("[{}/", world.cluster.namespace);
    let left = world.netbird.api.keys_named(&part).await;
    assert!(left.is_empty(), "{} keys are left: {:?}", left.len(), ids(&left));
    operator.stop().await;
    let left = world.netbird.api.keys_named(&part).await;
    assert!(left.is_empty(), "{} keys came later", left.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_does_not_hang_while_netbird_is_away() {
    let world = World::new("netbird_namespace_away").await;
    let operator = world.cluster.start_operator().await;
    world.issue("office", json!({})).await;
    world.netbird.proxy.down();
    world.authority_says(AUTHORITY, "False Unreachable").await;
    let namespaces: Api<Namespace> = Api::all(world.cluster.client.clone());
    namespaces.delete(&world.cluster.namespace, &DeleteParams::default()).await.unwrap();
    eventually("the key to be let go with its authority", || async {
        world.cluster.keys().list(&Default::default()).await.ok()?.items.is_empty().then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_fails_for_one_key_is_tried_again() {
    let world = World::new("netbird_delete_fails").await;
    let operator = world.cluster.start_operator().await;
    world.issue("office", json!({})).await;
    let lost = world.netbird.proxy.inject(on(DELETE), Which::First(2), Fault::DropBefore);
    world.delete("office").await;
    lost.hit(2).await;
    let key = world.cluster.keys().get("office").await.unwrap();
    assert_eq!(key.finalizers(), ["setupkey.dev/authority"]);
    world.gone("office").await;
    assert!(world.there("office").await.is_empty());
    operator.stop().await;
}
