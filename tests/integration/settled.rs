//! What a key costs once there is nothing to do.

use crate::harness::{Cluster, let_it_settle};

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
    let_it_settle().await;
    assert_eq!(operator.requests.on_objects().len(), 40, "{:#?}", operator.requests.on_objects());
    operator.requests.clear();
    let_it_settle().await;
    assert_eq!(operator.requests.on_objects(), Vec::<String>::new(), "while it runs");
    operator.stop().await;

    let operator = cluster.start_operator().await;
    let_it_settle().await;
    assert_eq!(operator.requests.on_objects(), Vec::<String>::new(), "over a restart");
    operator.stop().await;
}
