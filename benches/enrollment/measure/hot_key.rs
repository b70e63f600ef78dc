//! One key for all machines.

use anyhow::ensure;

use super::{Bench, REPLICAS, Run, WORK};
use crate::{report::Row, service};

/// The resource that holds the ledger. A write of it is a swap, either done or lost to another replica.
const LEDGER: &str = "setupkeys/status";

pub async fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let machines = bench.settings.machines as f64;
    let mut rows = Vec::new();
    for count in [1, REPLICAS] {
        bench.say(&format!("one key, replicas: {count}"));
        let key = bench.issue(&format!("hot-key-{count}"), 1).await?;
        let replicas = service::start(bench.cluster, count).await?;
        let run = bench.join(&replicas, &key).await?;
        service::end(replicas).await?;
        let used = bench.cluster.keys(&format!("hot-key-{count}")).list(&kube::api::ListParams::default()).await?;
        let used = used.items[0].status.as_ref().map_or(0, |status| status.used_times);
        ensure!(used == bench.settings.machines as i64, "{machines} machines joined, and {used} were counted");
        ensure!(run.counts.done(LEDGER) > 0, "machines were counted, and the audit log shows no swap");
        rows.extend(of(count, machines, &run));
    }
    Ok(rows)
}

fn of(replicas: usize, machines: f64, run: &Run) -> [Row; 3] {
    let row = |what: &str, value, unit| Row::new(format!("one key, {what}, replicas: {replicas}"), 1, value, unit);
    let (done, lost) = (run.counts.done(LEDGER) as f64, run.counts.lost(LEDGER) as f64);
    let rate = row("enrollments", machines / run.time.as_secs_f64(), "/s")
        .detail(format!("told to come again: {}", run.again));
    let swaps = row("swaps tried per swap done", (done + lost) / done, "")
        .detail(format!("{} per enrollment", crate::report::number((done + lost) / machines)));
    [
        if replicas == REPLICAS { rate.at_least(200.0) } else { rate },
        if replicas == REPLICAS { swaps.at_most(3.0) } else { swaps },
        row("requests per enrollment", run.counts.of(&WORK) as f64 / machines, "")
            .detail(run.counts.list(&WORK, machines)),
    ]
}
