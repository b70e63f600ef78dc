//! A key is rotated while machines join with it, or is not used for too long.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use serde_json::json;
use setupkey_operator::{
    api::{SetupKeyStatus, State, Timestamp},
    cluster::Clock,
};

use super::{Machine, Replica, Setup, known_to, probe, some_time};
use crate::harness::{Cluster, Operator, TestClock, eventually, says};

/// What causes a rotation.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Request,
    Schedule,
}

/// Three replicas, by one clock with the controller.
struct World {
    cluster: Cluster,
    clock: TestClock,
    replicas: Vec<Replica>,
}

impl World {
    async fn start(test: &str) -> (Self, Operator) {
        let (cluster, clock) = (Cluster::for_test(test).await, TestClock::default());
        let operator = cluster.start_operator_at(clock.clone()).await;
        let setup = || Setup { clock: clock.clone(), ..Setup::default() };
        let replicas = join_all((0..3).map(|_| Replica::start_with(&cluster, setup()))).await;
        (Self { cluster, clock, replicas }, operator)
    }

    /// The controller rotates the key `office`. Returns its status and value.
    async fn rotate(&self, cause: Cause) -> (SetupKeyStatus, String) {
        let before = self.cluster.ready("office").await;
        match cause {
            Cause::Request => {
                // A request must be later than the issue, in whole seconds.
                self.clock.step(chrono::Duration::seconds(1));
                let request = format!("setupkey.dev/rotate-requested-at={}", Timestamp::from(self.clock.now()));
                self.cluster.kubectl_ok(&["annotate", "sk", "office", &request], "");
            }
            Cause::Schedule => self.clock.step(before.rotate_at.unwrap().moment() - self.clock.now()),
        }
        let is_rotated = |status: &SetupKeyStatus| status.revision == before.revision.map(|revision| revision + 1);
        let status = self.cluster.status_when("office", "rotated", is_rotated).await;
        (status, self.cluster.value("office", "setup-key").await)
    }

    /// A machine at each replica presents this key.
    async fn enroll(&self, key: &str) -> Vec<u16> {
        let answer = async |replica: &Replica| Machine::new().enroll(replica.address, key).await.status;
        join_all(self.replicas.iter().map(answer)).await
    }

    async fn stop(self) {
        join_all(self.replicas.into_iter().map(Replica::stop)).await;
    }

    /// Waits until every replica refuses this key.
    async fn refuse(&self, key: &str) {
        for replica in &self.replicas {
            eventually("the key to be refused", || async { (probe(replica, key).await? == 403).then_some(()) }).await;
        }
    }
}

/// Waits until the clock reads later than this second.
async fn wait_until_after(clock: &TestClock, second: Timestamp) {
    while clock.now() <= second.moment() {
        let left = (second.moment() - clock.now()).to_std().unwrap_or_default();
        tokio::time::sleep(left + Duration::from_millis(1)).await;
    }
}

/// The use that each Peer stands for.
async fn uses(cluster: &Cluster) -> BTreeSet<(String, i64)> {
    let peers = cluster.peers().list(&Default::default()).await.unwrap().items;
    peers.into_iter().map(|peer| (peer.spec.setup_key_ref.id, peer.spec.setup_key_ref.number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_overlap_admits_both_then_one() {
    join_all([Cause::Request, Cause::Schedule].map(both_then_one)).await;
}

async fn both_then_one(cause: Cause) {
    let (world, operator) = World::start("overlap").await;
    let cluster = &world.cluster;
    cluster.apply("office", "expiresIn: 48h, rotation: {renewBefore: 24h, overlap: 2h}");
    let first = cluster.ready("office").await;
    let old = cluster.value("office", "setup-key").await;
    known_to(&world.replicas, &old).await;
    assert_eq!(world.enroll(&old).await, [200; 3]);

    let (second, new) = world.rotate(cause).await;
    known_to(&world.replicas, &new).await;
    assert_ne!((&first.id, &old), (&second.id, &new));
    assert_eq!(second.previous[0].id, first.id.clone().unwrap());
    assert_eq!((second.used_times, second.previous[0].used_times), (0, 3), "{cause:?}");
    assert_eq!((world.enroll(&old).await, world.enroll(&new).await), (vec![200; 3], vec![200; 3]));
    let status = cluster.settled("office").await.status.unwrap();
    assert_eq!((status.used_times, status.previous[0].used_times), (3, 6), "{cause:?}");

    // Nothing but the clocks of the replicas ends the replaced key.
    operator.stop().await;
    let end = second.previous[0].admits_until;
    world.clock.step(end.moment() - chrono::Duration::seconds(3) - world.clock.now());
    let before_the_end = world.enroll(&old).await;
    assert!(world.clock.now() < end.moment(), "the machine is too slow for this test");
    assert_eq!(before_the_end, [200; 3]);
    wait_until_after(&world.clock, end).await;
    assert_eq!((world.enroll(&old).await, world.enroll(&new).await), (vec![403; 3], vec![200; 3]), "{cause:?}");

    let operator = cluster.start_operator_at(world.clock.clone()).await;
    cluster.status_when("office", "rid of the replaced key", |status| status.previous.is_empty()).await;
    cluster.event("office", "PreviousKeyEnded").await;
    let status = cluster.settled("office").await.status.unwrap();
    assert_eq!((status.used_times, status.revision, &status.id), (6, Some(2), &second.id));
    assert_eq!((world.enroll(&old).await, world.enroll(&new).await), (vec![403; 3], vec![200; 3]));
    cluster.settled("office").await;
    let of = |id: Option<String>, uses| (1..=uses).map(move |number| (id.clone().unwrap(), number));
    let wanted: BTreeSet<_> = of(first.id, 9).chain(of(second.id, 9)).collect();
    assert_eq!(uses(cluster).await, wanted, "{cause:?}");
    operator.stop().await;
    world.stop().await;
}

/// How long the machines take to come, which is longer than a rotation takes.
const SPREAD: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_cuts_off_no_machine_that_joins_meanwhile() {
    const MACHINES: usize = 90;
    let (world, operator) = World::start("overlap_race").await;
    let cluster = &world.cluster;
    cluster.apply("office", "");
    cluster.ready("office").await;
    let old = cluster.value("office", "setup-key").await;
    known_to(&world.replicas, &old).await;
    let joins = (0..MACHINES).map(async |number| {
        some_time(SPREAD).await;
        Machine::new().insist(|| world.replicas[number % 3].address, &old).await.status
    });
    let (answers, (second, _)) = tokio::join!(join_all(joins), async {
        tokio::time::sleep(SPREAD / 4).await;
        world.rotate(Cause::Request).await
    });
    assert_eq!(answers, [200; MACHINES]);
    let status = cluster.settled("office").await.status.unwrap();
    assert_eq!((status.used_times, status.previous[0].used_times), (0, 90));
    let before = second.previous[0].used_times;
    assert!((1..90).contains(&before), "{before} machines had joined when the key was rotated");
    let of_old = (1..=90).map(|number| (second.previous[0].id.clone(), number));
    assert_eq!(uses(cluster).await, of_old.collect());
    operator.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_overlap_admit_each_up_to_its_own_limit() {
    let (world, operator) = World::start("overlap_limit").await;
    let cluster = &world.cluster;
    cluster.apply("office", "usageLimit: 12");
    cluster.ready("office").await;
    let old = cluster.value("office", "setup-key").await;
    known_to(&world.replicas, &old).await;
    assert_eq!(world.enroll(&old).await, [200; 3]);
    let (second, new) = world.rotate(Cause::Request).await;
    known_to(&world.replicas, &new).await;

    let machines: Vec<_> = (0..60).map(|_| Machine::new()).collect();
    let tries = machines.iter().enumerate().map(|(number, machine)| {
        let (at, key) = (world.replicas[number % 3].address, if number % 2 == 0 { &old } else { &new });
        machine.insist(move || at, key)
    });
    let answers: Vec<_> = join_all(tries).await.into_iter().map(|answer| answer.status).collect();
    let admitted = |parity: usize| answers.iter().skip(parity).step_by(2).filter(|status| **status == 200).count();
    assert_eq!((admitted(0), admitted(1)), (9, 12), "{answers:?}");
    let status = cluster.settled("office").await.status.unwrap();
    assert_eq!((status.used_times, status.previous[0].used_times), (12, 12));
    let of = |id: &str| (1..=12).map(move |number| (id.to_owned(), number)).collect::<Vec<_>>();
    let ids = [second.id.as_deref().unwrap(), &second.previous[0].id];
    assert_eq!(uses(cluster).await, ids.into_iter().flat_map(of).collect());
    // A revocation ends both, and a machine that joined with either stays a peer.
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    for (machine, status) in machines.iter().zip(&answers).step_by(7) {
        assert_eq!(machine.enroll(world.replicas[0].address, &old).await.status, *status);
    }
    operator.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_both_keys_that_overlap_and_an_overlap_of_zero_the_replaced_one() {
    let (world, operator) = World::start("overlap_revoked").await;
    let cluster = &world.cluster;
    cluster.apply("office", "");
    cluster.ready("office").await;
    let old = cluster.value("office", "setup-key").await;
    let (_, new) = world.rotate(Cause::Request).await;
    for value in [&old, &new] {
        known_to(&world.replicas, value).await;
    }
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    for value in [&old, &new] {
        world.refuse(value).await;
    }
    cluster.patch_spec("office", json!({ "revoked": false })).await;
    for value in [&old, &new] {
        known_to(&world.replicas, value).await;
    }
    cluster.patch_spec("office", json!({ "rotation": { "overlap": "0s" } })).await;
    world.refuse(&old).await;
    known_to(&world.replicas, &new).await;
    cluster.status_when("office", "rid of the replaced key", |status| status.previous.is_empty()).await;
    assert_eq!(uses(cluster).await, BTreeSet::new());
    operator.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_keys_are_revoked() {
    let (world, operator) = World::start("unused").await;
    let cluster = &world.cluster;
    cluster.apply("office", "revokeUnusedAfter: 24h");
    let issued = cluster.ready("office").await;
    let key = cluster.value("office", "setup-key").await;
    known_to(&world.replicas, &key).await;
    let shows = async |state: &str| {
        let labels = format!("namespace=\"{}\",name=\"office\",state=\"{state}\"", cluster.namespace);
        eventually(&format!("the metrics to say {state}"), || async {
            operator.metrics.expose().unwrap().contains(&format!("setupkey_state{{{labels}}} 1")).then_some(())
        })
        .await;
    };
    let revoked = async |since: Timestamp| {
        let end = since.plus_seconds(24 * 3600);
        world.clock.step(end.moment() - chrono::Duration::seconds(3) - world.clock.now());
        known_to(&world.replicas, &key).await;
        assert!(world.clock.now() < end.moment(), "the machine is too slow for this test");
        wait_until_after(&world.clock, end).await;
        assert_eq!(world.enroll(&key).await, [403; 3]);
        let status = cluster.status_when("office", "revoked", |status| status.state == Some(State::Revoked)).await;
        assert_eq!((says(&status, "Valid"), says(&status, "Ready")), ("False Unused".into(), "True Reconciled".into()));
        assert_eq!((status.valid, &status.id), (Some(false), &issued.id));
        shows("revoked").await;
    };

    // Counted from its issue.
    revoked(issued.issued_at.unwrap()).await;
    cluster.event("office", "Unused").await;
    // A longer time brings it back, with its value.
    cluster.patch_spec("office", json!({ "revokeUnusedAfter": "72h" })).await;
    known_to(&world.replicas, &key).await;
    cluster.status_when("office", "valid", |status| status.state == Some(State::Valid)).await;
    shows("valid").await;
    assert_eq!(cluster.value("office", "setup-key").await, key);

    // Counted from its last use.
    assert_eq!(world.enroll(&key).await, [200; 3]);
    let used = cluster.settled("office").await.status.unwrap().last_used.unwrap();
    cluster.patch_spec("office", json!({ "revokeUnusedAfter": "24h" })).await;
    revoked(used).await;
    cluster.patch_spec("office", json!({ "revokeUnusedAfter": null })).await;
    known_to(&world.replicas, &key).await;
    cluster.status_when("office", "valid", |status| status.state == Some(State::Valid)).await;
    operator.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_key_is_overused_and_not_unused() {
    let (world, operator) = World::start("unused_spent").await;
    let cluster = &world.cluster;
    cluster.apply("office", "type: one-off, revokeUnusedAfter: 24h");
    cluster.ready("office").await;
    let key = cluster.value("office", "setup-key").await;
    known_to(&world.replicas[..1], &key).await;
    assert_eq!(Machine::new().enroll(world.replicas[0].address, &key).await.status, 200);
    cluster.status_when("office", "overused", |status| status.state == Some(State::Overused)).await;
    world.clock.step(chrono::Duration::hours(48));
    cluster.kubectl_ok(&["patch", "sk", "office", "--type=merge", "-p", r#"{"spec":{"autoGroups":["a"]}}"#], "");
    let status = cluster.ready("office").await;
    assert_eq!((status.state, says(&status, "Valid").as_str()), (Some(State::Overused), "False Overused"));
    operator.stop().await;
    world.stop().await;
}
