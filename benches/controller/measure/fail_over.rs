//! How long nobody leads after the leader went.

use rustix::process::Signal;

use super::Bench;
use crate::{
    operator::Operator,
    report::{Row, list, median},
};

pub async fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    // Started anew each time as the standby, so that each time another one takes over.
    let mut leader = Operator::start(bench.cluster).await?;
    let mut rows = Vec::new();
    // A released lease is found at the standby's next look, which comes every 2 s, so one try would be a matter of luck.
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
