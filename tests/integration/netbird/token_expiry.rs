//! When a token expires, as far as NetBird tells.

use serde_json::json;

use super::world::{AUTHORITY, World};
use crate::harness::{QUIET, at_rest_for, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_expiry_of_a_token_is_shown_only_while_it_is_known() {
    let world = World::new("token_expiry").await;
    let operator = world.cluster.start_operator().await;
    let expires = async || world.authorities().get(AUTHORITY).await.unwrap().status.unwrap_or_default().token_expires;
    world.authority_says(AUTHORITY, "True Connected").await;
    eventually("the expiry of the only token", || async { expires().await }).await;

    // Of two tokens, either may be ours. A change of the authority has the operator ask again.
    world.netbird.api.create_token(&world.netbird.admin.id, "second", 2).await;
    let change = json!({ "spec": { "netbird": { "interval": "61s" } } }).to_string();
    world.cluster.kubectl_ok(&["patch", "ska", AUTHORITY, "--type=merge", "-p", &change], "");
    eventually("the expiry to be unknown", || async { expires().await.is_none().then_some(()) }).await;
    at_rest_for(&operator.requests, QUIET).await;
    operator.stop().await;
}
