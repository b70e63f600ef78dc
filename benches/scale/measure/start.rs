//! Starting with all keys settled.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::MEBIBYTE;
use crate::{
    Bench,
    audit::Class,
    operator::{Operator, Start},
    report::{Row, list, median},
};

/// As many starts, unless the keys would expire during the last of them.
const STARTS: usize = 2;

/// Starts the operator a few times before the deadline. Returns the running one.
pub async fn measure(bench: &Bench, deadline: Instant) -> anyhow::Result<(Operator, Vec<Row>)> {
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    let before = bench.cluster.usage()?.api_server.cpu;
    let mut starts: Vec<Start> = Vec::new();
    let mut longest = Duration::ZERO;
    let operator = loop {
        bench.say(&format!("start {}", starts.len() + 1));
        let begun = Instant::now();
        let (operator, start) = Operator::observed_start(&bench.cluster).await?;
        bench.say(&format!("ready after {:.1} s", start.ready.as_secs_f64()));
        starts.push(start);
        longest = longest.max(begun.elapsed());
        if starts.len() == STARTS || Instant::now() + longest * 6 / 5 > deadline {
            break operator;
        }
        operator.process.end().await?;
    };
    let after = bench.cluster.usage()?.api_server.cpu;
    requests.read()?;
    let counts = requests.counts;
    ensure!(counts.of(&[Class::Watch]) > 0, "the audit log does not show the operator");

    let count = starts.len() as f64;
    let each = |classes: &[Class]| counts.list(classes, count);
    let of = |class: Class| counts.of(&[class]) as f64 / count;
    let row = |what: &str, unit, figure: &dyn Fn(&Start) -> f64| {
        Row::new(what, bench.keys, median(starts.iter().map(figure)), unit).detail(list(starts.iter().map(figure)))
    };
    let cpu = (after - before).as_secs_f64() / count;
    let rows = vec![
        row("restart: until /readyz", "s", &|start| start.ready.as_secs_f64()).at_most(20.0),
        row("restart: until the last pass", "s", &|start| start.last_pass.as_secs_f64()),
        Row::new("restart: writes", bench.keys, of(Class::Write), "")
            .detail(each(&[Class::Write, Class::Event]))
            .at_most(0.0),
        Row::new("restart: reads of one object", bench.keys, of(Class::Get), "")
            .detail(each(&[Class::Get]))
            .at_most(0.0),
        Row::new("restart: lists and watches", bench.keys, of(Class::List) + of(Class::Watch), "")
            .detail(each(&[Class::List, Class::Watch])),
        row("restart: CPU, operator", "s", &|start| start.usage.cpu.as_secs_f64()),
        Row::new("restart: CPU, API server", bench.keys, cpu, "s"),
        row("memory: idle", "MiB", &|start| start.usage.resident / MEBIBYTE).at_most(256.0),
        row("memory: peak of the start", "MiB", &|start| start.usage.peak / MEBIBYTE).at_most(256.0),
        row("memory: peak ÷ idle", "", &|start| start.usage.peak / start.usage.resident).at_most(1.5),
    ];
    Ok((operator, rows))
}
