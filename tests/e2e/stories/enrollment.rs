//! Pods join with the key of a mounted Secret, through the Service, over HTTPS.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{Duration, Utc};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{ResourceExt, api::DeleteParams};
use setupkey_operator::api::{Peer, SetupKey, State};

use crate::{
    cluster::{Cluster, eventually},
    node,
    release::Release,
};

pub async fn pods_enroll_by_the_name_of_the_service_and_are_peers(cluster: Arc<Cluster>) {
    let place = cluster.namespace("enroll").await;
    place.publish_authority().await;
    place.apply_key("office", "autoGroups: [office, printers]");
    // The second pod asks before every replica knows the first peer.
    let (first, second) = tokio::join!(place.enrolled("first", "office"), place.enrolled("second", "office"));

    assert_ne!(first.spec.public_key, second.spec.public_key);
    for peer in [&first, &second] {
        let groups: BTreeSet<_> = peer.spec.groups.iter().map(String::as_str).collect();
        assert_eq!(groups, BTreeSet::from(["office", "printers"]));
        assert!(!peer.spec.ephemeral);
    }
    let of_printers = ["get", "peers", "--selector", "group.setupkey.dev/printers", "-o", "name"];
    assert_eq!(place.kubectl(&of_printers, "").lines().count(), 2);
    assert_eq!(place.used("office").await, 2);

    // A peer that is not ephemeral stays when its pod goes.
    place.delete_pod("first").await;
    assert!(!place.has_left(&first).await);
    place.delete_pod("second").await;
}

pub async fn the_third_pod_of_a_key_for_two_ends_and_says_why(cluster: Arc<Cluster>) {
    let place = cluster.namespace("limit").await;
    place.publish_authority().await;
    place.apply_key("two", "usageLimit: 2");
    tokio::join!(place.enrolled("first", "two"), place.enrolled("second", "two"));
    place.in_state("two", State::Overused).await;

    place.enroll("third", "two").await;
    assert_eq!(place.exit_code("third").await, 3);
    let log = place.kubectl(&["logs", "third"], "");
    assert!(log.contains("not admitted: this setup key does not admit this machine"), "{log}");
    assert_eq!((place.used("two").await, place.peers().await.len()), (2, 2));
    tokio::join!(place.delete_pod("first"), place.delete_pod("second"));
}

pub async fn an_ephemeral_peer_leaves_with_its_pod(cluster: Arc<Cluster>) {
    let place = cluster.namespace("leaves").await;
    place.publish_authority().await;
    place.apply_key("passing", "ephemeral: true");
    let peer = place.enrolled("passing", "passing").await;
    place.delete_pod("passing").await;
    // The program leaves before it ends, so there is nothing to wait for. The controller would need one lifetime more.
    assert!(place.has_left(&peer).await, "the peer is there after its pod");
}

/// The pods are killed as by the kernel when memory runs out, so they cannot leave.
pub async fn a_killed_ephemeral_peer_is_removed_and_another_is_not_connected(cluster: Arc<Cluster>) {
    let place = cluster.namespace("killed").await;
    place.publish_authority().await;
    place.apply_key("passing", "ephemeral: true");
    place.apply_key("lasting", "");
    let (passing, lasting) = tokio::join!(place.enrolled("passing", "passing"), place.enrolled("lasting", "lasting"));
    for pod in ["passing", "lasting"] {
        node::kill_containers_of(&place.api::<Pod>().get(pod).await.unwrap(), "setupkey-operator");
        assert_eq!(place.exit_code(pod).await, 137);
    }
    let peers = place.api::<Peer>();
    let last_seen = peers.get(&passing.name_any()).await.unwrap().status.unwrap().last_seen.unwrap();

    eventually("the ephemeral peer to be removed", || async {
        peers.get_opt(&passing.name_any()).await.ok()?.is_none().then_some(())
    })
    .await;
    assert!(Utc::now() >= last_seen.moment() + Release::PEER_LIFETIME, "the Peer was removed within its lifetime");
    eventually("the other to be not connected", || async {
        let peer = peers.get(&lasting.name_any()).await.ok()?;
        (!peer.status?.connected && peer.metadata.uid == lasting.metadata.uid).then_some(())
    })
    .await;
}

pub async fn a_deleted_key_leaves_its_peers_and_their_pods_alone(cluster: Arc<Cluster>) {
    let place = cluster.namespace("keyless").await;
    place.publish_authority().await;
    place.apply_key("office", "ephemeral: true");
    let peer = place.enrolled("member", "office").await;
    let life = place.life("member").await;

    place.api::<SetupKey>().delete("office", &DeleteParams::default()).await.unwrap();
    eventually("the Secret to be collected", || async {
        place.api::<Secret>().get_opt("office").await.ok()?.is_none().then_some(())
    })
    .await;
    let deleted = Utc::now();
    let seen = eventually("a heartbeat after the end of the key", || async {
        let peer = place.api::<Peer>().get(&peer.name_any()).await.ok()?;
        // The time is in whole seconds.
        let seen = peer.status.as_ref()?.last_seen?.moment() > deleted + Duration::seconds(1);
        seen.then_some(peer)
    })
    .await;
    assert_eq!(seen.spec, peer.spec);
    assert_eq!(seen.uid(), peer.uid());
    assert_eq!(place.life("member").await, life);
    place.delete_pod("member").await;
}

/// Half of the pods may be admitted before the kill. The others ask when it is gone, but may still be routed to it.
pub async fn a_replica_is_killed_while_pods_enroll_and_each_use_is_a_peer(cluster: Arc<Cluster>) {
    const PODS: i64 = 6;
    let place = cluster.namespace("crowd").await;
    place.publish_authority().await;
    place.apply_key("crowd", "usageLimit: 6");
    let release = Release::of(&cluster);
    release.settled().await;
    let replica = release.pods(Release::ENROLLMENT).await.swap_remove(0);
    let names: Vec<_> = (0..PODS).map(|number| format!("member-{number}")).collect();
    let (early, late) = names.split_at(names.len() / 2);
    for name in early {
        place.enroll(name, "crowd").await;
    }
    eventually("the first use", || async { (place.used("crowd").await > 0).then_some(()) }).await;
    if cluster.is_ours() {
        node::kill_containers_of(&replica, "setupkey-operator");
    }
    release.api::<Pod>().delete(&replica.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();

    for name in late {
        place.enroll(name, "crowd").await;
    }
    for name in &names {
        place.peer_of(name).await;
    }
    let status = place.status_when("crowd", "cleared", |status| status.pending.is_empty()).await;
    let peers = place.peers().await;
    assert_eq!((status.used_times, peers.len()), (PODS, names.len()));
    futures::future::join_all(names.iter().map(|name| place.delete_pod(name))).await;
    release.settled().await;
}
