//! Several processes with one leader.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    chart::template_of,
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

/// Two releases of the chart in one namespace, each with a namespace to work in.
#[tokio::test(flavor = "multi_thread")]
async fn two_releases_in_one_namespace_both_work() {
    let home = Cluster::for_test("two_releases").await;
    let folder = tempfile::tempdir().unwrap();
    let mut releases = Vec::new();
    for release in ["blue", "green"] {
        let cluster = Cluster::for_test(&format!("two_releases_{release}")).await;
        let scope = format!("scope.namespaces={{{}}}", cluster.namespace);
        let rendered = template_of(release, &home.namespace, &["--set", &scope]);
        let objects: Vec<Value> = serde_yaml::Deserializer::from_str(&rendered)
            .map(|object| serde::Deserialize::deserialize(object).unwrap())
            .collect();
        let is_about_leases =
            |object: &&Value| object["kind"] == "Role" && object.to_string().contains("coordination.k8s.io");
        let role = objects.iter().find(is_about_leases).expect("a Role for the Lease");
        // The account of this control plane that the guards let write, with the rights that the release gives to its own.
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": release },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"] },
            "subjects": [{ "kind": "ServiceAccount", "name": "setupkey-operator", "namespace": "setupkey-system" }],
        });
        for object in [role, &binding] {
            home.kubectl_ok(&["apply", "-f", "-"], &object.to_string());
        }
        let is_controller =
            |object: &&Value| object["kind"] == "Deployment" && object.to_string().contains("--leader-elect");
        let deployment = objects.iter().find(is_controller).expect("the Deployment of the controller");
        let flags = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        let is_about_the_lease = |flag: &&str| flag.starts_with("--leader-elect");
        let flags: Vec<_> = flags.iter().filter_map(Value::as_str).filter(is_about_the_lease).collect();
        let flags = [&flags[..], &["--leader-election-namespace", &home.namespace, "--health-address", "127.0.0.1:0"]];
        let process = Process::start(&cluster, folder.path(), release, &flags.concat());
        releases.push((cluster, process));
    }
    for (cluster, process) in &mut releases {
        leads(process).await;
        cluster.apply("office", "");
        cluster.ready("office").await;
        process.stop().await;
    }
}
