//! How long a machine waits at a low rate.

use super::{Bench, KEYS, REPLICAS};
use crate::{
    machines,
    report::{Row, number},
    service,
};

const PER_SECOND: u32 = 50;

pub async fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    bench.say(&format!("{PER_SECOND} machines a second"));
    let keys = bench.issue("steady", KEYS).await?;
    let replicas = service::start(bench.cluster, REPLICAS).await?;
    let addresses = service::addresses(&replicas);
    let mut waited = machines::join_steadily(&addresses, &keys.values, PER_SECOND, bench.settings.steady).await?;
    service::end(replicas).await?;
    waited.sort_by(f64::total_cmp);
    let at = |share: f64| waited[((waited.len() as f64 * share) as usize).min(waited.len() - 1)] * 1000.0;
    Ok(vec![
        Row::new(format!("time to join at {PER_SECOND}/s, p50"), KEYS, at(0.5), "ms"),
        Row::new(format!("time to join at {PER_SECOND}/s, p99"), KEYS, at(0.99), "ms")
            .detail(format!("longest: {} ms", number(at(1.0)))),
    ])
}
