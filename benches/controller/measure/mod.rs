//! The measurements, in their order. Each one leaves the keys settled for the next.

mod creation;
mod expiry;
mod fail_over;
mod one_at_a_time;
mod restart;
mod rotation;
mod settled;
mod soak;

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::{
    cluster::Cluster,
    observer::Observer,
    report::{Report, Row},
    settings::{Part, Settings},
};

/// Keys of one size, on their cluster.
struct Bench<'a> {
    cluster: &'a Cluster,
    keys: usize,
    /// The namespace of the keys that the operator issued and that all later measurements use.
    namespace: String,
    begun: Instant,
}

impl Bench<'_> {
    fn say(&self, what: &str) {
        eprintln!("[{:>4.0} s] {} keys: {what}", self.begun.elapsed().as_secs_f64(), self.keys);
    }

    async fn observe(&self) -> anyhow::Result<Observer> {
        Observer::start(self.cluster.keys(&self.namespace)).await
    }

    /// How long an operation on every key may take.
    fn limit(&self) -> Duration {
        Duration::from_secs(60 + self.keys as u64 / 20)
    }
}

/// Measures everything. Each size has a control plane of its own, without objects from another size.
pub async fn all(settings: &Settings) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut report = None;
    if settings.has(Part::OneAtATime) {
        let cluster = Cluster::start().await?;
        let report = report.get_or_insert_with(|| begin(&cluster));
        let keys = settings.one_at_a_time;
        let bench = Bench { cluster: &cluster, keys, namespace: "one-at-a-time".to_owned(), begun };
        report.rows.extend(one_at_a_time::measure(&bench).await?);
    }
    for &keys in settings.sizes.iter().filter(|_| settings.has(Part::ManyKeys)) {
        let cluster = Cluster::start().await?;
        let report = report.get_or_insert_with(|| begin(&cluster));
        let bench = Bench { cluster: &cluster, keys, namespace: "settled".to_owned(), begun };
        let largest = settings.sizes.last() == Some(&keys);
        report.rows.extend(of_size(&bench, settings, largest, &mut report.curves).await?);
    }
    if settings.has(Part::Soak) && settings.soak > 0 {
        let cluster = Cluster::start().await?;
        let report = report.get_or_insert_with(|| begin(&cluster));
        let bench = Bench { cluster: &cluster, keys: settings.soak * 1000, namespace: "soak".to_owned(), begun };
        report.rows.extend(soak::measure(&bench, settings.soak).await?);
    }
    report.context("BENCH_PARTS, BENCH_SIZES and BENCH_SOAK leave nothing to measure")
}

fn begin(cluster: &Cluster) -> Report {
    Report::new("controller", "make bench", cluster.version.clone())
}

async fn of_size(
    bench: &Bench<'_>,
    settings: &Settings,
    largest: bool,
    curves: &mut Vec<crate::report::Curve>,
) -> anyhow::Result<Vec<Row>> {
    let (mut operator, mut rows) = creation::measure(bench, curves).await?;
    rows.extend(settled::revocation(bench, &mut operator).await?);
    rows.extend(settled::idle(bench, &mut operator, settings.idle).await?);
    rows.extend(rotation::measure(bench, &mut operator).await?);
    operator.process.end().await?;
    let (mut operator, start) = restart::measure(bench, &mut rows).await?;
    if largest && settings.foreign > 0 {
        operator.process.end().await?;
        operator = restart::with_foreign_secrets(bench, settings.foreign, &start, &mut rows).await?;
    }
    let (operator, spread) = expiry::spread(bench, operator).await?;
    let (operator, all_at_once) = expiry::all_at_once(bench, operator).await?;
    rows.extend([spread, all_at_once]);
    operator.process.end().await?;
    if largest {
        rows.extend(fail_over::measure(bench).await?);
    }
    Ok(rows)
}
