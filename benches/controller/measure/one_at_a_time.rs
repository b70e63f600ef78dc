//! One key at a time on an idle cluster: the time until it is Ready, next to the raw client's own three calls.
//!
//! All ways run on one cluster, in blocks that take turns, each in a namespace of its own. The operator works in one
//! namespace only, so it runs all the time, and sees nothing of the other ways.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kube::{Api, Client, api::PostParams};
use setupkey_operator::api::SetupKey;

use super::Bench;
use crate::{
    audit::Class,
    cluster::{client, key_name, key_spec},
    observer::Observer,
    operator::Operator,
    process::Process,
    raw::{self, Model},
    report::{Row, list, median, number, percentile},
    settings::BLOCKS,
};

/// Keys that come first and do not count.
const WARM_UP: usize = 25;
/// The pause between two keys, in milliseconds. It is random, so that nothing runs in step with it.
const PAUSE: std::ops::RangeInclusive<u64> = 30..=150;

/// A way in which a key becomes Ready.
enum Way<'a> {
    /// A program sees the key in its watch, and makes both writes. The time ends when the observer sees the key Ready.
    Watched(&'a mut Process),
    /// This process makes both writes, right after the create. The time ends with the answer to the last one.
    Called(&'a Client, &'a Model),
}

/// Keys that become Ready in one way.
struct Series {
    keys: Api<SetupKey>,
    observer: Observer,
    created: usize,
    /// Seconds for each key, by block.
    blocks: Vec<Vec<f64>>,
}

impl Series {
    async fn new(bench: &Bench<'_>, namespace: &str) -> anyhow::Result<Self> {
        bench.cluster.create_namespace(namespace).await?;
        let keys = bench.cluster.keys(namespace);
        let observer = Observer::start(keys.clone()).await?;
        Ok(Self { keys, observer, created: 0, blocks: Vec::new() })
    }

    /// Creates keys, each after the one before it is Ready.
    async fn block(&mut self, count: usize, mut way: Way<'_>) -> anyhow::Result<()> {
        let mut seconds = Vec::with_capacity(count);
        for _ in 0..count {
            tokio::time::sleep(Duration::from_millis(rand::random_range(PAUSE))).await;
            seconds.push(self.one(&mut way).await?.as_secs_f64());
        }
        self.blocks.push(seconds);
        Ok(())
    }

    async fn one(&mut self, way: &mut Way<'_>) -> anyhow::Result<Duration> {
        let name = key_name(self.created);
        self.created += 1;
        let key = SetupKey::new(&name, key_spec(50));
        let sent = Instant::now();
        let created = self.keys.create(&PostParams::default(), &key).await;
        let created = created.with_context(|| format!("could not create SetupKey {name}"))?;
        match way {
            Way::Watched(process) => {
                let limit = Duration::from_secs(30);
                self.observer.until("Ready", self.created, process, limit, |seen| seen.ready.is_some()).await?;
                let ready = self.observer.keys().get(&name).and_then(|seen| seen.ready);
                Ok(ready.with_context(|| format!("SetupKey {name} was not seen"))? - sent)
            }
            Way::Called(client, model) => {
                raw::two_writes(client, model, created).await?;
                Ok(sent.elapsed())
            }
        }
    }

    /// Milliseconds for each key after the warm-up.
    fn milliseconds(&self) -> impl Iterator<Item = f64> {
        self.blocks[1..].iter().flatten().map(|seconds| seconds * 1000.0)
    }

    fn at(&self, share: f64) -> f64 {
        percentile(self.milliseconds(), share)
    }

    fn medians(&self) -> impl Iterator<Item = f64> {
        self.blocks[1..].iter().map(|block| median(block.iter().copied()))
    }

    fn rows(&self, who: &str, keys: usize) -> [Row; 2] {
        let row = |name: &str, share| Row::new(format!("one at a time: {who}, {name}"), keys, self.at(share), "ms");
        [row("p50", 0.5), row("p99", 0.99).detail(format!("longest: {} ms", number(self.at(1.0))))]
    }
}

/// Creates the keys one after another, and returns the rows.
pub async fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let (cluster, keys) = (bench.cluster, bench.keys);
    let of_watching_client = format!("{}-watching-client", bench.namespace);
    let mut by_operator = Series::new(bench, &bench.namespace).await?;
    let mut by_calls = Series::new(bench, &format!("{}-raw-client", bench.namespace)).await?;
    let mut by_watching_client = Series::new(bench, &of_watching_client).await?;

    bench.say("one at a time: warming up, and taking the operator's writes as the raw client's model");
    let mut operator = Operator::start_with(cluster, &["--namespace", &bench.namespace]).await?;
    by_operator.block(WARM_UP, Way::Watched(&mut operator.process)).await?;
    raw::take_model(cluster, &bench.namespace).await?;
    let (model, client) = (Model::of(cluster)?, client(Path::new(&cluster.raw_client.kubeconfig)).await?);
    let mut watching_client = raw::start(cluster, &of_watching_client).await?;
    by_calls.block(WARM_UP, Way::Called(&client, &model)).await?;
    by_watching_client.block(WARM_UP, Way::Watched(&mut watching_client)).await?;

    let mut requests = cluster.requests_of(&cluster.operator)?;
    let mut of_raw_client = cluster.requests_of(&cluster.raw_client)?;
    for block in 1..=BLOCKS {
        bench.say(&format!("one at a time: block {block} of {BLOCKS}"));
        let mut order = [0, 1, 2];
        if block % 2 == 0 {
            order.reverse();
        }
        for way in order {
            match way {
                0 => by_calls.block(keys / BLOCKS, Way::Called(&client, &model)).await?,
                1 => by_watching_client.block(keys / BLOCKS, Way::Watched(&mut watching_client)).await?,
                _ => by_operator.block(keys / BLOCKS, Way::Watched(&mut operator.process)).await?,
            }
        }
    }
    requests.settle().await?;
    of_raw_client.settle().await?;
    drop(watching_client);
    operator.process.end().await?;
    let writes = of_raw_client.counts.of(&[Class::Write]);
    ensure!(writes == 4 * keys as u64, "the raw client made {writes} writes for {} keys", 2 * keys);

    let ratio = |name: &str, share| {
        let ratio = by_operator.at(share) / by_calls.at(share);
        Row::new(format!("one at a time: operator ÷ raw client, {name}"), keys, ratio, "")
    };
    let of_blocks = by_operator.medians().zip(by_calls.medians()).map(|(operator, raw)| operator / raw);
    let all = [Class::Write, Class::Get, Class::List];
    let counts = &requests.counts;
    let detail = format!("{}; events: {}", counts.list(&all, keys as f64), counts.list(&[Class::Event], keys as f64));
    let rows = [
        by_operator.rows("operator", keys),
        by_calls.rows("raw client", keys),
        by_watching_client.rows("raw client behind a watch", keys),
        [ratio("p50", 0.5).detail(list(of_blocks)).at_most(1.12), ratio("p99", 0.99).at_most(1.5)],
    ];
    let requests = Row::new("one at a time: requests per key", keys, counts.of(&all) as f64 / keys as f64, "");
    Ok(rows.into_iter().flatten().chain([requests.detail(detail).at_most(2.0)]).collect())
}
