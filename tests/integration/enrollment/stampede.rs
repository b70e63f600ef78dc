//! A thousand machines ask at once with a key for few of them, while replicas keep dying.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use control_plane::tie_to_this_thread;
use kube::ResourceExt;
use rand::seq::IndexedRandom;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Machine, canary::free_address, from_environment, post, some_time};
use crate::harness::{Cluster, Setup, enrollment_token, eventually, kubeconfig};

/// Set STAMPEDE_ROUNDS for more. Each round has one key for one machine and one key for a hundred.
const ROUNDS: usize = 2;
const MACHINES: usize = 1000;
/// How often a random replica is killed and started again.
const KILL_EVERY: Duration = Duration::from_millis(200);

/// A replica gives up its entries after 1 s instead of 8, and the controller takes them over after 7 s instead of 15.
/// That is later than the 5 s that the last call of a replica may take.
const OWNER_TIME: &str = "1";
const HANDOVER: Duration = Duration::from_secs(7);

/// Replicas as processes. Each keeps its address across restarts.
struct Replicas {
    namespace: String,
    kubeconfig: PathBuf,
    folder: PathBuf,
    processes: Vec<(SocketAddr, Child)>,
    killed: usize,
}

impl Replicas {
    fn start(cluster: &Cluster, folder: &Path) -> Self {
        let kubeconfig = kubeconfig(folder, enrollment_token());
        let (namespace, folder) = (cluster.namespace.clone(), folder.to_owned());
        let mut replicas = Self { namespace, kubeconfig, folder, processes: Vec::new(), killed: 0 };
        for _ in 0..3 {
            let address = free_address();
            let process = replicas.spawn(address);
            replicas.processes.push((address, process));
        }
        replicas
    }

    fn spawn(&self, address: SocketAddr) -> Child {
        let log = File::options().create(true).append(true).open(self.folder.join(format!("{}.log", address.port())));
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        tie_to_this_thread(&mut command)
            .args(["enrollment", "--namespace", &self.namespace, "--failures-per-minute", "0"])
            .args(["--owner-time", OWNER_TIME, "--health-address", "127.0.0.1:0"])
            .args(["--address", &address.to_string()])
            .env("KUBECONFIG", &self.kubeconfig)
            .stderr(Stdio::from(log.unwrap()))
            .spawn()
            .unwrap()
    }

    /// Kills a replica, as the kernel does when memory runs out.
    fn kill_one(&mut self) {
        let victim = rand::random_range(0..self.processes.len());
        let address = self.processes[victim].0;
        self.processes[victim].1.kill().unwrap();
        self.processes[victim].1.wait().unwrap();
        self.processes[victim].1 = self.spawn(address);
        self.killed += 1;
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.processes.iter().map(|(address, _)| *address).collect()
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for (_, process) in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Asks any running replica until the answer is not 503. Some replicas may not know a new key yet.
async fn insist(machine: Machine, addresses: Vec<SocketAddr>, key: String) -> u16 {
    loop {
        some_time(Duration::from_millis(600)).await;
        let address = *addresses.choose(&mut rand::rng()).unwrap();
        match post(address, "/v1/enroll", machine.body(&key).to_string()).await {
            Some(answer) if answer.status != 503 => return answer.status,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stampede() {
    let cluster = Cluster::for_test("stampede").await;
    let operator = cluster.start_operator_with(Setup { handover: HANDOVER, ..Setup::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let mut replicas = Replicas::start(&cluster, folder.path());
    for round in 0..from_environment("STAMPEDE_ROUNDS", ROUNDS) {
        for limit in [1, 100] {
            let name = format!("key-{round}-{limit}");
            cluster.apply_quickly(&name, json!({ "usageLimit": limit })).await;
            cluster.ready(&name).await;
            let key = cluster.value(&name, "setup-key").await;
            let probe = Machine::new();
            for address in replicas.addresses() {
                eventually("the replica to know the key", || async {
                    let mut body = probe.body(&key);
                    body["extraDnsLabels"] = json!(["probe"]);
                    (post(address, "/v1/enroll", body.to_string()).await?.status == 422).then_some(())
                })
                .await;
            }
            let (started, killed) = (Instant::now(), replicas.killed);
            let mut machines = JoinSet::new();
            for _ in 0..MACHINES {
                machines.spawn(insist(Machine::new(), replicas.addresses(), key.clone()));
            }
            let (mut admitted, mut refused) = (0, 0);
            let mut next_kill = tokio::time::interval(KILL_EVERY);
            next_kill.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    answered = machines.join_next() => match answered.map(Result::unwrap) {
                        Some(200) => admitted += 1,
                        Some(403) => refused += 1,
                        Some(status) => panic!("a machine got {status}"),
                        None => break,
                    },
                    _ = next_kill.tick() => replicas.kill_one(),
                }
                assert!(started.elapsed() < Duration::from_secs(300), "{admitted} in and {refused} out after 300 s");
            }
            assert!(replicas.killed > killed, "no replica was killed");
            println!(
                "round {round}, limit {limit}: {admitted} in, {refused} out, {} killed, {:.1} s",
                replicas.killed - killed,
                started.elapsed().as_secs_f64()
            );
            let key = cluster.settled(&name).await;
            assert_eq!(key.status.unwrap().used_times, limit, "{name}");
            assert_eq!(i64::try_from(cluster.peers_of(&name).await.len()).unwrap(), limit, "{name}");
            assert_eq!((admitted, refused), (limit, 1000 - limit), "{name}");
        }
    }
    eventually("all Peers to be released", || async {
        let peers = cluster.peers().list(&Default::default()).await.ok()?;
        peers.items.iter().all(|peer| peer.finalizers().is_empty()).then_some(())
    })
    .await;
    drop(replicas);
    operator.stop().await;
}
