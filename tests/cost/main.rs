//! What the controller costs for each settled key: bytes on the heap, and allocations of a pass. They are counted, not timed.
//!
//! If `HEAP_PROFILE` names a folder, two profiles for dhat's viewer are written there.
//!
//! The allocator counts all of the process, so this is a process of its own, without the tests of its modules.

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

#[path = "../integration/faults.rs"]
#[allow(dead_code, reason = "the other tests need all of it")]
mod faults;
#[path = "../integration/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other tests need all of it")]
mod harness;
#[path = "../integration/requests.rs"]
#[allow(dead_code, reason = "the other tests need all of it")]
mod requests;

use std::{path::Path, sync::Arc, time::Duration};

use dhat::{HeapStats, Profiler};
use futures::{StreamExt, stream};
use kube::api::ListParams;
use serde_json::json;

use harness::{Cluster, TestClock, condition, config_of, environment, eventually, operator_token};
use requests::Requests;
use setupkey_operator::{
    cluster::{Scope, connect, pages::LimitPages, tuned},
    controller::{self, Environment, metrics::Metrics},
};
use tokio_util::sync::CancellationToken;

/// Enough to fill the buffers of the connections, which are the same with any number of keys.
const FEW: usize = 600;
const MANY: usize = 2400;

/// The most bytes on the heap for a settled key with its Secret. Decoded, they would take twice as many.
const MOST_BYTES: usize = 2000;

/// The most allocations of a pass over a settled key. Most of them decode the key and the metadata of its Secret.
const MOST_ALLOCATIONS: u64 = 200;

/// A namespace with so many settled keys.
async fn settled(test: &str, keys: usize) -> Cluster {
    let cluster = Cluster::for_test(test).await;
    let operator = cluster.start_operator().await;
    let names = stream::iter((0..keys).map(|number| format!("key-{number:04}")));
    let spec = json!({ "autoGroups": ["servers"], "usageLimit": 20 });
    names.for_each_concurrent(16, async |name| cluster.apply_quickly(&name, spec.clone()).await).await;
    eventually("all keys to be Ready", || async {
        let all = cluster.keys().list(&ListParams::default()).await.unwrap().items;
        let statuses = all.iter().filter_map(|key| key.status.as_ref());
        let ready = statuses.filter(|status| condition(status, "Ready").is_some_and(|ready| ready.status == "True"));
        (ready.count() == keys).then_some(())
    })
    .await;
    operator.stop().await;
    cluster
}

/// Passes that the controller has made.
fn passes(metrics: &Metrics) -> usize {
    let metrics = metrics.expose().unwrap();
    let counts = metrics.lines().filter(|line| line.starts_with("setupkey_reconcile_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

async fn until_passes(metrics: &Metrics, count: usize) {
    for _ in 0..240 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if passes(metrics) >= count {
            return;
        }
    }
    panic!("{} passes and not {count}", passes(metrics));
}

/// Bytes on the heap of a controller of these keys, and allocations for another pass over each.
async fn cost(cluster: &Cluster, keys: usize) -> (usize, u64) {
    let _profiler = match std::env::var_os("HEAP_PROFILE") {
        Some(folder) => Profiler::builder().file_name(Path::new(&folder).join(format!("{keys}-keys.json"))).build(),
        None => Profiler::builder().testing().build(),
    };
    let clock = TestClock::default();
    // Without the faults of the other tests, which keep the last lists.
    let requests = Requests::default();
    let client = connect(tuned(config_of(operator_token().to_owned()).await)).unwrap();
    let metrics = Metrics::new(Arc::new(clock.clone()), 0);
    let environment = Environment {
        clock: Arc::new(clock.clone()),
        metrics: metrics.clone(),
        ..environment(client.with_layer(&requests).with_layer(&LimitPages).build())
    };
    let (readiness, shutdown) = (Arc::clone(&environment.readiness), CancellationToken::new());
    let scope = Scope::Namespaces(vec![cluster.namespace.clone()]);
    let controller = tokio::spawn(controller::run(environment, scope, shutdown.clone()));
    eventually("the controller to be ready", || async { readiness.is_ready().then_some(()) }).await;
    until_passes(&metrics, keys).await;
    let before = HeapStats::get();
    clock.step(chrono::Duration::hours(1));
    until_passes(&metrics, 2 * keys).await;
    let after = HeapStats::get();
    assert_eq!(requests.on_objects(), Vec::<String>::new(), "the keys are not settled");
    shutdown.cancel();
    controller.await.unwrap();
    (before.curr_bytes, after.total_blocks - before.total_blocks)
}

#[tokio::main]
async fn main() {
    let (few, many) = (settled("cost-few", FEW).await, settled("cost-many", MANY).await);
    let (few, many) = (cost(&few, FEW).await, cost(&many, MANY).await);
    let bytes = many.0.saturating_sub(few.0) / (MANY - FEW);
    let allocations = many.1.saturating_sub(few.1) / (MANY - FEW) as u64;
    println!("a settled key: {bytes} bytes on the heap, {allocations} allocations for a pass");
    assert!(bytes > 0 && bytes <= MOST_BYTES, "{bytes} bytes");
    assert!(allocations > 0 && allocations <= MOST_ALLOCATIONS, "{allocations} allocations");
}
