//! The measurements, in their order.

mod hot_key;
mod latency;
mod many_keys;
mod refusals;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use setupkey_operator::api::SetupKey;

use crate::{
    audit::{Class, Counts},
    cluster::{Cluster, key_name, key_spec},
    machines,
    operator::Operator,
    report::Report,
    service::{self, Replica},
    settings::{Part, Settings},
    shares::Shares,
};

/// Keys that the machines use in turns.
const KEYS: usize = 100;
/// Replicas of the service that the chart starts.
const REPLICAS: usize = 3;
/// The requests that the service makes to admit machines.
const WORK: [Class; 3] = [Class::Write, Class::Get, Class::List];

/// The cluster, with a running controller and issued keys.
struct Bench<'a> {
    cluster: &'a Cluster,
    settings: &'a Settings,
    begun: Instant,
}

impl Bench<'_> {
    fn say(&self, what: &str) {
        eprintln!("[{:>4.0} s] {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Creates keys without a limit in a namespace of their own, and waits until the controller has issued them.
    async fn issue(&self, namespace: &str, count: usize) -> anyhow::Result<Keys> {
        self.cluster.create_namespace(namespace).await?;
        self.cluster.create_keys(namespace, count, &key_spec(0)).await?;
        let begun = Instant::now();
        loop {
            let objects = self.cluster.keys(namespace).list(&kube::api::ListParams::default()).await?.items;
            if objects.iter().filter(|key| key.status.as_ref().is_some_and(|status| status.digest.is_some())).count()
                == count
            {
                let values = self.values(namespace, count).await?;
                return Ok(Keys { objects, values });
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "the keys were not issued within a minute");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn values(&self, namespace: &str, count: usize) -> anyhow::Result<Vec<String>> {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.admin.clone(), namespace);
        let mut values = Vec::new();
        for number in 0..count {
            let data = secrets.get(&key_name(number)).await?.data.unwrap_or_default();
            let value = data.get("setup-key").context("a Secret has no key")?;
            values.push(String::from_utf8(value.0.clone())?);
        }
        Ok(values)
    }

    /// Lets machines join at these replicas, as many as the settings say.
    async fn join(&self, replicas: &[Replica], keys: &Keys) -> anyhow::Result<Run> {
        let mut requests = self.cluster.requests_of(&self.cluster.enrollment)?;
        let mut of_controller = self.cluster.requests_of(&self.cluster.operator)?;
        let (cpu, shares, begun) = (service::cpu(replicas)?, Shares::read()?, Instant::now());
        let addresses: Vec<SocketAddr> = service::addresses(replicas);
        let joined = machines::join(&addresses, &keys.values, self.settings.machines, self.settings.at_a_time).await?;
        let shares = Shares::read()?.since(&shares, self.settings.machines as f64);
        let settled = requests.settle().await? - begun;
        let cpu = service::cpu(replicas)? - cpu;
        of_controller.read()?;
        let (counts, of_controller) = (requests.counts.clone(), of_controller.counts.clone());
        Ok(Run { time: joined.time, again: joined.again, settled, cpu, shares, counts, of_controller })
    }
}

/// The keys of a namespace.
struct Keys {
    objects: Vec<SetupKey>,
    /// What machines present.
    values: Vec<String>,
}

/// How machines joined, and the cost.
struct Run {
    /// The time until the last machine had its answer.
    time: Duration,
    /// How often a machine got a 503.
    again: usize,
    /// The time until the service had nothing left to do.
    settled: Duration,
    /// The processor time of all replicas until then.
    cpu: Duration,
    /// The processor time of all programs until the last machine had its answer, in milliseconds for each machine.
    shares: (f64, String),
    /// The requests of the service.
    counts: Counts,
    of_controller: Counts,
}

/// Measures everything, on one control plane.
pub async fn all(settings: &Settings) -> anyhow::Result<Report> {
    let cluster = Cluster::start().await?;
    let mut report = Report::new("enrollment", "make bench-enrollment", cluster.version.clone());
    let controller = Operator::start(&cluster).await?;
    let bench = Bench { cluster: &cluster, settings, begun: Instant::now() };
    for part in &settings.parts {
        report.rows.extend(match part {
            Part::ManyKeys => many_keys::measure(&bench).await?,
            Part::HotKey => hot_key::measure(&bench).await?,
            Part::Latency => latency::measure(&bench).await?,
            Part::Refusals => refusals::measure(&bench).await?,
        });
    }
    controller.process.end().await?;
    Ok(report)
}
