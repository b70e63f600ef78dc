//! Replicas of the enrollment service, each a process of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use crate::{
    cluster::Cluster,
    process::{Process, answers_ready, free_port},
};

/// Failures are counted per address. This limit allows even 2,000 a second from one address.
const FAILURES_PER_MINUTE: &str = "1000000";

pub struct Replica {
    pub process: Process,
    pub address: SocketAddr,
}

/// Starts `count` replicas and waits until they know all keys and peers.
pub async fn start(cluster: &Cluster, count: usize) -> anyhow::Result<Vec<Replica>> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        let [address, health] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        command.args(["enrollment", "--failures-per-minute", FAILURES_PER_MINUTE]);
        command.args(["--address", &address.to_string(), "--health-address", &health.to_string()]);
        let log = cluster.file(&format!("enrollment-{}.log", address.port()));
        let mut process = Process::start("the enrollment service", &mut command, &cluster.enrollment.kubeconfig, log)?;
        process.until("become ready", |_| answers_ready(health)).await?;
        replicas.push(Replica { process, address });
    }
    Ok(replicas)
}

/// The addresses of the replicas.
pub fn addresses(replicas: &[Replica]) -> Vec<SocketAddr> {
    replicas.iter().map(|replica| replica.address).collect()
}

/// The processor time that all replicas have used.
pub fn cpu(replicas: &[Replica]) -> anyhow::Result<Duration> {
    replicas.iter().map(|replica| Ok(replica.process.usage()?.cpu)).sum()
}

/// Ends the replicas.
pub async fn end(replicas: Vec<Replica>) -> anyhow::Result<()> {
    for replica in replicas {
        replica.process.end().await?;
    }
    Ok(())
}
