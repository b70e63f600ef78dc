//! What a settled key costs: with one change, and with none.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use setupkey_operator::api::State;

use super::Bench;
use crate::{
    audit::Class,
    cluster::Part,
    operator::Operator,
    report::{Row, number},
};

/// The most keys that are revoked; a rate per key needs no more.
const REVOKED: usize = 500;

/// Revokes keys, and then un-revokes them.
pub async fn revocation(bench: &Bench<'_>, operator: &mut Operator) -> anyhow::Result<Vec<Row>> {
    let count = bench.keys.min(REVOKED);
    bench.say(&format!("revoking {count} keys"));
    let observer = bench.observe().await?;
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    set_revoked(bench, count, true).await?;
    let revoked = |seen: &crate::observer::Seen| seen.state == Some(State::Revoked);
    observer.until("revoked", count, &mut operator.process, bench.limit(), revoked).await?;
    requests.settle().await?;
    let counts = requests.counts.clone();

    set_revoked(bench, count, false).await?;
    let valid = |seen: &crate::observer::Seen| seen.state == Some(State::Valid);
    observer.until("valid", bench.keys, &mut operator.process, bench.limit(), valid).await?;
    requests.settle().await?;

    let writes = counts.of(&[Class::Write]);
    ensure!(writes >= count as u64, "{count} keys read revoked, and the audit log shows {writes} writes");
    let per_key = |classes: &[Class]| counts.of(classes) as f64 / count as f64;
    let each = |classes: &[Class]| counts.list(classes, count as f64);
    Ok(vec![
        Row::new("revocation: writes per key", bench.keys, per_key(&[Class::Write]), "")
            .detail(each(&[Class::Write]))
            .at_most(1.0),
        Row::new("revocation: reads per key", bench.keys, per_key(&[Class::Get, Class::List]), "").detail(format!(
            "{}; events: {}",
            each(&[Class::Get, Class::List]),
            each(&[Class::Event])
        )),
    ])
}

async fn set_revoked(bench: &Bench<'_>, count: usize, revoked: bool) -> anyhow::Result<()> {
    let patch = |_| json!({ "spec": { "revoked": revoked } });
    bench.cluster.patch_keys(&bench.namespace, count, Part::Spec, patch).await
}

/// Watches an operator that has nothing to do.
pub async fn idle(bench: &Bench<'_>, operator: &mut Operator, time: Duration) -> anyhow::Result<Vec<Row>> {
    bench.say(&format!("idle for {} s", time.as_secs()));
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    let before = operator.process.usage()?;
    tokio::time::sleep(time).await;
    requests.read()?;
    let after = operator.process.usage()?;
    operator.process.check()?;
    // The leader renews its Lease even when it does nothing else.
    ensure!(requests.counts.of(&[Class::Lease]) > 0, "the audit log does not show the operator");

    const WORK: [Class; 4] = [Class::Write, Class::Get, Class::List, Class::Event];
    let hours = time.as_secs_f64() / 3600.0;
    let an_hour = |classes: &[Class]| requests.counts.of(classes) as f64 / hours;
    let apart =
        format!("apart: {} watches, {} lease", number(an_hour(&[Class::Watch])), number(an_hour(&[Class::Lease])));
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    Ok(vec![
        Row::new("idle: requests an hour", bench.keys, an_hour(&WORK), "").detail(apart).at_most(0.0),
        Row::new("idle: CPU", bench.keys, cpu * 1000.0 / time.as_secs_f64(), "ms/s"),
    ])
}
