//! The operator, as a process of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use super::{
    cluster::Cluster,
    process::{GLANCE, Process, Usage, answers_ready, free_port, metrics},
};

/// Logged when this process leads.
const LEADS: &str = "this process leads";
/// How long after its start an operator with nothing to do counts as idle.
const REST: Duration = Duration::from_secs(10);
/// The pause between two samples of its processor time; ten of the kernel's ticks.
const SAMPLE: Duration = Duration::from_millis(100);
/// The least share of a core that counts as busy: more than one tick in a sample. An idle operator uses less than one
/// tick in several seconds.
const BUSY: f64 = 0.15;

pub struct Operator {
    pub process: Process,
    health: SocketAddr,
}

/// How a start went.
pub struct Start {
    /// From the start of the process until `/readyz` was ok.
    pub ready: Duration,
    /// From the start of the process until it was last busy. A reconcile that takes less than [`BUSY`] of one sample is
    /// not noticed, so this is no earlier than `ready`.
    pub last_pass: Duration,
    /// After [`REST`].
    pub usage: Usage,
}

impl Operator {
    /// Starts the operator with the flags of a deployment.
    pub fn spawn(cluster: &Cluster) -> anyhow::Result<Self> {
        Self::spawn_with(cluster, &[])
    }

    /// Starts the operator with further flags.
    pub fn spawn_with(cluster: &Cluster, flags: &[&str]) -> anyhow::Result<Self> {
        let health = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        command.args(["controller", "--leader-elect", "--health-address", &health.to_string()]).args(flags);
        let log = cluster.file(&format!("operator-{}.log", health.port()));
        let process = Process::start("the operator", &mut command, &cluster.operator.kubeconfig, log)?;
        Ok(Self { process, health })
    }

    /// Starts the operator and waits until it works.
    pub async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        Self::start_with(cluster, &[]).await
    }

    /// Starts the operator with further flags, and waits until it works.
    pub async fn start_with(cluster: &Cluster, flags: &[&str]) -> anyhow::Result<Self> {
        let mut operator = Self::spawn_with(cluster, flags)?;
        operator.ready().await?;
        operator.leads().await?;
        Ok(operator)
    }

    /// What it answers at `/metrics`.
    pub fn metrics(&self) -> anyhow::Result<String> {
        metrics(self.health)
    }

    /// Waits until its caches are filled.
    pub async fn ready(&mut self) -> anyhow::Result<Duration> {
        let health = self.health;
        self.process.until("become ready", |_| answers_ready(health)).await
    }

    /// Waits until it leads.
    pub async fn leads(&mut self) -> anyhow::Result<Duration> {
        self.process.until("lead", |process| process.has_logged(LEADS)).await
    }

    /// Starts the operator, measures its start, and waits until it is idle.
    pub async fn observed_start(cluster: &Cluster) -> anyhow::Result<(Self, Start)> {
        let mut operator = Self::spawn(cluster)?;
        let started = operator.process.started;
        let (mut ready, mut last_pass) = (None, Duration::ZERO);
        let (mut sampled, mut cpu) = (Instant::now(), Duration::ZERO);
        while ready.is_none_or(|ready| started.elapsed() < ready + REST || started.elapsed() < last_pass + REST) {
            tokio::time::sleep(GLANCE).await;
            if ready.is_none() && answers_ready(operator.health) {
                ready = Some(started.elapsed());
                last_pass = started.elapsed();
            }
            if sampled.elapsed() >= SAMPLE {
                let used = operator.process.usage()?.cpu;
                if (used - cpu).as_secs_f64() >= BUSY * sampled.elapsed().as_secs_f64() {
                    last_pass = started.elapsed();
                }
                (sampled, cpu) = (Instant::now(), used);
                operator.process.check()?;
            }
            anyhow::ensure!(started.elapsed() < Duration::from_secs(180), "the operator does not become idle");
        }
        // The operator has been ready for long, so the log already says that it leads.
        operator.leads().await?;
        let start = Start { ready: ready.unwrap_or_default(), last_pass, usage: operator.process.usage()? };
        Ok((operator, start))
    }
}
