//! `setupkey-operator enroll`, as a process, against replicas of the service.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
};

use control_plane::tie_to_this_thread;
use kube::api::DeleteParams;
use serde_json::json;

use super::{Replica, Setup};
use crate::harness::{Cluster, any_key, eventually};

pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the process with this state, and with the key in a file as a mounted Secret has it.
    pub fn start(folder: &Path, server: &str, key: &str, state: &str, flags: &[&str]) -> Self {
        let key_file = folder.join("setup-key");
        std::fs::write(&key_file, format!("{key}\n")).unwrap();
        let mut command = enroll(folder, server, &key_file, state);
        command.args(["--hostname", "worker"]).args(flags);
        Self::spawn(command, folder, state)
    }

    /// Starts this command. Its log is named after the state.
    pub fn spawn(mut command: Command, folder: &Path, state: &str) -> Self {
        let log = folder.join(format!("{state}.log"));
        let child = tie_to_this_thread(&mut command).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub async fn end(&mut self) -> ExitStatus {
        eventually("the machine to end", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

/// The command without a hostname.
pub fn enroll(folder: &Path, server: &str, key_file: &Path, state: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
    command.args(["enroll", "--server", server, "--key-file"]).arg(key_file);
    command.arg("--state-file").arg(folder.join(state)).args(["--heartbeat", "1s", "--log", "trace"]);
    command.env_remove("HOSTNAME");
    command
}

pub fn url(replica: &Replica) -> String {
    format!("http://{}/", replica.address)
}

async fn connected(cluster: &Cluster, key: &str) -> String {
    eventually("a connected peer", || async {
        let name = cluster.peers_of(key).await.pop()?;
        cluster.peers().get(&name).await.ok()?.status.filter(|status| status.connected).map(|_| name)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_joins_with_the_mounted_key_and_leaves_when_it_ends() {
    let cluster = Cluster::for_test("pod").await;
    let replica = Replica::start(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let key = cluster.issue("workers", json!({ "ephemeral": true, "usageLimit": 2 })).await;
    let mut pod = Process::start(folder.path(), &url(&replica), &key, "state", &[]);
    let name = connected(&cluster, "workers").await;
    pod.terminate();
    assert!(pod.end().await.success(), "{}", pod.log());
    eventually("the Peer to be gone", || async {
        cluster.peers().get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    // Neither the key nor the content of the state file is in the log.
    let state = std::fs::read_to_string(folder.path().join("state")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let log = pod.log();
    assert!(log.contains("TRACE"), "{log}");
    for secret in [key.as_str(), state["privateKey"].as_str().unwrap(), state["token"].as_str().unwrap()] {
        assert!(!log.contains(secret) && !log.contains(&secret[9..]), "a secret is in the log");
    }
    replica.stop().await;
}

/// Machines and services are upgraded at different times.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_gets_along_with_a_service_of_the_first_version() {
    let cluster = Cluster::for_test("first-version").await;
    let replica = Replica::start_with(&cluster, Setup { first_version: true, ..Setup::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let key = cluster.issue("office", json!({})).await;
    let mut machine = Process::start(folder.path(), &url(&replica), &key, "state", &["--leave", "always"]);
    let name = connected(&cluster, "office").await;
    machine.terminate();
    assert!(machine.end().await.success(), "{}", machine.log());
    eventually("the Peer to be gone", || async {
        cluster.peers().get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_crashes_and_starts_again_uses_the_key_once() {
    let cluster = Cluster::for_test("restarts").await;
    let replica = Replica::start(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let key = cluster.issue("office", json!({ "usageLimit": 1 })).await;
    let mut names = Vec::new();
    for _ in 0..3 {
        let mut machine = Process::start(folder.path(), &url(&replica), &key, "state", &[]);
        eventually("the machine to join", || async { machine.log().contains("joined").then_some(()) }).await;
        names.push(connected(&cluster, "office").await);
        machine.child.kill().unwrap();
        machine.end().await;
    }
    names.dedup();
    assert_eq!((names.len(), cluster.used("office").await), (1, 1));
    // A machine that is stopped stays a peer, too, unless a flag tells it to leave.
    let mut machine = Process::start(folder.path(), &url(&replica), &key, "state", &[]);
    eventually("the machine to join", || async { machine.log().contains("joined").then_some(()) }).await;
    machine.terminate();
    assert!(machine.end().await.success());
    assert!(cluster.peers().get(&names[0]).await.unwrap().metadata.deletion_timestamp.is_none());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_says_why_it_gives_up() {
    let cluster = Cluster::for_test("gives-up").await;
    let replica = Replica::start(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let key = cluster.issue("office", json!({})).await;
    let mut removed = Process::start(folder.path(), &url(&replica), &key, "removed", &[]);
    let name = connected(&cluster, "office").await;
    let mut refused = Process::start(folder.path(), &url(&replica), &any_key(), "refused", &[]);
    cluster.peers().delete(&name, &DeleteParams::default()).await.unwrap();
    let (code, log) = (removed.end().await.code(), removed.log());
    assert_eq!(code, Some(4), "{log}");
    assert!(log.contains("was removed"), "{log}");
    let (code, log) = (refused.end().await.code(), refused.log());
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("not admitted: this setup key does not admit this machine"), "{log}");
    replica.stop().await;
}

/// At first no replica listens, and no replica knows the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_comes_too_early_waits() {
    let cluster = Cluster::for_test("early").await;
    let folder = tempfile::tempdir().unwrap();
    let address = super::canary::free_address();
    let key = cluster.issue("office", json!({})).await;
    let mut machine =
        Process::start(folder.path(), &format!("http://{address}"), &key, "state", &["--leave", "always"]);
    eventually("the machine to try", || async { machine.log().contains("cannot be reached").then_some(()) }).await;
    let replica = Replica::start_at(&cluster, address).await;
    let name = connected(&cluster, "office").await;
    machine.terminate();
    assert!(machine.end().await.success());
    eventually("the Peer to be gone", || async {
        cluster.peers().get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    replica.stop().await;
}
