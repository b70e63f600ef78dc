//! What happens to pods when their key changes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use serde_json::json;
use setupkey_operator::api::{SetupKey, State};

use crate::{
    cluster::{Cluster, eventually},
    keys::sha256sum,
    pods::{Key, MOUNTED, Script},
};

/// Prints the digest of the mounted key whenever it changes.
const FOLLOW: &str = "while :; do
    now=$(sha256sum < /etc/netbird/setup-key 2>/dev/null) && [ \"$now\" != \"$last\" ] && echo \"$now\" && last=$now
    sleep 1; done";

pub async fn a_revoked_key_lets_running_pods_go_on_and_new_ones_start(cluster: Arc<Cluster>) {
    let place = cluster.namespace("revoked").await;
    place.apply_key("office", "");
    let digest = sha256sum(&place.ready("office").await);
    place.start(Script { name: "before", script: FOLLOW, key: Key::Mounted("office") }).await;
    place.log_with("before", &digest).await;
    let life = place.life("before").await;

    place.patch_spec("office", json!({ "revoked": true })).await;
    place.in_state("office", State::Revoked).await;
    place.start(Script { name: "after", script: FOLLOW, key: Key::Mounted("office") }).await;
    place.log_with("after", &digest).await;
    assert_eq!(place.life("before").await, life);
    assert_eq!(place.kubectl(&["logs", "before"], "").lines().count(), 1, "its key changed");
}

pub async fn a_deleted_secret_comes_back_and_the_mounted_file_follows(cluster: Arc<Cluster>) {
    let place = cluster.namespace("follows").await;
    place.apply_key("office", "");
    let first = place.ready("office").await;
    place.start(Script { name: "follower", script: FOLLOW, key: Key::Mounted("office") }).await;
    place.log_with("follower", &sha256sum(&first)).await;
    let life = place.life("follower").await;

    let second = place.replace_secret("office", &first).await;
    let log = place.log_with("follower", &sha256sum(&second)).await;
    assert_eq!(log.lines().count(), 2, "there was a third value: {log}");
    assert_eq!(place.life("follower").await, life, "the pod was restarted");
    assert_eq!((second.id, second.expires), (first.id, first.expires));
}

pub async fn a_rotation_reaches_mounted_files_and_no_environment(cluster: Arc<Cluster>) {
    let place = cluster.namespace("rotated").await;
    place.apply_key("office", "");
    let first = place.ready("office").await;
    let print = "printf %s \"$NB_SETUP_KEY\" | sha256sum";
    let stale = format!("{print}; exec sleep 3600");
    place.start(Script { name: "mounted", script: FOLLOW, key: Key::Mounted("office") }).await;
    place.start(Script { name: "variable", script: &stale, key: Key::Variable("office") }).await;
    for pod in ["mounted", "variable"] {
        place.log_with(pod, &sha256sum(&first)).await;
    }
    let lives = (place.life("mounted").await, place.life("variable").await);

    place.request_rotation("office", first.issued_at.expect("a moment of issue").plus_seconds(1)).await;
    let second = place.status_when("office", "rotated", |status| status.revision == Some(2)).await;
    let log = place.log_with("mounted", &sha256sum(&second)).await;
    assert_eq!(log.lines().count(), 2, "there was a third value: {log}");
    assert_eq!(place.exec("variable", print), format!("{}  -\n", sha256sum(&first)));
    assert_eq!((place.life("mounted").await, place.life("variable").await), lives, "a pod was restarted");
    // The pod with the variable still joins, if it has not joined before.
    assert_eq!(second.previous.iter().map(|key| &key.digest).collect::<Vec<_>>(), [first.digest.as_ref().unwrap()]);
}

pub async fn a_deleted_key_takes_its_secret_and_leaves_running_pods_alone(cluster: Arc<Cluster>) {
    let place = cluster.namespace("deleted").await;
    place.apply_key("office", "");
    let digest = sha256sum(&place.ready("office").await);
    place.start(Script { name: "runner", script: FOLLOW, key: Key::Mounted("office") }).await;
    place.log_with("runner", &digest).await;
    let life = place.life("runner").await;

    place.api::<SetupKey>().delete("office", &DeleteParams::default()).await.unwrap();
    eventually("the Secret to be collected", || async {
        place.api::<Secret>().get_opt("office").await.ok()?.is_none().then_some(())
    })
    .await;
    assert!(place.exec("runner", &format!("sha256sum < {MOUNTED}")).starts_with(&digest), "its file is gone");
    assert_eq!(place.life("runner").await, life);
}
