//! Many keys, next to a client that only creates the same Peers.

use super::{Bench, KEYS, Keys, REPLICAS, Run, WORK};
use crate::{
    cluster::client,
    raw,
    report::{Row, list, median},
    service,
    shares::Shares,
};

/// The namespace of the keys and their Peers.
const NAMESPACE: &str = "many-keys";

/// How the raw client created Peers.
struct Raw {
    /// Peers per second.
    rate: f64,
    /// The processor time of all programs, in milliseconds for each Peer.
    shares: (f64, String),
}

pub async fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let keys = bench.issue(NAMESPACE, KEYS).await?;
    let raw_client = client(&bench.cluster.raw_client.kubeconfig).await?;
    let replicas = service::start(bench.cluster, REPLICAS).await?;
    bench.say("warming up");
    bench.join(&replicas, &keys).await?;
    let (mut runs, mut raws) = (Vec::new(), Vec::new());
    for pair in 1..=bench.settings.pairs {
        bench.say(&format!("{KEYS} keys, comparison {pair} of {}", bench.settings.pairs));
        // The API server slows down as it ages, and alternating the order evens that out.
        if pair % 2 == 0 {
            raws.push(by_raw_client(bench, &raw_client, &keys).await?);
            runs.push(bench.join(&replicas, &keys).await?);
        } else {
            runs.push(bench.join(&replicas, &keys).await?);
            raws.push(by_raw_client(bench, &raw_client, &keys).await?);
        }
    }
    service::end(replicas).await?;
    let alone = service::start(bench.cluster, 1).await?;
    bench.say(&format!("{KEYS} keys, one replica"));
    let one = bench.join(&alone, &keys).await?;
    service::end(alone).await?;
    Ok(rows(bench.settings.machines as f64, &runs, &raws, &one))
}

async fn by_raw_client(bench: &Bench<'_>, client: &kube::Client, keys: &Keys) -> anyhow::Result<Raw> {
    let (machines, before) = (bench.settings.machines, Shares::read()?);
    let created = raw::create(client, NAMESPACE, &keys.objects, machines).await?;
    let shares = Shares::read()?.since(&before, machines as f64);
    Ok(Raw { rate: machines as f64 / created.as_secs_f64(), shares })
}

fn rows(machines: f64, runs: &[Run], raws: &[Raw], one: &Run) -> Vec<Row> {
    let rates: Vec<_> = runs.iter().map(|run| machines / run.time.as_secs_f64()).collect();
    let settled: Vec<_> = runs.iter().map(|run| machines / run.settled.as_secs_f64()).collect();
    let raw_rates: Vec<_> = raws.iter().map(|raw| raw.rate).collect();
    let ratios: Vec<_> = rates.iter().zip(&raw_rates).map(|(rate, raw)| rate / raw).collect();
    let (last, last_raw) = (&runs[runs.len() - 1], &raws[raws.len() - 1]);
    let row = |what: &str, value: f64, unit| Row::new(what, KEYS, value, unit);
    let samples = |what: &str, values: &[f64], unit| {
        row(what, median(values.iter().copied()), unit).detail(list(values.iter().copied()))
    };
    vec![
        samples("enrollments, until answered", &rates, "/s"),
        samples("enrollments, until all is done", &settled, "/s"),
        samples("Peers created by the raw client", &raw_rates, "/s"),
        samples("enrollments ÷ raw client", &ratios, "").at_least(0.8),
        row("requests per enrollment", last.counts.of(&WORK) as f64 / machines, "")
            .detail(last.counts.list(&WORK, machines)),
        row("requests per enrollment, controller", last.of_controller.of(&WORK) as f64 / machines, "")
            .detail(last.of_controller.list(&WORK, machines)),
        row("told to come again, per enrollment", last.again as f64 / machines, ""),
        row("CPU per enrollment, all replicas", last.cpu.as_secs_f64() * 1000.0 / machines, "ms"),
        row("CPU per enrollment until answered, everything", last.shares.0, "ms").detail(&last.shares.1),
        row("CPU per Peer of the raw client, everything", last_raw.shares.0, "ms").detail(&last_raw.shares.1),
        row("enrollments, one replica", machines / one.time.as_secs_f64(), "/s")
            .detail(one.counts.list(&WORK, machines)),
    ]
}
