//! A soak: keys and Peers come and go, and the memory of the operator must not grow with those that are gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use setupkey_operator::api::Peer;

use super::Bench;
use crate::{
    cluster::{key_name, key_spec},
    observer::Observer,
    operator::Operator,
    report::{Row, list},
    shared::peers,
};

/// Keys of a round, and as many Peers.
const ROUND: usize = 1000;
/// Requests in flight.
const AT_A_TIME: usize = 32;
/// The rounds that fill the allocator's pools and the operator's caches. Growth is measured from then on.
const WARM_UP: usize = 5;
const MEBIBYTE: f64 = (1 << 20) as f64;
/// How long all of a round may take to disappear.
const PATIENCE: Duration = Duration::from_secs(120);
/// The operator drops what it keeps of deleted keys within this time.
const REST: Duration = Duration::from_secs(3);

/// Lets this many rounds of keys and Peers come and go.
pub async fn measure(bench: &Bench<'_>, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let namespace = "soak";
    bench.cluster.create_namespace(namespace).await?;
    let mut operator = Operator::start(bench.cluster).await?;
    let begun = Instant::now();
    let mut resident = Vec::new();
    for round in 1..=rounds {
        bench.say(&format!("soak, round {round} of {rounds}"));
        come(bench, namespace, &mut operator).await?;
        go(bench, namespace).await?;
        tokio::time::sleep(REST).await;
        operator.process.check()?;
        resident.push(operator.process.usage()?.resident / MEBIBYTE);
    }
    operator.process.end().await?;
    bench.cluster.delete_namespace(namespace).await?;
    let (first, last) = (resident[WARM_UP.min(rounds) - 1], resident[rounds - 1]);
    let gone = rounds * ROUND;
    let growth = (last - first) * MEBIBYTE / ((rounds - WARM_UP.min(rounds)).max(1) * ROUND) as f64;
    Ok(vec![
        Row::new("soak: memory after the last ÷ after the fifth thousand", gone, last / first, "")
            .detail(format!("MiB after each thousand: {}; in {:.0} s", list(resident), begun.elapsed().as_secs_f64()))
            .at_most(1.1),
        Row::new("soak: growth per key and Peer that are gone", gone, growth, "bytes"),
    ])
}

async fn come(bench: &Bench<'_>, namespace: &str, operator: &mut Operator) -> anyhow::Result<()> {
    let observer = Observer::start(bench.cluster.keys(namespace)).await?;
    let spec = key_spec(50);
    tokio::try_join!(
        bench.cluster.create_keys(namespace, ROUND, &spec),
        observer.until("Ready", ROUND, &mut operator.process, PATIENCE, |seen| seen.ready.is_some()),
    )?;
    let key = bench.cluster.keys(namespace).get(&key_name(0)).await.context("could not read a SetupKey")?;
    let peers: Api<Peer> = Api::namespaced(bench.cluster.admin.clone(), namespace);
    let (peers, key) = (&peers, &key);
    let created = stream::iter(0..ROUND).map(Ok).try_for_each_concurrent(AT_A_TIME, |_| async move {
        peers.create(&PostParams::default(), &peers::any(key)).await.context("could not create a Peer")?;
        anyhow::Ok(())
    });
    created.await
}

/// Deletes all, and waits until nothing is left.
async fn go(bench: &Bench<'_>, namespace: &str) -> anyhow::Result<()> {
    let (keys, peers) =
        (bench.cluster.keys(namespace), Api::<Peer>::namespaced(bench.cluster.admin.clone(), namespace));
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(bench.cluster.admin.clone(), namespace);
    let (delete, all) = (DeleteParams::default(), ListParams::default());
    keys.delete_collection(&delete, &all).await.context("could not delete the SetupKeys")?;
    peers.delete_collection(&delete, &all).await.context("could not delete the Peers")?;
    // The garbage collector would delete them too, one after another. The operator sees the same deletions.
    secrets.delete_collection(&delete, &all).await.context("could not delete the Secrets")?;
    let begun = Instant::now();
    let first = all.limit(1);
    while !(secrets.list_metadata(&first).await?.items.is_empty()
        && peers.list_metadata(&first).await?.items.is_empty())
    {
        ensure!(begun.elapsed() < PATIENCE, "the Secrets of {ROUND} SetupKeys were not deleted within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
