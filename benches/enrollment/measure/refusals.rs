//! Refusals, for a while and at a rate that only an attack reaches.

use std::time::{Duration, Instant};

use anyhow::ensure;
use http::StatusCode;
use serde_json::json;

use super::{Bench, KEYS, WORK};
use crate::{
    cluster::Part,
    machines,
    report::{Row, list},
    service,
};

const PER_SECOND: usize = 2000;
/// Samples of the memory. During the first one, connections and the allocator's reserve still grow.
const SAMPLES: u32 = 12;
/// The most MiB by which memory may grow from the first sample to the last.
const FLAT: f64 = 1.0;

pub async fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let time = bench.settings.refusals;
    bench.say(&format!("{PER_SECOND} refusals a second for {} s", time.as_secs()));
    let keys = bench.issue("refused", 1).await?;
    let mut replicas = service::start(bench.cluster, 1).await?;
    let replica = replicas.remove(0);
    bench.cluster.patch_keys("refused", 1, Part::Spec, |_| json!({ "spec": { "revoked": true } })).await?;
    let revoked = keys.values[0].clone();
    until_refused(bench, replica.address, &revoked).await?;
    // In turns: a revoked key, and one that was never issued.
    let presented = [revoked, "00000000-0000-4000-8000-000000000000".to_owned()];

    let mut requests = bench.cluster.requests_of(&bench.cluster.enrollment)?;
    let cpu = replica.process.usage()?.cpu;
    let look = async {
        let mut resident = Vec::new();
        for _ in 0..SAMPLES {
            tokio::time::sleep(time / SAMPLES).await;
            resident.push(replica.process.usage()?.resident / f64::from(1 << 20));
        }
        anyhow::Ok(resident)
    };
    let (refused, resident) = tokio::try_join!(machines::refuse(replica.address, &presented, PER_SECOND, time), look)?;
    ensure!(refused > 0, "no machine was refused, so nothing was measured");
    let used = replica.process.usage()?.cpu - cpu;
    requests.read()?;
    replica.process.end().await?;

    let growth = resident[resident.len() - 1] - resident[0];
    let row = |what: &str, value, unit| Row::new(format!("refused: {what}"), KEYS, value, unit);
    Ok(vec![
        row("machines", refused as f64 / time.as_secs_f64(), "/s"),
        row("CPU each", used.as_secs_f64() * 1000.0 / refused as f64, "ms").at_most(1.0),
        row("requests to the API server", requests.counts.of(&WORK) as f64, "").at_most(0.0),
        row("memory, last look − first", growth, "MiB").detail(list(resident)).at_most(FLAT),
    ])
}

async fn until_refused(bench: &Bench<'_>, replica: std::net::SocketAddr, key: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while machines::ask_once(replica, key).await? != StatusCode::FORBIDDEN {
        ensure!(begun.elapsed() < Duration::from_secs(20), "a key that was revoked still admits machines");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Waits until the earlier admissions are complete.
    bench.cluster.requests_of(&bench.cluster.enrollment)?.settle().await?;
    Ok(())
}
