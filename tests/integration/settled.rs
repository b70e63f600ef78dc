//! What a settled key costs.

use crate::harness::{Cluster, QUIET, exactly, quiet_for};

#[tokio::test(flavor = "multi_thread")]
async fn settled_keys_cost_no_request() {
    let cluster = Cluster::for_test("settled").await;
    let operator = cluster.start_operator().await;
    let names: Vec<_> = (0..20).map(|number| format!("key-{number}")).collect();
    for name in &names {
        cluster.apply(name, "secret: {labels: {team: a}}");
    }
    for name in &names {
        cluster.ready(name).await;
    }
    // Each key costs its two writes and nothing more, while the operator runs and when another one starts.
    exactly(40, QUIET, || operator.requests.on_objects()).await;
    operator.stop().await;

    let operator = cluster.start_operator().await;
    quiet_for(&operator.requests, QUIET).await;
    operator.stop().await;
}
