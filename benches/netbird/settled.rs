//! What settled keys cost for each interval.

use anyhow::ensure;

use crate::{
    Bench,
    account::{Account, INTERVAL},
    audit::Class,
    calls::Calls,
    observer::Observer,
    report::Row,
};

const WRITES: [Class; 2] = [Class::Write, Class::Event];
const READS: [Class; 2] = [Class::Get, Class::List];

/// Nothing begins or ends close to the edges of the time that is measured.
const MARGIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Lets the operator create the keys, and watches it do nothing.
pub async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    const NAMESPACE: &str = "settled";
    let (keys, intervals) = (bench.settings.settled, bench.settings.intervals);
    let spec = Account::spec();
    bench.say(&format!("creating {keys} keys"));
    bench.cluster.create_namespace(NAMESPACE).await?;
    let mut operator = bench.account.operator(&bench.cluster).await?;
    let observer = Observer::start(bench.cluster.keys(NAMESPACE)).await?;
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    tokio::try_join!(
        bench.cluster.create_keys(NAMESPACE, keys, &spec),
        observer.until("Ready", keys, &mut operator.process, bench.limit(keys), |seen| seen.ready.is_some()),
    )?;
    drop(observer);
    requests.settle().await?;

    // The first list after the creation compares all keys. It begins the time that is measured, shortly before the second.
    let lists = Calls::of(&operator)?.count();
    while Calls::of(&operator)?.count() == lists {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    tokio::time::sleep(INTERVAL - MARGIN).await;
    bench.say(&format!("watching {keys} settled keys for {intervals} intervals"));
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    let (calls, before) = (Calls::of(&operator)?, operator.process.usage()?);
    tokio::time::sleep(INTERVAL * intervals).await;
    let (after, calls) = (operator.process.usage()?, Calls::of(&operator)?.since(&calls));
    requests.read()?;
    operator.process.check()?;
    ensure!(requests.counts.of(&[Class::Lease]) > 0, "the audit log does not show the operator");
    let there = bench.account.count().await;
    ensure!(there == keys, "NetBird has {there} keys, and not {keys}");
    operator.process.end().await?;

    let each = f64::from(intervals);
    let cpu = (after.cpu - before.cpu).as_secs_f64() * 1000.0;
    Ok(vec![
        Row::new("settled: calls to NetBird an interval", keys, calls.count() as f64 / each, "")
            .detail(calls.list(each))
            .at_most(1.0),
        Row::new("settled: writes an interval", keys, requests.counts.of(&WRITES) as f64 / each, "")
            .detail(requests.counts.list(&WRITES, each))
            .at_most(0.0),
        Row::new("settled: reads an interval", keys, requests.counts.of(&READS) as f64 / each, "")
            .detail(requests.counts.list(&READS, each)),
        Row::new("settled: CPU an interval", keys, cpu / each, "ms").at_most(100.0),
        Row::new("settled: memory", keys, after.resident / f64::from(1 << 20), "MiB"),
    ])
}
