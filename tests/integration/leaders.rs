//! Several processes with one leader.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    harness::{Cluster, digest},
    process::Process,
};

fn start(cluster: &Cluster, folder: &Path, name: &str) -> Process {
    let flags = ["--leader-elect", "--health-address", "127.0.0.1:0", "--log-format", "json"];
    Process::start(cluster, folder, name, &flags)
}

async fn leads(process: &Process) {
    process.logs("this process leads").await;
}

/// There is only one Lease name, so this is one test and not three.
#[tokio::test(flavor = "multi_thread")]
async fn two_leaders() {
    let cluster = Cluster::for_test("two_leaders").await;
    let folder = tempfile::tempdir().unwrap();
    let mut first = start(&cluster, folder.path(), "first");
    leads(&first).await;
    let second = start(&cluster, folder.path(), "second");
    cluster.apply("office", "");
    let issued = cluster.ready("office").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!second.has_logged("this process leads"), "two at a time");
    assert!(second.has_logged("the caches are filled"), "the standby is cold");

    // The leader is paused until its Lease has expired and another process has taken over.
    first.signal("-STOP");
    let paused = Instant::now();
    leads(&second).await;
    let took = paused.elapsed();
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(20), "taken over after {took:?}");
    cluster.patch_secret("office", json!({ "data": { "setup-key": "AAAA" } })).await;
    let again = cluster.status_when("office", "issued again", |status| status.digest != issued.digest).await;
    cluster.apply("later", "");
    cluster.ready("later").await;
    let (value, version) = (cluster.value("office", "setup-key").await, cluster.secret_version("later").await);

    // The first process continues, learns that it no longer leads, and ends without doing anything.
    first.signal("-CONT");
    let status = first.ended().await;
    assert!(!status.success(), "a lost lease is an error");
    assert!(first.has_logged("lease was lost"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.value("office", "setup-key").await, value);
    assert_eq!(cluster.ready("office").await.digest, again.digest);
    assert_eq!(again.digest, Some(digest(&value)));
    assert_eq!(cluster.secret_version("later").await, version);

    // On SIGTERM the Lease is handed over.
    let mut second = second;
    let third = start(&cluster, folder.path(), "third");
    third.logs("the caches are filled").await;
    second.signal("-TERM");
    let asked = Instant::now();
    leads(&third).await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "handed over after {took:?}");
    assert!(second.ended().await.success());
    cluster.apply("last", "");
    cluster.ready("last").await;
    let mut third = third;
    third.stop().await;
}
