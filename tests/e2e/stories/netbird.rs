//! NetBird's own agent, in pods that mount a key, and NetBird's own server behind the key.

use std::{net::IpAddr, sync::Arc};

use control_plane::netbird::Peer;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use setupkey_operator::{
    api::{SetupKey, SetupKeyStatus, State},
    key::conditions,
};

use crate::{
    cluster::{Cluster, Place, eventually},
    forward::Forward,
    netbird::running_pods,
    release::Release,
};

/// The port of an agent's SOCKS5 proxy, which leads into the network.
const SOCKS: u16 = 1080;
/// The port of the web server of the example.
const WEB: u16 = 8080;

/// The Deployment of the examples, whose pods Pod Security *restricted* accepts.
pub async fn netbird_agent_joins_with_the_mounted_key(cluster: Arc<Cluster>) {
    let place = cluster.namespace("agents").await;
    let netbird = cluster.netbird().await;
    let api = netbird.connect(&cluster).await;
    place.publish_authority().await;
    place.apply(&netbird.example(&cluster, "netbird-deployment.yaml"));
    let id = id_of(&place.ready("netbird-web").await);
    let there = api.key(&id).await.expect("the key is at NetBird");
    assert!(there.valid && there.ephemeral && there.name.contains(&format!("{}/netbird-web", place.namespace)));

    let first = &api.peers_connected(1, is_web).await[0];
    assert!(first.ephemeral && first.groups.iter().any(|group| group.name == "web"), "{first:?}");
    place.status_when("netbird-web", "used once", |status| status.used_times == 1).await;

    scale(&place, 2).await;
    let peers = api.peers_connected(2, is_web).await;
    let (one, other) = (&peers[0], &peers[1]);
    reaches(&place, one, other).await;

    place.patch_spec("netbird-web", json!({ "revoked": true })).await;
    place.in_state("netbird-web", State::Revoked).await;
    assert!(api.key(&id).await.expect("a revoked key stays").revoked);
    scale(&place, 3).await;
    let refused = third_pod(&place, &peers).await;
    place.log_with(&refused, "setup key is invalid").await;
    assert_eq!(ids(&api.peers_connected(2, is_web).await), ids(&peers));
    reaches(&place, other, one).await;

    // It returns when nothing is left at NetBird by which a machine could join.
    place.kubectl(&["delete", "setupkeys.setupkey.dev", "netbird-web", "--timeout=30s"], "");
    assert!(api.key(&id).await.is_none(), "the key is still at NetBird");
    scale(&place, 2).await;
    assert_eq!(ids(&api.peers_connected(2, is_web).await), ids(&peers));
    reaches(&place, one, other).await;
}

/// The DaemonSet and the pod with `envFrom`, and the keys of examples without pods.
pub async fn nodes_and_pods_with_a_variable_join_netbird_as_the_examples_say(cluster: Arc<Cluster>) {
    // A node's identity is in a directory of the node, which Pod Security forbids.
    let place = cluster.namespace_with("netbird-nodes", json!({})).await;
    let netbird = cluster.netbird().await;
    let api = netbird.connect(&cluster).await;
    place.publish_authority().await;
    for example in ["netbird-daemonset.yaml", "netbird-envfrom.yaml"] {
        place.apply(&netbird.example(&cluster, example));
    }

    api.peers_connected(1, |hostname| hostname == "netbird-job").await;
    place.ready("netbird-nodes").await;
    let nodes = rolled_out(&place).await;
    let before = api.peers_connected(nodes, is_node(&place).await).await;
    assert!(before.iter().all(|peer| !peer.ephemeral && peer.groups.iter().any(|group| group.name == "nodes")));
    place.kubectl(&["rollout", "restart", "daemonset/netbird-node"], "");
    rolled_out(&place).await;
    for pod in running_pods(&place, "netbird-node").await {
        place.log_with(&pod, "connected to the Management Service stream").await;
    }
    let after = api.peers_connected(nodes, is_node(&place).await).await;
    assert_eq!(ids(&after), ids(&before));
    let id = id_of(&place.ready("netbird-nodes").await);
    let there = api.key(&id).await.expect("the key is at NetBird");
    assert_eq!(usize::try_from(there.used_times), Ok(nodes), "a new pod used the key again");
    place.kubectl(&["delete", "daemonset/netbird-node", "pod/netbird-job", "--wait=false"], "");
}

/// Keys outlive the operator: machines must be able to join while it is upgraded, or installed in another way. A deletion
/// waits for an operator, because without one the key would stay at NetBird and nothing would say so.
pub async fn uninstalled_it_leaves_netbird_alone_and_deletions_wait(cluster: Arc<Cluster>) {
    let place = cluster.namespace("netbird-again").await;
    let api = cluster.netbird().await.connect(&cluster).await;
    let authority = "authorityRef: {kind: ClusterAuthority, name: netbird}";
    place.apply_key("kept", authority);
    place.apply_key("deleted", authority);
    place.apply_key("retained", &format!("{authority}, deletionPolicy: Retain"));
    let mut keys = Vec::new();
    for name in ["kept", "deleted", "retained"] {
        keys.push(id_of(&place.ready(name).await));
    }
    let [kept, deleted, retained] = &keys[..] else { unreachable!("three keys") };

    let release = Release::of(&cluster);
    release.uninstall();
    let gone = || async { release.pods(Release::SELECTOR).await.is_empty().then_some(()) };
    eventually("the operator's pods to be gone", gone).await;
    for name in ["deleted", "retained"] {
        place.api::<SetupKey>().delete(name, &DeleteParams::default()).await.expect("a deletion");
        let waiting = place.api::<SetupKey>().get(name).await.expect("the finalizer holds it");
        assert!(waiting.metadata.deletion_timestamp.is_some());
    }
    for id in &keys {
        assert!(api.key(id).await.is_some_and(|key| key.valid), "the key {id} was touched");
    }

    release.install();
    release.settled().await;
    eventually("the deletions to be carried out", || async {
        let left = place.api::<SetupKey>().list(&Default::default()).await.ok()?;
        (left.items.len() == 1).then_some(())
    })
    .await;
    assert!(api.key(deleted).await.is_none(), "the key of a deleted SetupKey is still at NetBird");
    for id in [kept, retained] {
        assert!(api.key(id).await.is_some_and(|key| key.valid), "the key {id} was touched");
    }
    place.ready("kept").await;
    // Another story deletes the operator once more.
    place.kubectl(&["delete", "setupkeys.setupkey.dev", "kept", "--timeout=30s"], "");
    assert!(api.key(kept).await.is_none());
}

fn is_web(hostname: &str) -> bool {
    hostname.starts_with("netbird-web-")
}

async fn is_node(place: &Place<'_>) -> impl Fn(&str) -> bool + use<> {
    let nodes = place.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"], "");
    let nodes: Vec<_> = nodes.split_whitespace().map(String::from).collect();
    move |hostname| nodes.iter().any(|node| node == hostname)
}

fn id_of(status: &SetupKeyStatus) -> String {
    assert!(conditions::is_true(status, conditions::VALID), "{:?}", status.conditions);
    status.id.as_ref().expect("an id").to_string()
}

fn ids(peers: &[Peer]) -> Vec<&str> {
    let mut ids: Vec<_> = peers.iter().map(|peer| peer.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

async fn scale(place: &Place<'_>, replicas: u32) {
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    place.api::<Deployment>().patch("netbird-web", &PatchParams::default(), &patch).await.expect("a patch");
}

/// The pod of the Deployment that is none of these peers.
async fn third_pod(place: &Place<'_>, peers: &[Peer]) -> String {
    eventually("a third pod to run", || async {
        let pods = running_pods(place, "netbird-web").await;
        pods.into_iter().find(|pod| peers.iter().all(|peer| peer.hostname != *pod))
    })
    .await
}

/// The web server in the pod of one peer answers the pod of another through the network. The agents may need some seconds
/// to find a way to each other.
async fn reaches(place: &Place<'_>, from: &Peer, to: &Peer) {
    let IpAddr::V4(address) = to.ip else { panic!("{to:?} has no address of IPv4") };
    let forward = Forward::open(place, &from.hostname, SOCKS).await;
    eventually(&format!("{} to reach {}", from.hostname, to.hostname), || async {
        let answer = forward.get_by_socks(address, WEB).await.ok()?;
        answer.ends_with(&format!("hello from {}\n", to.hostname)).then_some(())
    })
    .await;
}

/// Waits for all pods of the present template, and returns their number.
async fn rolled_out(place: &Place<'_>) -> usize {
    eventually("the DaemonSet to be rolled out", || async {
        let set = place.api::<DaemonSet>().get("netbird-node").await.ok()?;
        let status = set.status?;
        let wanted = status.desired_number_scheduled;
        let settled = status.observed_generation == set.metadata.generation
            && status.updated_number_scheduled == Some(wanted)
            && status.number_ready == wanted;
        let running = running_pods(place, "netbird-node").await.len();
        (settled && wanted > 0 && i32::try_from(running) == Ok(wanted)).then_some(running)
    })
    .await
}
