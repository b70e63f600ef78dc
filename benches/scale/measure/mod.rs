//! The measurements, in their order: the operator starts a few times, has nothing to do, and then all keys expire.

mod expiry;
mod start;
mod weight;

use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::Utc;
use setupkey_operator::api::Timestamp;

use crate::{
    Bench,
    audit::Class,
    operator::Operator,
    report::{Row, number},
    seed,
    settings::Settings,
};

pub const MEBIBYTE: f64 = (1 << 20) as f64;

/// What storing the keys and two starts take: some seconds, and some milliseconds for each key.
const PREPARATION: Duration = Duration::from_secs(60);
const PREPARATION_PER_KEY: Duration = Duration::from_millis(2);

/// Measures everything.
pub async fn all(bench: &Bench, settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let preparation = PREPARATION + PREPARATION_PER_KEY * u32::try_from(bench.keys)? + settings.idle;
    let moment = Timestamp::from(Utc::now()).plus_seconds(preparation.as_secs());
    let empty = bench.store.size().await?;
    let observer = seed::seed(bench, moment).await?;
    let settled = bench.store.size().await?;

    let deadline = Instant::now() + (moment.moment() - Utc::now()).to_std()? - settings.idle;
    let (mut operator, mut rows) = start::measure(bench, deadline).await?;
    rows.extend(idle(bench, &mut operator, settings.idle).await?);
    rows.extend(weight::measure(bench, empty, settled)?);
    ensure!(Utc::now() < moment.moment(), "the keys expired before the last start was over: this machine is too slow");
    rows.extend(expiry::measure(bench, &mut operator, &observer, moment).await?);
    let expired = bench.store.size().await?;
    rows.push(Row::new("etcd: in use after the expiry", bench.keys, expired.in_use / MEBIBYTE, "MiB").detail(format!(
        "file {} MiB; with the versions that no compaction has removed yet",
        number(expired.file / MEBIBYTE)
    )));
    operator.process.end().await?;
    Ok(rows)
}

/// Watches an operator that has nothing to do.
async fn idle(bench: &Bench, operator: &mut Operator, time: Duration) -> anyhow::Result<Vec<Row>> {
    bench.say(&format!("idle for {} s", time.as_secs()));
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    let before = operator.process.usage()?.cpu;
    tokio::time::sleep(time).await;
    requests.read()?;
    let cpu = (operator.process.usage()?.cpu - before).as_secs_f64();
    operator.process.check()?;
    // The leader renews its Lease even when it does nothing else.
    ensure!(requests.counts.of(&[Class::Lease]) > 0, "the audit log does not show the operator");

    let hours = time.as_secs_f64() / 3600.0;
    let an_hour = |classes: &[Class]| requests.counts.of(classes) as f64 / hours;
    let work = an_hour(&[Class::Write, Class::Get, Class::List, Class::Event]);
    let apart =
        format!("apart: {} watches, {} lease", number(an_hour(&[Class::Watch])), number(an_hour(&[Class::Lease])));
    Ok(vec![
        Row::new("idle: requests an hour", bench.keys, work, "").detail(apart).at_most(0.0),
        Row::new("idle: CPU an hour", bench.keys, cpu / hours, "s").detail(format!(
            "{} s in {} s",
            number(cpu),
            time.as_secs()
        )),
    ])
}
