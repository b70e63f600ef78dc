//! Creating keys: the time until all are Ready, next to the raw client, and the calls and writes for each.

use std::time::Instant;

use anyhow::ensure;

use crate::{
    Bench,
    account::Account,
    audit::{Class, Counts},
    calls::Calls,
    cluster::Identity,
    observer::Observer,
    process::Process,
    raw,
    report::{Row, list, median},
};

/// How one set of keys was created.
struct Creation {
    /// From the first create until the last key was Ready.
    seconds: f64,
    /// Seconds of processor time of the program that made them Ready.
    cpu: f64,
    counts: Counts,
}

pub async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (keys, pairs) = (bench.settings.keys, bench.settings.pairs);
    bench.say("warming up, and taking the operator's writes as the raw client's model");
    take_model(bench).await?;
    let (mut operators, mut raws, mut calls) = (Vec::new(), Vec::new(), Calls::default());
    for pair in 1..=pairs {
        bench.say(&format!("creating {keys} keys, comparison {pair} of {pairs}"));
        // The servers slow down as they age, and alternating the order evens that out.
        if pair % 2 == 0 {
            raws.push(by_raw_client(bench, &format!("raw-{pair}")).await?);
        }
        let (creation, called) = by_operator(bench, &format!("operator-{pair}")).await?;
        operators.push(creation);
        calls = called;
        if pair % 2 == 1 {
            raws.push(by_raw_client(bench, &format!("raw-{pair}")).await?);
        }
    }
    Ok(rows(keys, &operators, &raws, &calls))
}

fn rows(keys: usize, operators: &[Creation], raws: &[Creation], calls: &Calls) -> Vec<Row> {
    let rate = |creations: &[Creation]| creations.iter().map(|one| keys as f64 / one.seconds).collect::<Vec<_>>();
    let per_thousand = |creations: &[Creation]| median(creations.iter().map(|one| one.cpu * 1000.0 / keys as f64));
    let (by_operator, by_raw) = (rate(operators), rate(raws));
    let ratios: Vec<_> = by_operator.iter().zip(&by_raw).map(|(operator, raw)| operator / raw).collect();
    let counts = &operators[operators.len() - 1].counts;
    let per_key = |classes: &[Class]| counts.of(classes) as f64 / keys as f64;
    let each = |classes: &[Class]| counts.list(classes, keys as f64);
    let row = |what: &str, rates: &[f64]| {
        Row::new(what, keys, median(rates.iter().copied()), "keys/s").detail(list(rates.iter().copied()))
    };
    vec![
        row("created until all Ready, operator", &by_operator),
        row("created until all Ready, raw client", &by_raw),
        Row::new("operator ÷ raw client", keys, median(ratios.iter().copied()), "").detail(list(ratios)).at_least(0.85),
        Row::new("creation: calls to NetBird per key", keys, calls.for_one_key() as f64 / keys as f64, "")
            .detail(calls.list(keys as f64))
            .at_most(1.0),
        Row::new("creation: writes per key", keys, per_key(&[Class::Write]), "")
            .detail(each(&[Class::Write]))
            .at_most(3.0),
        Row::new("creation: reads per key", keys, per_key(&[Class::Get, Class::List]), "").detail(format!(
            "{}; events: {}",
            each(&[Class::Get, Class::List]),
            each(&[Class::Event])
        )),
        Row::new("creation: CPU per 1,000 keys, operator", keys, per_thousand(operators), "s"),
        Row::new("creation: CPU per 1,000 keys, raw client", keys, per_thousand(raws), "s"),
    ]
}

/// Lets the operator create some keys. The raw client copies the first one, and the servers are warm when the first
/// comparison begins.
async fn take_model(bench: &Bench) -> anyhow::Result<()> {
    const NAMESPACE: &str = "model";
    const KEYS: usize = 200;
    bench.cluster.create_namespace(NAMESPACE).await?;
    let mut operator = bench.account.operator(&bench.cluster).await?;
    let observer = Observer::start(bench.cluster.keys(NAMESPACE)).await?;
    bench.cluster.create_keys(NAMESPACE, KEYS, &Account::spec()).await?;
    observer.until("Ready", KEYS, &mut operator.process, bench.limit(KEYS), |seen| seen.ready.is_some()).await?;
    raw::take_model(bench, NAMESPACE).await?;
    bench.cluster.delete_namespace(NAMESPACE).await?;
    operator.process.end().await
}

async fn by_operator(bench: &Bench, namespace: &str) -> anyhow::Result<(Creation, Calls)> {
    let keys = bench.settings.keys;
    bench.cluster.create_namespace(namespace).await?;
    let mut operator = bench.account.operator(&bench.cluster).await?;
    let before = Calls::of(&operator)?;
    let creation = create(bench, namespace, &mut operator.process, &bench.cluster.operator).await?;
    let calls = Calls::of(&operator)?.since(&before);
    bench.say(&format!("the operator took {:.2} s: {}", creation.seconds, calls.list(1.0)));
    let there = bench.account.count().await;
    ensure!(there == keys, "NetBird has {there} keys, and not {keys}");
    bench.cluster.delete_namespace(namespace).await?;
    let left = bench.account.count().await;
    ensure!(left == 0, "the SetupKeys are gone, and NetBird still has {left} keys");
    operator.process.end().await?;
    Ok((creation, calls))
}

async fn by_raw_client(bench: &Bench, namespace: &str) -> anyhow::Result<Creation> {
    let keys = bench.settings.keys;
    bench.cluster.create_namespace(namespace).await?;
    let mut process = raw::start(&bench.cluster, namespace).await?;
    let creation = create(bench, namespace, &mut process, &bench.cluster.raw_client).await?;
    drop(process);
    bench.say(&format!("the raw client took {:.2} s", creation.seconds));
    let (writes, there) = (creation.counts.of(&[Class::Write]), bench.account.count().await);
    ensure!(
        (writes, there) == (3 * keys as u64, keys),
        "the raw client made {writes} writes and {there} keys at NetBird for {keys} keys, so it cannot be compared"
    );
    // The operator finds its own marks on them, and removes them from NetBird.
    let operator = bench.account.operator(&bench.cluster).await?;
    bench.cluster.delete_namespace(namespace).await?;
    operator.process.end().await?;
    Ok(creation)
}

async fn create(
    bench: &Bench,
    namespace: &str,
    process: &mut Process,
    identity: &Identity,
) -> anyhow::Result<Creation> {
    let (cluster, keys) = (&bench.cluster, bench.settings.keys);
    let observer = Observer::start(cluster.keys(namespace)).await?;
    let mut requests = cluster.requests_of(identity)?;
    let cpu = process.usage()?.cpu;
    let spec = Account::spec();
    let begun = Instant::now();
    tokio::try_join!(
        cluster.create_keys(namespace, keys, &spec),
        observer.until("Ready", keys, process, bench.limit(keys), |seen| seen.ready.is_some()),
    )?;
    requests.settle().await?;
    let cpu = (process.usage()?.cpu - cpu).as_secs_f64();
    let ready = observer.keys().values().filter_map(|seen| seen.ready).max().unwrap_or(begun);
    Ok(Creation { seconds: (ready - begun).as_secs_f64(), cpu, counts: requests.counts.clone() })
}
