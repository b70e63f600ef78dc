//! Which machines are admitted, what is counted, and how many requests the API server gets.

use futures::future::join_all;
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use super::{Machine, Replica, Setup, known_to, post};
use crate::harness::{Cluster, TestClock, any_key, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_with_the_key_that_the_controller_has_issued() {
    let cluster = Cluster::for_test("joins").await;
    let (operator, replica) = (cluster.start_operator().await, Replica::start(&cluster).await);
    cluster.apply("office", "usageLimit: 3, autoGroups: [office, printers], allowExtraDnsLabels: true");
    cluster.ready("office").await;
    let key = cluster.value("office", "setup-key").await;
    let machine = Machine::new();
    let mut body = machine.body(&key);
    body["extraDnsLabels"] = json!(["ada"]);
    body["hostname"] = json!("laptop.ada");
    let answer = eventually("the key to be known", || async {
        post(replica.address, "/v1/enroll", body.to_string()).await.filter(|answer| answer.status == 200)
    })
    .await;
    let peer = cluster.peers().get(&answer.name()).await.unwrap();
    let said = json!({
        "name": peer.name_any(), "namespace": cluster.namespace, "groups": ["office", "printers"], "ephemeral": false,
        "extraDnsLabels": ["ada"],
    });
    assert_eq!(answer.json(), said);
    assert_eq!(
        (peer.spec.hostname.as_str(), peer.spec.public_key.as_str()),
        ("laptop.ada", machine.public_key.as_str())
    );
    assert_eq!(peer.spec.setup_key_ref.name, "office");
    assert!(peer.labels().contains_key("group.setupkey.dev/printers"), "{:?}", peer.labels());
    assert!(peer.owner_references().is_empty());
    let status = cluster.status_when("office", "used once", |status| status.used_times == 1).await;
    assert!(status.last_used.is_some());
    cluster.settled("office").await;
    eventually("the Peer to be released", || async {
        cluster.peers().get(&peer.name_any()).await.unwrap().finalizers().is_empty().then_some(())
    })
    .await;
    replica.stop().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotent_retry() {
    let cluster = Cluster::for_test("idempotent").await;
    let replicas = Replica::three(&cluster).await;
    let key = cluster.issue("office", json!({ "usageLimit": 1 })).await;
    known_to(&replicas, &key).await;
    let machine = Machine::new();
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    let tries = (0..100).map(|number| machine.enroll(addresses[number % 3], &key));
    let answers = join_all(tries).await;
    for answer in &answers {
        assert_eq!(answer.as_seen(), answers[0].as_seen());
    }
    assert_eq!(answers[0].status, 200);
    assert_eq!((cluster.used("office").await, cluster.peers_of("office").await), (1, vec![answers[0].name()]));
    cluster.settled("office").await;
    assert_eq!(machine.enroll(addresses[0], &key).await.as_seen(), answers[0].as_seen());
    join_all(replicas.into_iter().map(Replica::stop)).await;
}

/// Unknown, expired, revoked, overused, deleted: the same answer, without any request to the API server.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_byte_identical() {
    let cluster = Cluster::for_test("refusals").await;
    let clock = TestClock::default();
    let replica = Replica::start_with(&cluster, Setup { clock: clock.clone(), ..Setup::default() }).await;
    let mut keys = vec![("unknown", any_key()), ("no key at all", "x".to_owned())];
    for (name, spec) in [
        ("expired", json!({})),
        ("revoked", json!({})),
        ("overused", json!({ "usageLimit": 1 })),
        ("deleted", json!({})),
        ("replaced", json!({})),
    ] {
        let value = match name {
            "expired" => {
                let soon = chrono::Utc::now() + chrono::Duration::hours(1);
                cluster.issue_until(name, spec, soon).await
            }
            _ => cluster.issue(name, spec).await,
        };
        keys.push((name, value));
    }
    for (_, value) in &keys[2..] {
        known_to(std::slice::from_ref(&replica), value).await;
    }
    clock.step(chrono::Duration::hours(2));
    cluster.patch_spec("revoked", json!({ "revoked": true })).await;
    cluster.patch_status("overused", json!({ "usedTimes": 1 })).await;
    cluster.patch_status("replaced", json!({ "digest": crate::harness::digest("another") })).await;
    cluster.keys().delete("deleted", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    for (name, value) in &keys {
        let machine = Machine::new();
        let refused = || async {
            let answer = machine.enroll(replica.address, value).await;
            (answer.status == 403).then_some(answer)
        };
        let answer = eventually(&format!("the {name} key to be refused"), refused).await;
        let mut with_labels = machine.body(value);
        with_labels["extraDnsLabels"] = json!(["ada"]);
        let with_labels = post(replica.address, "/v1/enroll", with_labels.to_string()).await.unwrap();
        seen.extend([(name, answer.as_seen()), (name, with_labels.as_seen())]);
    }
    for (name, answer) in &seen {
        assert_eq!(*answer, seen[0].1, "{name}");
    }
    // Once the state of each key is cached, a refusal costs no request.
    replica.requests.clear();
    let (machine, address) = (Machine::new(), replica.address);
    let answers = join_all(keys.iter().cycle().take(200).map(|(_, value)| machine.enroll(address, value))).await;
    assert!(answers.iter().all(|answer| answer.status == 403), "{answers:?}");
    assert_eq!(replica.requests.on_objects(), Vec::<String>::new());
    assert_eq!(cluster.peers().list(&Default::default()).await.unwrap().items.len(), 0);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_stays_one_whatever_becomes_of_its_key() {
    let cluster = Cluster::for_test("stays").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let (machine, address) = (Machine::new(), replica.address);
    let first = machine.enroll(address, &key).await;
    cluster.settled("office").await;
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    eventually("the key to be refused", || async {
        (Machine::new().enroll(address, &key).await.status == 403).then_some(())
    })
    .await;
    assert_eq!(machine.enroll(address, &key).await.as_seen(), first.as_seen());
    cluster.keys().delete("office", &DeleteParams::default()).await.unwrap();
    assert_eq!(machine.enroll(address, &key).await.as_seen(), first.as_seen());
    assert_eq!(machine.enroll(address, &any_key()).await.as_seen(), first.as_seen());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_token_is_a_conflict_for_a_holder_of_a_key_and_a_refusal_for_others() {
    let cluster = Cluster::for_test("taken").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let machine = Machine::new();
    assert_eq!(machine.enroll(replica.address, &key).await.status, 200);
    let thief = Machine { token: Machine::new().token, ..machine };
    assert_eq!(thief.enroll(replica.address, &key).await.status, 409);
    let (taken, free) =
        (thief.enroll(replica.address, &any_key()).await, Machine::new().enroll(replica.address, &any_key()).await);
    assert_eq!(taken.status, 403);
    assert_eq!(taken.as_seen(), free.as_seen());
    assert_eq!(cluster.used("office").await, 1);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_removed_joins_again_as_a_new_one() {
    let cluster = Cluster::for_test("again").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let machine = Machine::new();
    let name = machine.enroll(replica.address, &key).await.name();
    let before = cluster.peers().get(&name).await.unwrap().uid();
    cluster.peers().delete(&name, &DeleteParams::default()).await.unwrap();
    // The first answers may still be about the Peer that is being deleted.
    eventually("another Peer", || async {
        assert_eq!(machine.insist(|| replica.address, &key).await.name(), name);
        let peer = cluster.peers().get_opt(&name).await.unwrap()?;
        (peer.uid() != before).then_some(())
    })
    .await;
    assert_eq!(cluster.used("office").await, 2);
    replica.stop().await;
}

/// Machines that ask at the same time share swaps. There is room for 200 entries at a time. Waiting machines are not
/// looked up again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_is_written_far_less_often_than_it_is_used() {
    let cluster = Cluster::for_test("hot").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let machines: Vec<_> = (0..600).map(|_| Machine::new()).collect();
    let answers = join_all(machines.iter().map(|machine| machine.insist(|| replica.address, &key))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    cluster.settled("office").await;
    assert_eq!((cluster.used("office").await, cluster.peers_of("office").await.len()), (600, 600));
    let swaps = replica.requests.swaps("office");
    assert!(swaps > 0 && swaps < 200, "{swaps} swaps for 600 machines");
    let look_ups = replica.requests.peer_look_ups();
    assert!(look_ups < 900, "{look_ups} look-ups for 600 machines");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_written_only_when_it_is_news() {
    let cluster = Cluster::for_test("heartbeat").await;
    let clock = TestClock::default();
    let replica = Replica::start_with(&cluster, Setup { clock: clock.clone(), ..Setup::default() }).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let (machine, address) = (Machine::new(), replica.address);
    let name = machine.enroll(address, &key).await.name();
    eventually("the peer to be known", || async {
        (machine.heartbeat(address, &name).await.status == 204).then_some(())
    })
    .await;
    let status = || async { cluster.peers().get(&name).await.unwrap().status.unwrap_or_default() };
    let first = status().await;
    assert!(first.connected && first.last_seen.is_some());
    replica.requests.clear();
    let fifty = async || {
        for answer in join_all((0..50).map(|_| machine.heartbeat(address, &name))).await {
            assert_eq!(answer.status, 204);
        }
    };
    fifty().await;
    assert_eq!(replica.requests.heartbeats(&name), 0);
    // After a third of the lifetime, only one of many heartbeats is written.
    clock.step(chrono::Duration::seconds(201));
    fifty().await;
    assert_eq!(replica.requests.heartbeats(&name), 1);
    assert!(status().await.last_seen > first.last_seen);
    // Another token and an unknown peer get the same answer.
    let stranger = Machine::new();
    let wrong = stranger.heartbeat(address, &name).await;
    let unknown = machine.heartbeat(address, "peer-00000000000000000000").await;
    assert_eq!(wrong.status, 404);
    assert_eq!(wrong.as_seen(), unknown.as_seen());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_leaves_with_its_token_and_with_no_other() {
    let cluster = Cluster::for_test("leaves").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let (machine, address) = (Machine::new(), replica.address);
    let name = machine.enroll(address, &key).await.name();
    assert_eq!(Machine::new().leave(address, &name).await.status, 404);
    assert!(cluster.peers().get_opt(&name).await.unwrap().is_some());
    eventually("the peer to be known", || async { (machine.leave(address, &name).await.status == 204).then_some(()) })
        .await;
    eventually("the Peer to be gone", || async {
        cluster.peers().get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(cluster.used("office").await, 1);
    replica.stop().await;
}

/// On SIGTERM, the replica completes everything that it has committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_finishes_what_it_committed() {
    let cluster = Cluster::for_test("ends").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let (machines, address): (Vec<_>, _) = ((0..50).map(|_| Machine::new()).collect(), replica.address);
    let answers = join_all(machines.iter().map(|machine| machine.enroll(address, &key))).await;
    replica.stop().await;
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(admitted > 0, "nothing was committed");
    let key = cluster.keys().get("office").await.unwrap().status.unwrap();
    assert_eq!((key.pending.len(), key.used_times), (0, i64::try_from(admitted).unwrap()));
    let peers = cluster.peers_of("office").await;
    assert_eq!(peers.len(), admitted);
    for name in peers {
        assert!(cluster.peers().get(&name).await.unwrap().finalizers().is_empty(), "{name} is held");
    }
}
