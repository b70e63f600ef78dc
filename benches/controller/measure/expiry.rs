//! How soon after its expiry a key reads expired.
//!
//! A key lives at least a day, so the benchmark moves the expiry. It is fixed in the status when the key is issued, and
//! the operator reads it there.

use anyhow::Context as _;
use chrono::Utc;
use serde_json::json;
use setupkey_operator::api::{State, Timestamp};

use super::Bench;
use crate::{
    cluster::Part,
    operator::Operator,
    report::{Row, number},
};

/// The most keys that expire one after another, and the seconds over which they are spread.
const SPREAD_KEYS: usize = 1000;
const SPREAD_SECONDS: u64 = 20;

/// Some keys, a few each second.
pub async fn spread(bench: &Bench<'_>, operator: Operator) -> anyhow::Result<(Operator, Row)> {
    let count = bench.keys.min(SPREAD_KEYS);
    bench.say(&format!("{count} keys expire over {SPREAD_SECONDS} s"));
    let (operator, lateness) = expire(bench, operator, count, SPREAD_SECONDS).await?;
    let percentile = |percent: usize| lateness[(lateness.len() * percent).div_ceil(100) - 1];
    let row =
        Row::new(format!("expiry: late, p99 of {count} keys in {SPREAD_SECONDS} s"), bench.keys, percentile(99), "s")
            .detail(format!("p50 {}, max {}", number(percentile(50)), number(percentile(100))))
            .at_most(1.0);
    Ok((operator, row))
}

/// All keys, in one second.
pub async fn all_at_once(bench: &Bench<'_>, operator: Operator) -> anyhow::Result<(Operator, Row)> {
    bench.say("all keys expire in one second");
    let (operator, lateness) = expire(bench, operator, bench.keys, 1).await?;
    let last = lateness.last().copied().context("no key expired")?;
    let row = Row::new("expiry: all in one second, until all read so", bench.keys, last, "s").at_most(120.0);
    Ok((operator, row))
}

/// Lets keys expire over this many seconds. Returns the running operator, and how many seconds late each key read expired,
/// sorted.
async fn expire(
    bench: &Bench<'_>,
    operator: Operator,
    count: usize,
    seconds: u64,
) -> anyhow::Result<(Operator, Vec<f64>)> {
    let observer = bench.observe().await?;
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    // The operator handles each new expiry with a write of its own. All of them must be done when the first key
    // expires.
    let preparation = 10 + count as u64 / 100;
    let first = Timestamp::from(Utc::now()).plus_seconds(preparation);
    let moment = |number: usize| first.plus_seconds(number as u64 % seconds);
    let patch = |number| json!({ "status": { "expires": moment(number).to_string() } });
    // A running operator undoes what another writer moves to a later moment. It believes what it finds when it starts.
    operator.process.end().await?;
    bench.cluster.patch_keys(&bench.namespace, count, Part::Status, patch).await?;
    let mut operator = Operator::start(bench.cluster).await?;
    requests.settle().await?;
    anyhow::ensure!(
        Utc::now() < first.moment(),
        "this machine could not move the expiry of {count} keys within {preparation} s"
    );

    let expired = |seen: &crate::observer::Seen| {
        seen.state == Some(State::Expired) && seen.expires.is_some_and(|expires| expires >= first)
    };
    observer.until("expired", count, &mut operator.process, bench.limit(), expired).await?;
    let mut lateness: Vec<_> = {
        let keys = observer.keys();
        let late = keys
            .values()
            .filter(|seen| expired(seen))
            .filter_map(|seen| Some((seen.state_since - seen.expires?.moment()).as_seconds_f64()));
        late.collect()
    };
    lateness.sort_by(f64::total_cmp);
    requests.settle().await?;
    Ok((operator, lateness))
}
