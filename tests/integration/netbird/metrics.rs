//! What Prometheus sees of an authority.

use serde_json::json;

use super::world::{AUTHORITY, World};
use crate::{
    harness::eventually,
    observability::{ABOUT_AUTHORITIES, metrics_in, queries},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_query_about_authorities_is_about_a_metric_that_is_exposed() {
    let world = World::new("authority_queries").await;
    let (cluster, api) = (&world.cluster, &world.netbird.api);
    let operator = cluster.start_operator().await;
    world.issue("office", json!({})).await;
    let labels = format!("{{authority=\"Authority/{}/{AUTHORITY}\"}}", cluster.namespace);
    let shows = async |what: &str, holds: &dyn Fn(&str) -> bool| {
        eventually(what, || async { holds(&operator.metrics.expose().unwrap()).then_some(()) }).await;
    };

    // A key with the mark of the SetupKey, as a lost answer would have left it.
    let uid = cluster.keys().get("office").await.unwrap().metadata.uid.unwrap();
    let left = api.create_key(&format!("left [{}/office {uid}]", cluster.namespace), json!({})).await;
    let removed = format!("setupkey_authority_leftovers_removed_total{labels} 1\n");
    shows("a left-over key to be counted", &|text| text.contains(&removed)).await;
    assert!(api.key(&left.id).await.is_none(), "it is counted, and it is there");

    let text = operator.metrics.expose().unwrap();
    assert!(text.contains(&format!("setupkey_authority_up{labels} 1\n")), "{text}");
    let (exposed, queries) = (metrics_in(&text), queries());
    let queries: Vec<_> = queries.iter().filter(|query| query.contains(ABOUT_AUTHORITIES)).collect();
    assert!(queries.len() >= 7, "{queries:?}");
    for query in queries {
        let asked = metrics_in(query);
        assert!(asked.is_subset(&exposed), "{query} asks for {:?}", asked.difference(&exposed));
    }

    // The gauges of an authority disappear with it.
    cluster.kubectl_ok(&["delete", "sk", "office"], "");
    cluster.kubectl_ok(&["delete", "ska", AUTHORITY], "");
    shows("the gauge to disappear", &|text| !text.contains(&format!("setupkey_authority_up{labels}"))).await;
    operator.stop().await;
}
