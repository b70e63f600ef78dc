//! How watches list what is there.

use crate::{
    faults::{Fault, Faults},
    harness::{Cluster, Setup},
};

/// The kinds that were listed in pages.
fn kinds(paths: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut kinds: Vec<_> =
        paths.into_iter().map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect();
    kinds.sort();
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_streamed_and_come_in_pages_where_that_is_refused() {
    let cluster = Cluster::for_test("lists").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    assert_eq!(kinds(operator.requests.paged()), Vec::<String>::new());
    operator.stop().await;

    let mut setup = Setup {
        faults: Faults::by(|sent, _| sent.is_streamed_list().then_some(Fault::Answer(422))),
        ..Setup::default()
    };
    setup.authorities.of_cluster = true;
    let operator = cluster.start_operator_with(setup).await;
    cluster.apply("laptops", "");
    cluster.ready("laptops").await;
    let all = ["authorities", "clusterauthorities", "namespaces", "peers", "secrets", "setupkeys"];
    assert_eq!(kinds(operator.requests.paged()), all);
    operator.stop().await;
}
