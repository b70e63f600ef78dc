//! Several processes, one of which leads.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use control_plane::tie_to_this_thread;
use serde_json::json;

use crate::harness::{Cluster, digest, eventually, operator_kubeconfig};

/// A process of the real program.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(cluster: &Cluster, folder: &Path, name: &str) -> Self {
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        let child = tie_to_this_thread(&mut command)
            .args(["controller", "--leader-elect", "--namespace", &cluster.namespace])
            .args(["--health-address", "127.0.0.1:0", "--log-format", "json"])
            .env("KUBECONFIG", operator_kubeconfig(folder))
            .env("POD_NAME", name)
            .stderr(Stdio::from(File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn has_logged(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).unwrap().contains(text)
    }

    async fn leads(&self) {
        eventually("the process to lead", || async { self.has_logged("this process leads").then_some(()) }).await;
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        eventually("the process to end", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await
    }
}

/// The Lease has one name, so this is one test and not three.
#[tokio::test(flavor = "multi_thread")]
async fn two_leaders() {
    let cluster = Cluster::for_test("two_leaders").await;
    let folder = tempfile::tempdir().unwrap();
    let mut first = Process::start(&cluster, folder.path(), "first");
    first.leads().await;
    let second = Process::start(&cluster, folder.path(), "second");
    cluster.apply("office", "");
    let issued = cluster.ready("office").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!second.has_logged("this process leads"), "two at a time");
    assert!(second.has_logged("the caches are filled"), "the standby is cold");

    // The leader is paused until its Lease has run out and another has taken over.
    first.signal("-STOP");
    let paused = Instant::now();
    second.leads().await;
    let took = paused.elapsed();
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(20), "taken over after {took:?}");
    cluster.patch_secret("office", json!({ "data": { "setup-key": "AAAA" } })).await;
    let again = cluster.status_when("office", "issued anew", |status| status.digest != issued.digest).await;
    cluster.apply("later", "");
    cluster.ready("later").await;
    let (value, version) = (cluster.value("office", "setup-key").await, cluster.secret_version("later").await);

    // It goes on, learns that it no longer leads, and ends without having done anything.
    first.signal("-CONT");
    let status = first.ended().await;
    assert!(!status.success(), "a lost lease is an error");
    assert!(std::fs::read_to_string(&first.log).unwrap().contains("lease was lost"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.value("office", "setup-key").await, value);
    assert_eq!(cluster.ready("office").await.digest, again.digest);
    assert_eq!(again.digest, Some(digest(&value)));
    assert_eq!(cluster.secret_version("later").await, version);

    // On SIGTERM the Lease is handed over.
    let mut second = second;
    let third = Process::start(&cluster, folder.path(), "third");
    eventually("the standby to be warm", || async { third.has_logged("the caches are filled").then_some(()) }).await;
    second.signal("-TERM");
    let asked = Instant::now();
    third.leads().await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "handed over after {took:?}");
    assert!(second.ended().await.success());
    cluster.apply("last", "");
    cluster.ready("last").await;
    let mut third = third;
    third.signal("-TERM");
    assert!(third.ended().await.success());
}
