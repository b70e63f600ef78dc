//! The operator is killed, upgraded, cut off and removed. Keys are not affected.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Duration, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use setupkey_operator::api::{SetupKey, State, Timestamp};

use crate::{
    cluster::{Cluster, eventually, variable},
    keys::sha256sum,
    node,
    pods::{Key, MOUNTED, Script},
    release::Release,
};

/// The expiry falls into the time without a leader: a Lease runs out after 15 s.
pub async fn a_killed_leader_is_replaced_and_an_expiry_meanwhile_is_shown(cluster: Arc<Cluster>) {
    let place = cluster.namespace("leader").await;
    place.apply_key("office", "");
    place.ready("office").await;
    let release = Release::of(&cluster);
    release.settled().await;
    let (lease, leader) = release.leader().await;
    let expires = Timestamp::from(Utc::now() + Duration::seconds(10));
    place.patch_status("office", json!({ "expires": expires })).await;
    if cluster.is_ours() {
        // A kill like the kernel's when memory runs out: the process cannot release its Lease.
        node::kill_containers_of(&leader, "setupkey-operator");
    }
    release.api::<Pod>().delete(&leader.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();

    let gone = lease.spec.unwrap().holder_identity.into_iter().collect();
    let (lease, successor) = release.leader_other_than(&gone).await;
    assert_ne!(successor.uid(), leader.uid());
    let expired = place.in_state("office", State::Expired).await;
    let valid = expired.conditions.iter().find(|condition| condition.type_ == "Valid").unwrap();
    let (shown, expires) = (valid.last_transition_time.0, expires.moment());
    let taken_over = lease.spec.unwrap().acquire_time.expect("a time").0;
    let (shown, taken_over) = (moment(shown.as_second()), moment(taken_over.as_second()));
    if cluster.is_ours() {
        assert!(taken_over >= expires, "no pod was to lead at {expires}, but one led from {taken_over} on");
    }
    // The Lease's time is in whole seconds, and the machine is busy.
    let late = shown - taken_over.max(expires);
    assert!(late >= Duration::zero() && late <= Duration::seconds(5), "shown {late} after it could be");
    release.settled().await;
}

pub async fn an_upgrade_rolls_and_changes_no_key(cluster: Arc<Cluster>) {
    let place = cluster.namespace("upgrade").await;
    place.apply_key("office", "");
    place.ready("office").await;
    let release = Release::of(&cluster);
    release.settled().await;
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let before: BTreeSet<_> = release.pods(Release::CONTROLLER).await.iter().map(image).collect();
    let versions = cluster.versions().await;

    let next = variable("E2E_UPGRADE_IMAGE").expect("another image");
    let fewest = async {
        let mut fewest = i32::MAX;
        loop {
            let status = release.deployment().await.status.unwrap_or_default();
            fewest = fewest.min(status.available_replicas.unwrap_or_default());
            if status.updated_replicas == Some(2) && status.replicas == Some(2) && fewest < i32::MAX {
                let pods = release.pods(Release::CONTROLLER).await;
                if pods.iter().all(|pod| image(pod) == next) {
                    return fewest;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let upgrade = || release.upgrade(&next);
    let (fewest, ()) = tokio::join!(fewest, async { tokio::task::block_in_place(upgrade) });
    assert!(fewest >= 1, "no replica was available");
    release.settled().await;
    assert!(!before.contains(&next), "{next} is what ran before");

    // The leader has reconciled each earlier key by the time this one is ready.
    place.apply_key("later", "");
    place.ready("later").await;
    let after = cluster.versions().await;
    let changed: Vec<_> = versions.iter().filter(|version| !after.contains(version)).collect();
    assert!(changed.is_empty(), "written by an upgrade: {changed:?}");
}

pub async fn kubelet_and_api_server_restart_and_nothing_is_written(cluster: Arc<Cluster>) {
    let place = cluster.namespace("restart").await;
    place.apply_key("office", "");
    let digest = sha256sum(&place.ready("office").await);
    let follow = format!("sha256sum < {MOUNTED}; exec sleep 3600");
    place.start(Script { name: "before", script: &follow, key: Key::Mounted("office") }).await;
    place.log_with("before", &digest).await;
    let release = Release::of(&cluster);
    release.settled().await;
    let (life, versions) = (place.life("before").await, cluster.versions().await);
    let killed = Utc::now();

    node::kill_program(cluster.node_folder(), "kubelet");
    node::kill_program(cluster.node_folder(), "kube-apiserver");

    eventually("the node to be Ready again", || async {
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.ok()?;
        let conditions = nodes.items.into_iter().flat_map(|node| node.status.unwrap_or_default().conditions);
        let ready: Vec<_> = conditions.flatten().filter(|condition| condition.type_ == "Ready").collect();
        let heard = |time: i64| moment(time) > killed;
        let all_are = ready.iter().all(|ready| {
            ready.status == "True" && ready.last_heartbeat_time.as_ref().is_some_and(|time| heard(time.0.as_second()))
        });
        (!ready.is_empty() && all_are).then_some(())
    })
    .await;
    release.settled().await;
    release.leader().await;
    place.apply_key("later", "");
    let later = sha256sum(&place.ready("later").await);
    place.start(Script { name: "after", script: &follow, key: Key::Mounted("later") }).await;
    place.log_with("after", &later).await;

    assert_eq!(place.life("before").await, life);
    let after = cluster.versions().await;
    let changed: Vec<_> = versions.iter().filter(|version| !after.contains(version)).collect();
    assert!(changed.is_empty(), "written by a restart: {changed:?}");
    // The audit log also shows writes that changed nothing.
    let operator = format!("system:serviceaccount:{}:{}", release.namespace, Release::NAME);
    let writes = node::writes_since(cluster.node_folder(), killed, &operator);
    let of_later = |write: &&Value| write["objectRef"]["name"] == "later";
    assert_eq!(writes.iter().filter(of_later).count(), 2, "the Secret and the status: {writes:#?}");
    let others: Vec<_> = writes.iter().filter(|write| !of_later(write)).collect();
    assert!(others.is_empty(), "asked for by a restart: {others:#?}");
}

pub async fn uninstalled_and_installed_again_it_takes_up_every_key(cluster: Arc<Cluster>) {
    let place = cluster.namespace("again").await;
    place.apply_key("office", "");
    place.ready("office").await;
    let release = Release::of(&cluster);
    let versions = cluster.versions().await;

    release.uninstall();
    let gone = || async { release.pods(Release::SELECTOR).await.is_empty().then_some(()) };
    eventually("the operator's pods to be gone", gone).await;
    assert_eq!(cluster.versions().await, versions, "the keys and their Secrets did not stay as they were");
    // No operator reconciles it.
    place.apply_key("waiting", "");

    release.install();
    release.settled().await;
    place.ready("waiting").await;
    let after = cluster.versions().await;
    let changed: Vec<_> = versions.iter().filter(|version| !after.contains(version)).collect();
    assert!(changed.is_empty(), "written by an installation: {changed:?}");
    // The operator works on the keys that exist.
    place.patch_spec("office", json!({ "revoked": true })).await;
    place.in_state("office", State::Revoked).await;
    let keys = place.api::<SetupKey>().list(&ListParams::default()).await.unwrap();
    assert_eq!(keys.items.len(), 2);
}

fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a time of our days")
}
