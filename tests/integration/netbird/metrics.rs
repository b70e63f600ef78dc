//! What Prometheus sees of an authority.

use secrecy::ExposeSecret;
use serde_json::json;

use crate::{
    harness::{Cluster, eventually, netbird::NetBird},
    observability::{ABOUT_AUTHORITIES, metrics_in, queries},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_query_about_authorities_is_about_a_metric_that_is_exposed() {
    let netbird = NetBird::for_test("authority_queries").await;
    let cluster = Cluster::for_test("authority_queries").await;
    let operator = cluster.start_operator().await;
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "token" },
        "stringData": { "NB_API_KEY": netbird.admin.token.expose_secret() },
    });
    cluster.kubectl_ok(&["create", "-f", "-"], &token.to_string());
    let list_every = |interval: &str| {
        let netbird = json!({ "url": netbird.base_url, "tokenSecretRef": { "name": "token" }, "interval": interval });
        let authority = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
            "spec": { "netbird": netbird },
        });
        cluster.kubectl_ok(&["apply", "-f", "-"], &authority.to_string());
    };
    list_every("1h");
    cluster.apply("office", "authorityRef: {name: netbird}");
    cluster.ready("office").await;

    // A key with the mark of the SetupKey, as a lost answer would have left it. A change of the authority has it listed.
    let uid = cluster.keys().get("office").await.unwrap().metadata.uid.unwrap();
    let left = netbird.api.create_key(&format!("left [{}/office {uid}]", cluster.namespace), json!({})).await;
    list_every("59m");
    eventually("the left-over key to be deleted", || async { netbird.api.key(&left.id).await.is_none().then_some(()) })
        .await;

    let labels = format!("{{authority=\"Authority/{}/netbird\"}}", cluster.namespace);
    let text = operator.metrics.expose().unwrap();
    assert!(text.contains(&format!("setupkey_authority_up{labels} 1\n")), "{text}");
    assert!(text.contains(&format!("setupkey_authority_leftovers_removed_total{labels} 1\n")), "{text}");
    let (exposed, queries) = (metrics_in(&text), queries());
    let queries: Vec<_> = queries.iter().filter(|query| query.contains(ABOUT_AUTHORITIES)).collect();
    assert!(queries.len() >= 7, "{queries:?}");
    for query in queries {
        let asked = metrics_in(query);
        assert!(asked.is_subset(&exposed), "{query} asks for {:?}", asked.difference(&exposed));
    }
    cluster.kubectl_ok(&["delete", "sk", "office"], "");

    // The gauges of an authority disappear with it.
    cluster.kubectl_ok(&["delete", "ska", "netbird"], "");
    eventually("the gauges to disappear", || async {
        let text = operator.metrics.expose().unwrap();
        (!text.contains(&format!("setupkey_authority_up{labels}"))).then_some(())
    })
    .await;
    operator.stop().await;
}
