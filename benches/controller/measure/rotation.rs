//! Rotating keys that are all due in one second, next to creating as many.

use std::time::Instant;

use anyhow::ensure;
use chrono::Utc;
use serde_json::json;
use setupkey_operator::api::{Timestamp, metadata::ROTATE_ANNOTATION};

use super::Bench;
use crate::{
    audit::Class,
    cluster::{Part, key_spec},
    observer::{Observer, Seen},
    operator::Operator,
    report::{Row, number},
};

/// The most keys that rotate; each is created for it.
const MOST: usize = 1000;

/// Creates keys, and lets a request for one moment rotate all of them.
pub async fn measure(bench: &Bench<'_>, operator: &mut Operator) -> anyhow::Result<Vec<Row>> {
    const NAMESPACE: &str = "rotation";
    let (cluster, count) = (bench.cluster, bench.keys.min(MOST));
    bench.say(&format!("{count} keys rotate in one second"));
    cluster.create_namespace(NAMESPACE).await?;
    let observer = Observer::start(cluster.keys(NAMESPACE)).await?;
    let mut requests = cluster.requests_of(&cluster.operator)?;
    let begun = Instant::now();
    cluster.create_keys(NAMESPACE, count, &key_spec(50)).await?;
    observer.until("Ready", count, &mut operator.process, bench.limit(), |seen| seen.ready.is_some()).await?;
    let ready = observer.keys().values().filter_map(|seen| seen.ready).max();
    let created = ready.map_or(0.0, |ready| (ready - begun).as_secs_f64());

    // Each key notes the moment in its status, which must be done when it comes.
    let preparation = 10 + count as u64 / 50;
    let moment = Timestamp::from(Utc::now()).plus_seconds(preparation);
    let patch = |_| json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: moment } } });
    cluster.patch_keys(NAMESPACE, count, Part::Spec, patch).await?;
    requests.settle().await?;
    ensure!(Utc::now() < moment.moment(), "this machine could not annotate {count} keys within {preparation} s");
    let before = requests.counts.clone();
    let rotated = |seen: &Seen| seen.revision == Some(2);
    observer.until("rotated", count, &mut operator.process, bench.limit(), rotated).await?;
    let last = observer.keys().values().map(|seen| seen.revision_since).max();
    let seconds = last.map_or(0.0, |last| (last - moment.moment()).as_seconds_f64());
    bench.say(&format!("{count} keys took {created:.2} s to be created, and {seconds:.2} s to rotate"));
    requests.settle().await?;
    let writes = requests.counts.of(&[Class::Write]) - before.of(&[Class::Write]);
    ensure!(writes >= 2 * count as u64, "{count} keys have rotated, and the audit log shows {writes} writes");
    drop(observer);
    cluster.delete_namespace(NAMESPACE).await?;
    let beside = format!("{} × creating as many, which took {} s", number(seconds / created), number(created));
    Ok(vec![
        Row::new(
            format!("rotation: {count} keys in one second, until all have the next key"),
            bench.keys,
            seconds,
            "s",
        )
        .detail(beside),
        Row::new("rotation: writes per key", bench.keys, writes as f64 / count as f64, "").at_most(2.0),
    ])
}
