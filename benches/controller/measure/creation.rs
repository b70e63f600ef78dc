//! Creating keys: the time until all are Ready, next to the raw client, and the cost.

use std::time::Instant;

use anyhow::ensure;

use super::Bench;
use crate::{
    audit::{Class, Counts},
    cluster::{Identity, key_spec},
    observer::Observer,
    operator::Operator,
    process::Process,
    raw,
    report::{Curve, Row, list, median},
};

/// How one set of keys was created.
struct Creation {
    /// Seconds from the first create until each key was Ready.
    ready: Vec<f64>,
    /// Seconds of processor time of the program that made them Ready, until it had nothing left to do.
    cpu: f64,
    counts: Counts,
}

impl Creation {
    fn seconds(&self) -> f64 {
        self.ready.iter().copied().fold(0.0, f64::max)
    }
}

/// Returns the running operator, with the keys that it created last.
pub async fn measure(bench: &Bench<'_>, curves: &mut Vec<Curve>) -> anyhow::Result<(Operator, Vec<Row>)> {
    bench.say("warming up, and taking the operator's writes as the raw client's model");
    take_model(bench).await?;
    // An even number: the API server slows down as it ages, and alternating the order evens that out over two pairs.
    let pairs = if bench.keys > 1000 { 2 } else { 4 };
    let (mut operators, mut raws, mut running) = (Vec::new(), Vec::new(), None);
    for pair in 1..=pairs {
        bench.say(&format!("creating, comparison {pair} of {pairs}"));
        // The operator runs last in the last pair, because its keys are needed afterwards.
        let last = pair == pairs;
        let raw_namespace = format!("raw-{pair}");
        let namespace = if last { bench.namespace.clone() } else { format!("operator-{pair}") };
        if (pairs - pair) % 2 == 0 {
            raws.push(by_raw_client(bench, &raw_namespace).await?);
            let (operator, creation) = by_operator(bench, &namespace, last).await?;
            operators.push(creation);
            running = operator;
        } else {
            operators.push(by_operator(bench, &namespace, last).await?.1);
            raws.push(by_raw_client(bench, &raw_namespace).await?);
        }
    }
    let rows = rows(bench.keys, &operators, &raws);
    for (who, creations) in [("operator", operators), ("raw client", raws)] {
        curves.extend(creations.into_iter().next_back().map(|creation| Curve::new(who, creation.ready)));
    }
    Ok((running.expect("the last pair leaves its operator running"), rows))
}

fn rows(keys: usize, operators: &[Creation], raws: &[Creation]) -> Vec<Row> {
    let seconds = |creations: &[Creation]| creations.iter().map(Creation::seconds).collect::<Vec<_>>();
    let per_thousand = |creations: &[Creation]| median(creations.iter().map(|one| one.cpu * 1000.0 / keys as f64));
    let (by_operator, by_raw) = (seconds(operators), seconds(raws));
    let ratios: Vec<_> = by_operator.iter().zip(&by_raw).map(|(operator, raw)| operator / raw).collect();
    let counts = &operators[operators.len() - 1].counts;
    let per_key = |classes: &[Class]| counts.of(classes) as f64 / keys as f64;
    let each = |classes: &[Class]| counts.list(classes, keys as f64);
    let time = |who: &str, seconds: &[f64]| {
        Row::new(format!("created until all Ready, {who}"), keys, median(seconds.iter().copied()), "s")
            .detail(list(seconds.iter().copied()))
    };
    vec![
        time("operator", &by_operator),
        time("raw client", &by_raw),
        Row::new("operator ÷ raw client", keys, median(ratios.iter().copied()), "").detail(list(ratios)).at_most(1.15),
        Row::new("creation: writes per key", keys, per_key(&[Class::Write]), "")
            .detail(each(&[Class::Write]))
            .at_most(2.0),
        Row::new("creation: reads per key", keys, per_key(&[Class::Get, Class::List]), "").detail(format!(
            "{}; events: {}",
            each(&[Class::Get, Class::List]),
            each(&[Class::Event])
        )),
        Row::new("creation: CPU per 1,000 keys, operator", keys, per_thousand(operators), "s"),
        Row::new("creation: CPU per 1,000 keys, raw client", keys, per_thousand(raws), "s"),
    ]
}

/// Lets the operator create some keys. The raw client copies the first one, and the API server is warm when the first
/// comparison begins.
async fn take_model(bench: &Bench<'_>) -> anyhow::Result<()> {
    const NAMESPACE: &str = "model";
    const KEYS: usize = 500;
    let mut operator = Operator::start(bench.cluster).await?;
    bench.cluster.create_namespace(NAMESPACE).await?;
    let observer = Observer::start(bench.cluster.keys(NAMESPACE)).await?;
    bench.cluster.create_keys(NAMESPACE, KEYS, &key_spec(50)).await?;
    observer.until("Ready", KEYS, &mut operator.process, bench.limit(), |seen| seen.ready.is_some()).await?;
    raw::take_model(bench.cluster, NAMESPACE).await?;
    operator.process.end().await?;
    bench.cluster.delete_namespace(NAMESPACE).await
}

async fn by_operator(bench: &Bench<'_>, namespace: &str, keep: bool) -> anyhow::Result<(Option<Operator>, Creation)> {
    bench.cluster.create_namespace(namespace).await?;
    let mut operator = Operator::start(bench.cluster).await?;
    let creation = create(bench, namespace, &mut operator.process, &bench.cluster.operator).await?;
    bench.say(&format!("the operator took {:.2} s", creation.seconds()));
    let writes = creation.counts.of(&[Class::Write]);
    ensure!(writes >= 2 * bench.keys as u64, "{} keys are Ready after {writes} writes", bench.keys);
    if keep {
        return Ok((Some(operator), creation));
    }
    operator.process.end().await?;
    bench.cluster.delete_namespace(namespace).await?;
    Ok((None, creation))
}

async fn by_raw_client(bench: &Bench<'_>, namespace: &str) -> anyhow::Result<Creation> {
    bench.cluster.create_namespace(namespace).await?;
    let mut process = raw::start(bench.cluster, namespace).await?;
    let creation = create(bench, namespace, &mut process, &bench.cluster.raw_client).await?;
    drop(process);
    bench.say(&format!("the raw client took {:.2} s", creation.seconds()));
    let writes = creation.counts.of(&[Class::Write]);
    ensure!(
        writes == 2 * bench.keys as u64,
        "the raw client made {writes} writes for {} keys, so it cannot be compared",
        bench.keys
    );
    bench.cluster.delete_namespace(namespace).await?;
    Ok(creation)
}

async fn create(
    bench: &Bench<'_>,
    namespace: &str,
    process: &mut Process,
    identity: &Identity,
) -> anyhow::Result<Creation> {
    let Bench { cluster, keys, .. } = *bench;
    let observer = Observer::start(cluster.keys(namespace)).await?;
    let mut requests = cluster.requests_of(identity)?;
    let cpu = process.usage()?.cpu;
    let spec = key_spec(50);
    let begun = Instant::now();
    tokio::try_join!(
        cluster.create_keys(namespace, keys, &spec),
        observer.until("Ready", keys, process, bench.limit(), |seen| seen.ready.is_some()),
    )?;
    requests.settle().await?;
    let cpu = (process.usage()?.cpu - cpu).as_secs_f64();
    let ready = observer.keys().values().filter_map(|seen| seen.ready).map(|at| (at - begun).as_secs_f64()).collect();
    Ok(Creation { ready, cpu, counts: requests.counts.clone() })
}
