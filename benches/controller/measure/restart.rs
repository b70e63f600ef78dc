//! Restarting with settled keys: the time, the cost, and the memory to hold them.

use anyhow::ensure;

use super::Bench;
use crate::{
    audit::{Class, Counts},
    operator::{Operator, Start},
    report::{Row, list, median},
};

const MEBIBYTE: f64 = (1 << 20) as f64;
/// Memory after a start varies by some hundred KiB, so the median of a few starts is taken.
const STARTS: usize = 3;

/// Several starts, and the requests of all of them.
pub struct Starts {
    starts: Vec<Start>,
    counts: Counts,
}

impl Starts {
    fn median(&self, figure: impl Fn(&Start) -> f64) -> f64 {
        median(self.starts.iter().map(figure))
    }

    fn list(&self, figure: impl Fn(&Start) -> f64) -> String {
        list(self.starts.iter().map(figure))
    }
}

/// Returns the running operator.
pub async fn measure(bench: &Bench<'_>, rows: &mut Vec<Row>) -> anyhow::Result<(Operator, Starts)> {
    let (operator, starts) = start_often(bench).await?;
    ensure!(starts.counts.of(&[Class::Watch]) > 0, "the audit log does not show the operator");
    let keys = bench.keys;
    let each = |classes: &[Class]| starts.counts.list(classes, STARTS as f64);
    let of = |class: Class| starts.counts.of(&[class]) as f64 / STARTS as f64;
    let ready = |start: &Start| start.ready.as_secs_f64();
    let last_pass = |start: &Start| start.last_pass.as_secs_f64();
    let idle = |start: &Start| start.usage.resident / MEBIBYTE;
    let peak = |start: &Start| start.usage.peak / MEBIBYTE;
    let row = |what: &str, unit, figure: &dyn Fn(&Start) -> f64| {
        Row::new(what, keys, starts.median(figure), unit).detail(starts.list(figure))
    };
    rows.extend([
        row("restart: until /readyz", "s", &ready).at_most(10.0),
        row("restart: until the last pass", "s", &last_pass),
        Row::new("restart: writes", keys, of(Class::Write), "")
            .detail(each(&[Class::Write, Class::Event]))
            .at_most(0.0),
        Row::new("restart: reads of one object", keys, of(Class::Get), "").detail(each(&[Class::Get])).at_most(0.0),
        Row::new("restart: lists and watches", keys, of(Class::List) + of(Class::Watch), "")
            .detail(each(&[Class::List, Class::Watch])),
        row("memory: idle", "MiB", &idle).at_most(40.0),
        row("memory: peak of the start", "MiB", &peak),
        row("memory: peak ÷ idle", "", &|start| start.usage.peak / start.usage.resident).at_most(1.5),
    ]);
    Ok((operator, starts))
}

/// The same measurement, with foreign Secrets next to the operator's own.
pub async fn with_foreign_secrets(
    bench: &Bench<'_>,
    count: usize,
    before: &Starts,
    rows: &mut Vec<Row>,
) -> anyhow::Result<Operator> {
    bench.say(&format!("creating {count} Secrets of 32 KiB that are not ours"));
    bench.cluster.create_foreign_secrets(&bench.namespace, count).await?;
    let (operator, after) = start_often(bench).await?;
    let idle = |start: &Start| start.usage.resident / MEBIBYTE;
    let more = after.median(idle) - before.median(idle);
    rows.push(
        Row::new(format!("memory: {count} foreign Secrets of 32 KiB"), bench.keys, more, "MiB")
            .detail(format!("{} with them", after.list(idle)))
            .at_most(5.0),
    );
    Ok(operator)
}

async fn start_often(bench: &Bench<'_>) -> anyhow::Result<(Operator, Starts)> {
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    let mut starts = Vec::new();
    loop {
        bench.say(&format!("start {} of {STARTS}", starts.len() + 1));
        let (operator, start) = Operator::observed_start(bench.cluster).await?;
        starts.push(start);
        if starts.len() == STARTS {
            requests.read()?;
            return Ok((operator, Starts { starts, counts: requests.counts }));
        }
        operator.process.end().await?;
    }
}
