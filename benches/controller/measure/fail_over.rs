//! How long there is no leader after the leader ends.

use rustix::process::Signal;

use super::Bench;
use crate::{
    operator::Operator,
    report::{Row, list, median},
};

pub async fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    // Each ended leader starts again as the standby, so another process takes over each time.
    let mut leader = Operator::start(bench.cluster).await?;
    let mut rows = Vec::new();
    // The standby finds a released Lease at its next poll, which comes every 2 s. A single try would depend on luck.
    for (signal, name, tries) in [(Signal::TERM, "SIGTERM", 3), (Signal::KILL, "SIGKILL", 1)] {
        let mut seconds = Vec::new();
        for _ in 0..tries {
            bench.say(&format!("fail-over after {name}"));
            let mut standby = Operator::spawn(bench.cluster)?;
            standby.ready().await?;
            leader.process.signal(signal)?;
            seconds.push(standby.leads().await?.as_secs_f64());
            leader = standby;
        }
        let row =
            Row::new(format!("fail-over: {name} until the other leads"), bench.keys, median(seconds.clone()), "s");
        rows.push(row.detail(list(seconds)));
    }
    leader.process.end().await?;
    Ok(rows)
}
