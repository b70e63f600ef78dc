//! What the controller does about peers, and about enrollments that no replica completes. The tests play the replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use setupkey_operator::api::{Peer, State, Timestamp};

use crate::{
    faults::{Fault, Faults, Watches},
    harness::{
        Cluster, QUIET, Setup, TestClock, at_rest_for, entry, eventually, exactly, is_held, no_write_for, quiet_for,
    },
};

/// Short, so that the tests are fast.
const HANDOVER: Duration = Duration::from_millis(800);

fn impatient() -> Setup {
    Setup { handover: HANDOVER, ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_is_rolled_forward_never_refunded() {
    let cluster = Cluster::for_test("roll_forward").await;
    let operator = cluster.start_operator_with(impatient()).await;
    cluster.apply("office", "usageLimit: 2, autoGroups: [a, b], ephemeral: true");
    cluster.ready("office").await;
    cluster.commit("office", &[entry(1), entry(2)]).await;
    let status = cluster.status_when("office", "cleared", |status| status.pending.is_empty()).await;
    assert_eq!(status.used_times, 2);
    let status = cluster.status_when("office", "overused", |status| status.state == Some(State::Overused)).await;
    assert_eq!((status.used_times, status.valid), (2, Some(false)));
    cluster.event("office", "Overused").await;

    let key = cluster.keys().get("office").await.unwrap();
    for number in [1, 2] {
        let expected = Peer::from_entry(&key, &entry(number));
        let peer = eventually("the Peer to be released", || async {
            cluster.peers().get(&expected.name_any()).await.ok().filter(|peer| !is_held(peer))
        })
        .await;
        assert_eq!(peer.spec, expected.spec);
        assert_eq!(peer.labels(), expected.labels());
        assert_eq!(peer.owner_references(), []);
    }
    let metrics = operator.metrics.expose().unwrap();
    assert!(metrics.contains("setupkey_enrollments_rolled_forward_total 2"), "{metrics}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_left_to_its_replica_for_a_while() {
    let cluster = Cluster::for_test("not_orphaned").await;
    let key = cluster.issued("").await;
    let operator = cluster.start_operator().await;
    cluster.commit("office", &[entry(1), entry(2)]).await;
    cluster.create_peer(&key, &entry(1)).await;
    quiet_for(&operator.requests, QUIET).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_peer_is_not_resurrected() {
    let cluster = Cluster::for_test("no_resurrection").await;
    let key = cluster.issued("").await;
    // The replica has created the Peer and died before it could clear the entry. Then a user deletes the Peer.
    cluster.commit("office", &[entry(1)]).await;
    let name = cluster.create_peer(&key, &entry(1)).await.name_any();
    cluster.peers().delete(&name, &DeleteParams::default()).await.unwrap();

    let operator = cluster.start_operator_with(impatient()).await;
    cluster.peer_is_gone(&name).await;
    operator.requests.clear();
    let status = cluster.keys().get("office").await.unwrap().status.unwrap();
    assert_eq!((status.used_times, status.pending), (1, Vec::new()), "released before its entry was cleared");
    no_write_for(&operator.requests, QUIET).await;
    assert_eq!(cluster.peers().get_opt(&name).await.unwrap(), None, "the Peer was created again");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_only_a_cache_still_shows_is_not_rolled_forward() {
    let cluster = Cluster::for_test("stale_pending").await;
    cluster.issued("").await;
    let operator = cluster.start_operator_with(impatient()).await;
    cluster.commit("office", &[entry(1)]).await;
    eventually("the entry to be seen", || async {
        let metrics = operator.metrics.expose().unwrap();
        let used = format!(r#"setupkey_used_times{{namespace="{}",name="office"}} 1"#, cluster.namespace);
        metrics.contains(&used).then_some(())
    })
    .await;
    // The replica creates the Peer, clears the entry and releases the Peer, and the machine leaves. The controller sees
    // none of this.
    operator.faults.set_key_watch(Watches::Held);
    cluster.commit("office", &[]).await;
    no_write_for(&operator.requests, HANDOVER * 3).await;
    assert_eq!(cluster.peers().list(&Default::default()).await.unwrap().items, []);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_nobody_frees_is_let_go() {
    let cluster = Cluster::for_test("let_go").await;
    let key = cluster.issued("").await;
    let operator = cluster.start_operator().await;
    // A Peer that is being deleted is released at once, because its entry is cleared.
    let name = cluster.create_peer(&key, &entry(1)).await.name_any();
    cluster.peers().delete(&name, &DeleteParams::default()).await.unwrap();
    cluster.peer_is_gone(&name).await;
    operator.stop().await;

    // Any other Peer is released after a while, and foreign finalizers stay.
    let operator = cluster.start_operator_with(impatient()).await;
    let mut peer = Peer::from_entry(&key, &entry(2));
    peer.finalizers_mut().push("example.com/theirs".to_owned());
    let name = cluster.unguarded_peers().create(&PostParams::default(), &peer).await.unwrap().name_any();
    let peer = eventually("the Peer to be released", || async {
        cluster.peers().get(&name).await.ok().filter(|peer| !is_held(peer))
    })
    .await;
    assert_eq!(peer.finalizers(), ["example.com/theirs"]);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_key_leaves_its_peers() {
    let cluster = Cluster::for_test("key_deleted").await;
    let key = cluster.issued("ephemeral: false").await;
    let free = cluster.create_released_peer(&key, &entry(1)).await;
    let held = cluster.create_peer(&key, &entry(2)).await.name_any();
    let leaving = cluster.create_peer(&key, &entry(3)).await.name_any();
    cluster.kubectl_ok(&["delete", "sk", "office"], "");
    cluster.peers().delete(&leaving, &DeleteParams::default()).await.unwrap();
    eventually("the garbage collector to delete the Secret", || async {
        cluster.secrets().get_opt("office").await.ok()?.is_none().then_some(())
    })
    .await;

    // Without the key, the controller cannot tell whether a replica still works on these Peers. So it does not release
    // them at once.
    let operator = cluster.start_operator_with(Setup { handover: Duration::from_secs(4), ..Setup::default() }).await;
    no_write_for(&operator.requests, QUIET).await;
    assert!(is_held(&cluster.peers().get(&held).await.unwrap()));
    assert!(is_held(&cluster.peers().get(&leaving).await.expect("the Peer, still")));
    cluster.peer_is_gone(&leaving).await;
    eventually("the Peer to be released", || async {
        cluster.peers().get(&held).await.ok().filter(|peer| !is_held(peer))
    })
    .await;
    let after = cluster.peers().get(&free.name_any()).await.unwrap();
    assert_eq!(after.resource_version(), free.resource_version());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_status_counts_its_peers() {
    let cluster = Cluster::for_test("lost_ledger").await;
    let key = cluster.issued("usageLimit: 3").await;
    // The Peer of the second entry was deleted. The number of the third one shows that there were three.
    for number in [1, 3] {
        cluster.create_released_peer(&key, &entry(number)).await;
    }
    cluster.apply("other", "");
    cluster.lose_status("office").await;

    // While the uses cannot be counted, the key admits no machine.
    let (refuses, refused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::default()));
    let faults = Faults::by({
        let (refuses, refused) = (Arc::clone(&refuses), Arc::clone(&refused));
        move |sent, _| {
            let counts = sent.path.ends_with("/peers") && sent.query.contains("labelSelector");
            (counts && refuses.load(Ordering::SeqCst)).then(|| {
                refused.fetch_add(1, Ordering::SeqCst);
                Fault::Answer(500)
            })
        }
    });
    let operator = cluster.start_operator_among(faults).await;
    cluster.ready("other").await;
    eventually("three counts to be refused", || async { (refused.load(Ordering::SeqCst) >= 3).then_some(()) }).await;
    let status = cluster.keys().get("office").await.unwrap().status.unwrap_or_default();
    assert_eq!((status.digest, status.state), (None, None), "the key admits peers before they are counted");
    refuses.store(false, Ordering::SeqCst);
    let status = cluster.ready("office").await;
    assert_eq!((status.used_times, status.state), (3, Some(State::Overused)));
    assert_eq!(status.id, key.status.unwrap().id);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_peer_that_is_not_seen_is_removed_and_others_are_not() {
    let cluster = Cluster::for_test("ephemeral").await;
    let mut key = cluster.issued("").await;
    let stays = cluster.create_released_peer(&key, &entry(1)).await.name_any();
    let quiet = cluster.create_released_peer(&key, &entry(2)).await;
    key.spec.ephemeral = true;
    let never_seen = cluster.create_released_peer(&key, &entry(3)).await.name_any();
    let seen_once = cluster.create_released_peer(&key, &entry(4)).await.name_any();
    let there = cluster.create_released_peer(&key, &entry(5)).await.name_any();
    let clock = TestClock::default();
    let operator = cluster.start_operator_at(clock.clone()).await;
    let seen = |minutes: i64| {
        let at = Timestamp::from(chrono::Utc::now() + chrono::Duration::minutes(minutes));
        json!({ "connected": true, "lastSeen": at })
    };
    cluster.see(&stays, seen(0)).await;
    cluster.see(&seen_once, seen(5)).await;
    cluster.see(&there, seen(14)).await;
    // Nothing is due yet.
    no_write_for(&operator.requests, QUIET).await;

    // The Peer goes 10 minutes and a third after it joined, and no sooner.
    clock.step(chrono::Duration::minutes(13));
    no_write_for(&operator.requests, QUIET).await;
    clock.step(chrono::Duration::minutes(1));
    cluster.peer_is_gone(&never_seen).await;
    clock.step(chrono::Duration::minutes(5));
    cluster.peer_is_gone(&seen_once).await;
    let peer = eventually("the quiet peer to read as gone", || async {
        let peer = cluster.peers().get(&stays).await.ok()?;
        (!peer.status.as_ref()?.connected).then_some(peer)
    })
    .await;
    assert!(peer.status.unwrap().last_seen.is_some());
    cluster.peers().get(&there).await.expect("the peer that was seen");

    // Much later, only the Peers that must stay are left, and nothing is written any more.
    clock.step(chrono::Duration::days(30));
    cluster.peer_is_gone(&there).await;
    at_rest_for(&operator.requests, QUIET).await;
    let after = cluster.peers().get(&quiet.name_any()).await.unwrap();
    assert_eq!(after.resource_version(), quiet.resource_version(), "a peer that was never seen was written");
    cluster.peers().get(&stays).await.expect("the peer that is not ephemeral");
    let metrics = operator.metrics.expose().unwrap();
    assert!(metrics.contains("setupkey_peers_removed_total 3"), "{metrics}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_seen_again_just_before_it_is_removed_stays() {
    let cluster = Cluster::for_test("seen_again").await;
    let mut key = cluster.issued("").await;
    key.spec.ephemeral = true;
    let name = cluster.create_released_peer(&key, &entry(1)).await.name_any();
    let clock = TestClock::reading(chrono::Utc::now() + chrono::Duration::hours(1));
    let faults = Faults::by(|sent, _| (sent.method == http::Method::DELETE).then_some(Fault::Late));
    let operator = cluster.start_operator_with(Setup { clock, faults, ..Setup::default() }).await;
    operator.faults.late().await;
    let now = Timestamp::from(chrono::Utc::now() + chrono::Duration::hours(1));
    cluster.see(&name, json!({ "connected": true, "lastSeen": now })).await;
    operator.faults.let_late_ones_go();
    exactly(0, QUIET, || operator.requests.applied()).await;
    cluster.peers().get(&name).await.expect("the peer that was seen");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settled_peers_cost_no_request() {
    let cluster = Cluster::for_test("settled_peers").await;
    let mut key = cluster.issued("").await;
    for number in 1..=20 {
        key.spec.ephemeral = number % 2 == 0;
        let name = cluster.create_released_peer(&key, &entry(number)).await.name_any();
        cluster
            .see(&name, json!({ "connected": number % 3 == 0, "lastSeen": Timestamp::from(chrono::Utc::now()) }))
            .await;
    }
    // At first, and across a restart.
    for _ in 0..2 {
        let operator = cluster.start_operator_with(impatient()).await;
        quiet_for(&operator.requests, QUIET).await;
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unobserved_signs_of_peers_are_made_up_for() {
    let cluster = Cluster::for_test("unobserved_peers").await;
    let key = cluster.issued("").await;
    let mut names = Vec::new();
    for number in 1..=20 {
        names.push(cluster.create_released_peer(&key, &entry(number)).await.name_any());
    }
    let setup = Setup { peer_lifetime: Duration::from_secs(3), ..Setup::default() };
    let operator = cluster.start_operator_with(setup).await;
    operator.faults.set_key_watch(Watches::Held);
    for name in &names {
        cluster.see(name, json!({ "connected": true, "lastSeen": Timestamp::from(chrono::Utc::now()) })).await;
    }
    // The watch breaks, and the new one lists the present objects.
    operator.faults.set_key_watch(Watches::Lost);
    tokio::time::sleep(Duration::from_millis(500)).await;
    operator.faults.set_key_watch(Watches::Flow);
    for name in &names {
        eventually(&format!("Peer {name} to read as gone"), || async {
            let peer = cluster.peers().get(name).await.ok()?;
            (!peer.status.as_ref()?.connected).then_some(())
        })
        .await;
    }
    operator.stop().await;
}
