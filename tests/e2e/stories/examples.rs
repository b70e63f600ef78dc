//! The examples as written. Only the operator's image and namespace are those of the run.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Place, all, eventually, repository},
    keys::sha256sum,
    node,
    release::Release,
};

pub async fn each_example_with_a_pod_does_what_it_says(cluster: Arc<Cluster>) {
    // They are short, and leave out what Pod Security requires.
    let place = cluster.namespace_with("examples", json!({})).await;
    place.publish_authority().await;
    let mut told = Vec::new();
    for entry in std::fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Those with NetBird's agent have stories of their own.
        if !name.ends_with(".yaml") || name.starts_with("netbird-") {
            continue;
        }
        let manifest = std::fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = manifest.split("\n---\n").map(|part| serde_yaml::from_str(part).unwrap()).collect();
        if !documents.iter().any(|document| document["kind"] == "Pod" || document["kind"] == "DaemonSet") {
            continue;
        }
        place.kubectl(&["apply", "-f", "-"], &for_this_run(&cluster, &manifest));
        told.push(name);
    }
    told.sort();
    assert_eq!(told, EXAMPLES, "say here what the new example does");
    tokio::join!(
        a_variable_keeps_its_value(&place),
        a_mounted_directory_follows(&place),
        a_container_that_is_started_again_is_the_same_peer_and_leaves_with_its_pod(&place),
        nodes_stay_the_same_peers_with_new_pods(&place),
    );
}

const EXAMPLES: [&str; 4] = ["daemonset-enroll.yaml", "pod-enroll.yaml", "pod-env.yaml", "pod-volume.yaml"];

fn for_this_run(cluster: &Cluster, manifest: &str) -> String {
    manifest
        .replace("busybox:1.37", &cluster.shell_image())
        .replace("setupkey-operator:0.1.0", &cluster.operator_image())
        .replace("setupkey-operator-enrollment.setupkey-system.svc", &Release::of(cluster).enrollment_host())
}

async fn a_variable_keeps_its_value(place: &Place<'_>) {
    place.log_with("batch", "the key has 36 characters\n").await;
    let held = || place.exec("batch", "printf %s \"$NB_SETUP_KEY\" | sha256sum");
    let first = place.ready("batch").await;
    assert!(held().starts_with(&sha256sum(&first)));
    place.replace_secret("batch", &first).await;
    assert!(held().starts_with(&sha256sum(&first)));
}

async fn a_mounted_directory_follows(place: &Place<'_>) {
    place.log_with("worker", "the key has 36 characters\n").await;
    let first = place.ready("workers").await;
    let second = sha256sum(&place.replace_secret("workers", &first).await);
    eventually("the file to hold the new key", || async {
        place.exec("worker", "sha256sum < /etc/netbird/setup-key").starts_with(&second).then_some(())
    })
    .await;
}

async fn a_container_that_is_started_again_is_the_same_peer_and_leaves_with_its_pod(place: &Place<'_>) {
    let peer = place.peer_of("agent").await;
    assert_eq!((peer.spec.groups.as_slice(), peer.spec.ephemeral), (["agents".to_owned()].as_slice(), true));
    let pods = place.api::<Pod>();
    if place.cluster.is_ours() {
        node::kill_containers_of(&pods.get("agent").await.unwrap(), "setupkey-operator");
        eventually("the container to be started again", || async {
            let status = pods.get("agent").await.ok()?.status?;
            (status.container_statuses?.first()?.restart_count == 1).then_some(())
        })
        .await;
        place.log_with("agent", ": joined").await;
        assert_eq!(place.peer_of("agent").await.uid(), peer.uid());
        assert_eq!(place.used("agents").await, 1);
    }
    place.delete_pod("agent").await;
    assert!(place.has_left(&peer).await, "the peer is there after its pod");
}

async fn nodes_stay_the_same_peers_with_new_pods(place: &Place<'_>) {
    let nodes = rolled_out(place).await;
    let first = peers_of_nodes(place, &nodes).await;
    place.kubectl(&["rollout", "restart", "daemonset/node-peer"], "");
    assert_eq!(rolled_out(place).await, nodes);
    for pod in place.api::<Pod>().list(&all().labels("app.kubernetes.io/name=node-peer")).await.unwrap() {
        place.log_with(&pod.name_any(), ": joined").await;
    }
    assert_eq!(peers_of_nodes(place, &nodes).await, first);
    assert_eq!(usize::try_from(place.used("nodes").await).unwrap(), nodes.len());
    place.kubectl(&["delete", "daemonset", "node-peer"], "");
}

/// Waits for all pods of the present template and returns their nodes.
async fn rolled_out(place: &Place<'_>) -> Vec<String> {
    eventually("the DaemonSet to be rolled out", || async {
        let set = place.api::<DaemonSet>().get("node-peer").await.ok()?;
        let status = set.status?;
        let wanted = status.desired_number_scheduled;
        let settled = status.observed_generation == set.metadata.generation
            && status.updated_number_scheduled == Some(wanted)
            && status.number_ready == wanted;
        let pods = place.api::<Pod>().list(&all().labels("app.kubernetes.io/name=node-peer")).await.ok()?;
        let mut nodes: Vec<_> = pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
        nodes.sort();
        (settled && wanted > 0 && i32::try_from(nodes.len()) == Ok(wanted)).then_some(nodes)
    })
    .await
}

/// The uid of the Peer of each node.
async fn peers_of_nodes(place: &Place<'_>, nodes: &[String]) -> BTreeMap<String, Option<String>> {
    let mut peers = BTreeMap::new();
    for node in nodes {
        let peer = place.peer_of(node).await;
        assert_eq!((peer.spec.groups.as_slice(), peer.spec.ephemeral), (["nodes".to_owned()].as_slice(), false));
        peers.insert(node.clone(), peer.uid());
    }
    assert_eq!(place.peers().await.iter().filter(|peer| peer.spec.setup_key_ref.name == "nodes").count(), nodes.len());
    peers
}
