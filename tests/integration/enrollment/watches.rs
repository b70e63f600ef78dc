//! What a replica may conclude from its caches: its watches may lag, and an answer may be lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{Machine, Replica, Setup, known_to};
use crate::{
    faults::{Fault, Faults, Watches},
    harness::{self, Cluster, eventually},
};

async fn start_among(cluster: &Cluster, faults: &Faults) -> Replica {
    Replica::start_with(cluster, Setup { faults: faults.clone(), ..Setup::default() }).await
}

/// A machine joins through a replica with all watches, until nothing is pending any more.
async fn join(cluster: &Cluster, key: &str) -> (Machine, String) {
    let replica = Replica::start(cluster).await;
    known_to(std::slice::from_ref(&replica), key).await;
    let machine = Machine::new();
    let name = machine.enroll(replica.address, key).await.name();
    cluster.settled("office").await;
    replica.stop().await;
    (machine, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_answer_is_lost_counts_once() {
    let cluster = Cluster::for_test("lost_answer").await;
    let mut first = true;
    let faults = Faults::by(move |sent, number| {
        let swap = number.is_some() && sent.path.ends_with("/setupkeys/office/status");
        (swap && std::mem::replace(&mut first, false)).then_some(Fault::LoseReply)
    });
    let replica = start_among(&cluster, &faults).await;
    let key = cluster.issue("office", json!({ "usageLimit": 5 })).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let machine = Machine::new();
    let answer = tokio::spawn({
        let (machine, key, address) = (machine.clone(), key.clone(), replica.address);
        async move { machine.enroll(address, &key).await }
    });
    // The replica does not know that the entry is its own, so it waits until the controller completes the entry.
    eventually("the use to be counted", || async { (cluster.used("office").await == 1).then_some(()) }).await;
    let setup = harness::Setup { handover: Duration::from_secs(1), ..harness::Setup::default() };
    let operator = cluster.start_operator_with(setup).await;
    let name = answer.await.unwrap().name();
    assert_eq!((cluster.peers_of("office").await, cluster.used("office").await), (vec![name.clone()], 1));
    assert_eq!(machine.enroll(replica.address, &key).await.name(), name);
    cluster.settled("office").await;
    assert_eq!(cluster.used("office").await, 1);
    operator.stop().await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_counted_once_where_the_watch_of_peers_is_behind() {
    let cluster = Cluster::for_test("peers_behind").await;
    let faults = Faults::default();
    let replica = start_among(&cluster, &faults).await;
    let key = cluster.issue("office", json!({ "usageLimit": 5 })).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    faults.set_peer_watch(Watches::Held);
    let (machine, name) = join(&cluster, &key).await;
    assert_eq!(machine.enroll(replica.address, &key).await.name(), name);
    assert_eq!(cluster.used("office").await, 1);
    // The replica had to look this machine up, unlike a new one.
    let so_far = replica.requests.peer_look_ups();
    assert!(so_far > 0);
    Machine::new().enroll(replica.address, &key).await.name();
    assert_eq!((cluster.used("office").await, replica.requests.peer_look_ups()), (2, so_far));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_counted_once_where_versions_of_the_key_were_missed() {
    let cluster = Cluster::for_test("keys_missed").await;
    let held = Arc::new(AtomicBool::default());
    let hold = Arc::clone(&held);
    let faults = Faults::by(move |sent, _| {
        (hold.load(Ordering::SeqCst) && sent.is_list() && sent.path.ends_with("/peers")).then_some(Fault::Late)
    });
    let replica = start_among(&cluster, &faults).await;
    // The key has no limit, because a refused machine would not be looked up either.
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    faults.set_peer_watch(Watches::Held);
    faults.set_key_watch(Watches::Held);
    let (machine, name) = join(&cluster, &key).await;
    // The keys are re-listed, so no watch showed that the machine was pending. The Peers are not re-listed yet.
    held.store(true, Ordering::SeqCst);
    faults.set_key_watch(Watches::Lost);
    faults.late().await;
    assert_eq!(machine.enroll(replica.address, &key).await.name(), name);
    assert_eq!(cluster.used("office").await, 1);
    assert!(replica.requests.peer_look_ups() > 0);
    // Once the Peers are re-listed, no machine needs to be looked up.
    held.store(false, Ordering::SeqCst);
    faults.set_peer_watch(Watches::Flow);
    faults.let_late_ones_go();
    eventually("a new machine that is not looked up", || async {
        let before = replica.requests.peer_look_ups();
        Machine::new().enroll(replica.address, &key).await.name();
        (replica.requests.peer_look_ups() == before).then_some(())
    })
    .await;
    replica.stop().await;
}
