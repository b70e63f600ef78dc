//! Starting with all keys settled.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::MEBIBYTE;
use crate::{
    Bench,
    audit::Class,
    operator::{Operator, Start},
    report::{Row, list, median, number},
};

/// As many starts, unless the keys would expire during the last of them.
const STARTS: usize = 3;

/// What the API server has done until now.
struct ApiServer {
    cpu: Duration,
    /// Bytes of its answers to lists of this resource.
    keys: f64,
    secrets: f64,
}

impl ApiServer {
    async fn now(bench: &Bench) -> anyhow::Result<Self> {
        let text = bench.cluster.api_server_metrics().await?;
        let (keys, secrets) = (listed(&text, "setupkeys"), listed(&text, "secrets"));
        Ok(Self { cpu: bench.cluster.usage()?.api_server.cpu, keys, secrets })
    }
}

/// The sum of `apiserver_response_sizes` for lists of a resource.
fn listed(metrics: &str, resource: &str) -> f64 {
    let resource = format!("resource=\"{resource}\"");
    let sums = metrics.lines().filter(|line| {
        line.starts_with("apiserver_response_sizes_sum{") && line.contains(&resource) && line.contains("verb=\"LIST\"")
    });
    sums.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Starts the operator a few times before the deadline. Returns the running one.
pub async fn measure(bench: &Bench, deadline: Instant) -> anyhow::Result<(Operator, Vec<Row>)> {
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    let before = ApiServer::now(bench).await?;
    let mut starts: Vec<Start> = Vec::new();
    let mut longest = Duration::ZERO;
    let operator = loop {
        bench.say(&format!("start {}", starts.len() + 1));
        let begun = Instant::now();
        let (operator, start) = Operator::observed_start(&bench.cluster).await?;
        starts.push(start);
        longest = longest.max(begun.elapsed());
        if starts.len() == STARTS || Instant::now() + longest * 6 / 5 > deadline {
            break operator;
        }
        operator.process.end().await?;
    };
    let after = ApiServer::now(bench).await?;
    requests.read()?;
    let counts = requests.counts;
    ensure!(counts.of(&[Class::List]) > 0, "the audit log does not show the operator's lists");

    let count = starts.len() as f64;
    let each = |classes: &[Class]| counts.list(classes, count);
    let of = |class: Class| counts.of(&[class]) as f64 / count;
    let row = |what: &str, unit, figure: &dyn Fn(&Start) -> f64| {
        Row::new(what, bench.keys, median(starts.iter().map(figure)), unit).detail(list(starts.iter().map(figure)))
    };
    let bytes = |of: fn(&ApiServer) -> f64| (of(&after) - of(&before)) / count / MEBIBYTE;
    let (keys, secrets) = (bytes(|server| server.keys), bytes(|server| server.secrets));
    let cpu = (after.cpu - before.cpu).as_secs_f64() / count;
    let rows = vec![
        row("restart: until /readyz", "s", &|start| start.ready.as_secs_f64()).at_most(20.0),
        row("restart: until the last pass", "s", &|start| start.last_pass.as_secs_f64()),
        Row::new("restart: writes", bench.keys, of(Class::Write), "")
            .detail(each(&[Class::Write, Class::Event]))
            .at_most(0.0),
        Row::new("restart: reads of one object", bench.keys, of(Class::Get), "")
            .detail(each(&[Class::Get]))
            .at_most(0.0),
        Row::new("restart: lists", bench.keys, of(Class::List), "").detail(format!(
            "{}; watches: {}",
            each(&[Class::List]),
            each(&[Class::Watch])
        )),
        Row::new("restart: answers to the lists", bench.keys, keys + secrets, "MiB").detail(format!(
            "SetupKeys {}, Secrets {}",
            number(keys),
            number(secrets)
        )),
        row("restart: CPU, operator", "s", &|start| start.usage.cpu.as_secs_f64()),
        Row::new("restart: CPU, API server", bench.keys, cpu, "s"),
        row("memory: idle", "MiB", &|start| start.usage.resident / MEBIBYTE).at_most(256.0),
        row("memory: peak of the start", "MiB", &|start| start.usage.peak / MEBIBYTE).at_most(256.0),
        row("memory: peak ÷ idle", "", &|start| start.usage.peak / start.usage.resident).at_most(1.5),
    ];
    Ok((operator, rows))
}
