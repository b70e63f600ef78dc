//! A tenant puts a Peer into its own namespace that has the name and the token digest of another tenant's Peer.

use http::Method;
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PostParams},
};
use serde_json::json;
use setupkey_operator::api::{Peer, PeerSpec};

use super::{Machine, Replica, Setup, known_to, machine::Process};
use crate::harness::{Cluster, digest, eventually};

/// Two tenants, and a replica that serves both.
async fn tenants(test: &str) -> (Cluster, Cluster, Replica) {
    let (cluster, attacker) = (Cluster::for_test(test).await, Cluster::for_test(&format!("{test}-attacker")).await);
    let further = vec![attacker.namespace.clone()];
    let replica = Replica::start_with(&cluster, Setup { further, ..Setup::default() }).await;
    (cluster, attacker, replica)
}

/// Puts a copy of this Peer into the attacker's namespace, and changes the Peer. So it was seen before its shadow and after.
async fn shadow(cluster: &Cluster, attacker: &Cluster, replica: &Replica, of: &Peer) {
    let mut shadow = Peer::new(&of.name_any(), of.spec.clone());
    shadow.spec.groups = vec!["theirs".to_owned()];
    attacker.unguarded_peers().create(&PostParams::default(), &shadow).await.unwrap();
    shown(attacker, replica, &of.spec).await;
    let label = Patch::Merge(json!({ "metadata": { "labels": { "team": "network" } } }));
    cluster.peers().patch_metadata(&of.name_any(), &Default::default(), &label).await.unwrap();
    shown(cluster, replica, &of.spec).await;
}

/// Waits until the replica has seen what has happened in this namespace. For that, another Peer is created last.
async fn shown(cluster: &Cluster, replica: &Replica, like: &PeerSpec) {
    let last = Machine::new();
    let spec = PeerSpec { public_key: last.public_key.clone(), token_digest: digest(&last.token), ..like.clone() };
    let name = format!("peer-{:020}", rand::random::<u32>());
    cluster.unguarded_peers().create(&PostParams::default(), &Peer::new(&name, spec)).await.unwrap();
    eventually("the last Peer to be known", || async {
        (last.heartbeat(replica.address, &name).await.status == 204).then_some(())
    })
    .await;
}

/// A machine that has joined, and its Peer.
async fn joined(cluster: &Cluster, replica: &Replica, key: &str) -> (Machine, Peer) {
    let machine = Machine::new();
    let name = eventually("the machine to join", || async {
        let answer = machine.enroll(replica.address, key).await;
        (answer.status == 200).then(|| answer.name())
    })
    .await;
    eventually("the peer to be known", || async {
        (machine.heartbeat(replica.address, &name).await.status == 204).then_some(())
    })
    .await;
    let peer = cluster.peers().get(&name).await.unwrap();
    (machine, peer)
}

async fn is_connected(cluster: &Cluster, name: &str) -> bool {
    cluster.peers().get(name).await.unwrap().status.is_some_and(|status| status.connected)
}

async fn is_gone(cluster: &Cluster, name: &str) -> bool {
    let peer = cluster.peers().get_opt(name).await.unwrap();
    peer.is_none_or(|peer| peer.metadata.deletion_timestamp.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_a_peer_reaches_its_shadow() {
    let (cluster, attacker, replica) = tenants("shadowed").await;
    let (address, key) = (replica.address, cluster.issue("office", json!({})).await);
    let (machine, peer) = joined(&cluster, &replica, &key).await;
    let (name, namespace) = (peer.name_any(), &cluster.namespace);
    shadow(&cluster, &attacker, &replica, &peer).await;
    let ambiguous = machine.heartbeat(address, &name).await;
    assert!(!is_connected(&attacker, &name).await, "the heartbeat went to the shadow: {ambiguous:?}");
    assert_eq!(ambiguous.status, 409, "{ambiguous:?}");
    let said = ambiguous.json()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("/v1/namespaces/{namespace}/peers/{name}"), "{said}");
    assert_eq!(machine.leave(address, &name).await.status, 409);
    assert!(!is_gone(&cluster, &name).await && !is_gone(&attacker, &name).await);

    // With the namespace, each call is about the peer's own Peer.
    let path = format!("/v1/namespaces/{namespace}/peers/{name}");
    assert_eq!(machine.call(address, Method::POST, &format!("{path}/heartbeat")).await.status, 204);
    assert!(is_connected(&cluster, &name).await && !is_connected(&attacker, &name).await);
    let thief = Machine::new();
    assert_eq!(thief.call(address, Method::POST, &format!("{path}/heartbeat")).await.status, 404);
    assert_eq!(thief.call(address, Method::DELETE, &path).await.status, 404);
    assert_eq!(machine.call(address, Method::DELETE, &path).await.status, 204);
    assert!(is_gone(&cluster, &name).await && !is_gone(&attacker, &name).await);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_asks_again_is_never_answered_from_a_shadow() {
    let (cluster, attacker, replica) = tenants("shadow-asks").await;
    let (address, key) = (replica.address, cluster.issue("office", json!({})).await);
    let (machine, peer) = joined(&cluster, &replica, &key).await;
    shadow(&cluster, &attacker, &replica, &peer).await;

    // The key is revoked. Its namespace is known all the same.
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    eventually("the revocation to be known", || async {
        (Machine::new().enroll(address, &key).await.status == 403).then_some(())
    })
    .await;
    let answer = machine.enroll(address, &key).await;
    assert_eq!((answer.status, &answer.json()["namespace"]), (200, &json!(cluster.namespace)));
    // The Peer is deleted, and only the shadow is left.
    cluster.peers().delete(&peer.name_any(), &DeleteParams::default()).await.unwrap();
    eventually("the Peer to be released and gone", || async {
        cluster.peers().get_opt(&peer.name_any()).await.unwrap().is_none().then_some(())
    })
    .await;
    shown(&cluster, &replica, &peer.spec).await;
    let refused = machine.enroll(address, &key).await;
    assert_eq!(refused.status, 403, "{refused:?}");

    // A key that is deleted has no namespace. A machine with one Peer is known by it, one with several is not.
    let second = cluster.issue("second", json!({})).await;
    known_to(std::slice::from_ref(&replica), &second).await;
    let (machine, peer) = joined(&cluster, &replica, &second).await;
    cluster.keys().delete("second", &DeleteParams::default()).await.unwrap();
    eventually("the deletion to be known", || async {
        (Machine::new().enroll(address, &second).await.status == 403).then_some(())
    })
    .await;
    assert_eq!(machine.enroll(address, &second).await.name(), peer.name_any());
    shadow(&cluster, &attacker, &replica, &peer).await;
    assert_eq!(machine.enroll(address, &second).await.status, 403);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_names_its_namespace() {
    let (cluster, attacker, replica) = tenants("shadow-agent").await;
    let folder = tempfile::tempdir().unwrap();
    let key = cluster.issue("office", json!({})).await;
    let server = format!("http://{}", replica.address);
    let mut agent = Process::start(folder.path(), &server, &key, "state", &["--leave", "always"]);
    let name = eventually("a connected peer", || async {
        let name = cluster.peers_of("office").await.pop()?;
        is_connected(&cluster, &name).await.then_some(name)
    })
    .await;
    shadow(&cluster, &attacker, &replica, &cluster.peers().get(&name).await.unwrap()).await;
    agent.terminate();
    assert!(agent.end().await.success(), "{}", agent.log());
    assert!(is_gone(&cluster, &name).await && !is_gone(&attacker, &name).await, "{}", agent.log());
    replica.stop().await;
}
