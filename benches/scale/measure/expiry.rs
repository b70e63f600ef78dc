//! All keys expire in one second.

use std::time::Duration;

use chrono::Utc;
use setupkey_operator::api::{State, Timestamp};

use super::MEBIBYTE;
use crate::{
    Bench,
    audit::Class,
    observer::{Observer, Seen},
    operator::Operator,
    report::{Row, number},
};

/// Waits for the moment and until all keys read expired.
pub async fn measure(
    bench: &Bench,
    operator: &mut Operator,
    observer: &Observer,
    moment: Timestamp,
) -> anyhow::Result<Vec<Row>> {
    let mut requests = bench.cluster.requests_of(&bench.cluster.operator)?;
    let before = operator.process.usage()?.cpu;
    let left = (moment.moment() - Utc::now()).to_std().unwrap_or_default();
    bench.say(&format!("all keys expire in {} s", left.as_secs()));
    tokio::time::sleep(left).await;
    let limit = Duration::from_secs(120 + bench.keys as u64 / 100);
    let expired = |seen: &Seen| seen.state == Some(State::Expired);
    observer.until("expired", bench.keys, &mut operator.process, limit, expired).await?;
    let last = observer.keys().values().map(|seen| seen.state_since).max().unwrap_or_else(Utc::now);
    let seconds = (last - moment.moment()).as_seconds_f64();
    bench.say(&format!("all keys read expired after {seconds:.1} s"));
    requests.settle().await?;
    let (counts, usage) = (&requests.counts, operator.process.usage()?);
    let keys = bench.keys as f64;
    let each = |classes: &[Class]| counts.list(classes, keys);
    let refused = counts.refused();
    Ok(vec![
        Row::new("expiry: all in one second, until all read so", bench.keys, seconds, "s")
            .detail(format!("{} keys/s", number(keys / seconds)))
            .at_most(240.0),
        Row::new("expiry: writes per key", bench.keys, counts.of(&[Class::Write]) as f64 / keys, "")
            .detail(each(&[Class::Write]))
            .at_most(1.0),
        Row::new("expiry: reads per key", bench.keys, counts.of(&[Class::Get, Class::List]) as f64 / keys, "")
            .detail(format!("{}; events: {}", each(&[Class::Get, Class::List]), each(&[Class::Event]))),
        Row::new("expiry: requests that failed", bench.keys, refused as f64, "").at_most(0.0),
        Row::new("expiry: CPU, operator", bench.keys, (usage.cpu - before).as_secs_f64(), "s"),
        Row::new("memory: after the expiry", bench.keys, usage.resident / MEBIBYTE, "MiB")
            .detail(format!("peak {}", number(usage.peak / MEBIBYTE)))
            .at_most(256.0),
    ])
}
