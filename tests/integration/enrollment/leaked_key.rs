//! The way out of docs/rotation.md for a key that leaked, as a person types it.

use setupkey_operator::api::SetupKeyStatus;

use super::{Machine, Replica, known_to};
use crate::harness::{Cluster, digest};

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_key_never_admits_again_once_the_documented_commands_are_run() {
    let cluster = Cluster::for_test("leaked_key").await;
    let operator = cluster.start_operator().await;
    let replica = Replica::start(&cluster).await;
    cluster.apply("office", "usageLimit: 3, rotation: {renewBefore: 24h, overlap: 2h}");
    let first = cluster.ready("office").await;
    let mut leaked = vec![cluster.value("office", "setup-key").await];
    cluster.rotate("office", &first).await;
    leaked.push(cluster.value("office", "setup-key").await);
    for value in &leaked {
        known_to(std::slice::from_ref(&replica), value).await;
        assert_eq!(Machine::new().enroll(replica.address, value).await.status, 200, "both admit before");
    }

    cluster.follow_the_documentation("rotation.md", "## A key leaked");
    let fresh = |status: &SetupKeyStatus| status.revision == Some(3) && status.valid == Some(true);
    let status = cluster.status_when("office", "valid, with the next key", fresh).await;
    assert_eq!((status.previous.len(), status.used_times), (0, 0), "a leaked key is still on record");
    let value = cluster.value("office", "setup-key").await;
    assert_eq!(status.digest, Some(digest(&value)));
    known_to(std::slice::from_ref(&replica), &value).await;
    assert_eq!(Machine::new().enroll(replica.address, &value).await.status, 200);
    for value in &leaked {
        assert_eq!(Machine::new().enroll(replica.address, value).await.status, 403, "a leaked key admits a machine");
    }
    let rotation = cluster.keys().get("office").await.unwrap().spec.rotation.unwrap();
    assert!(rotation.renew_before.is_some(), "the schedule is lost");
    replica.stop().await;
    operator.stop().await;
}
