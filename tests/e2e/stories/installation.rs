//! The chart, and what it gives to those who run it.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::{
    cluster::{Cluster, eventually},
    keys::sha256sum,
    pods::{Key, Script},
    release::Release,
};

/// Two replicas, both ready by their probes, and one of them leads.
pub async fn the_chart_installs_under_pod_security_restricted(cluster: Arc<Cluster>) {
    let place = cluster.namespace("operator").await;
    let careless = ["run", "careless", "--image=none", "--dry-run=server"];
    let refusal = place.try_kubectl(&careless, "").expect_err("a pod that promises nothing is let in");
    assert!(refusal.contains("violates PodSecurity \"restricted"), "{refusal}");
    let release = Release::of(&cluster);
    release.install();
    release.settled().await;
    for pod in release.pods().await {
        let status = pod.status.as_ref().unwrap();
        let container = &status.container_statuses.as_ref().unwrap()[0];
        assert!(container.ready, "{}", pod.name_any());
        // Nobody but the kubelet has judged it, by the chart's own probes.
        let spec = &pod.spec.as_ref().unwrap().containers[0];
        assert!(spec.readiness_probe.is_some() && spec.liveness_probe.is_some());
    }
    let (lease, leader) = release.leader().await;
    // Who stands by says so, too.
    let names: BTreeSet<_> = release.pods().await.iter().map(Pod::name_any).collect();
    assert!(names.contains(&leader.name_any()));
    assert!(lease.spec.unwrap().renew_time.is_some());
}

/// By the Service's name, as Prometheus would from a pod.
pub async fn metrics_are_scraped_through_the_service(cluster: Arc<Cluster>) {
    let place = cluster.namespace("metrics").await;
    place.apply_key("scraped", "usageLimit: 7");
    place.ready("scraped").await;
    let release = Release::of(&cluster);
    let url = format!("http://{}-metrics.{}:8081/metrics", Release::NAME, release.namespace);
    // The Service chooses a replica, and the leader alone has the keys' series.
    let script = format!(
        "until wget -q -O - {url} | grep 'setupkey_usage_limit.*name=\"scraped\".* 7'; do sleep 1; done
        echo scraped"
    );
    place.start(Script { name: "prometheus", script: &script, key: Key::None }).await;
    place.log_with("prometheus", "\nscraped").await;
}

/// After all that has happened until here.
pub async fn logs_are_read_with_kubectl_and_hold_no_key(cluster: Arc<Cluster>) {
    let place = cluster.namespace("logs").await;
    place.apply_key("logged", "");
    place.ready("logged").await;
    let release = Release::of(&cluster);
    let logs = eventually("the operator to log the new key", || async {
        Some(release.logs()).filter(|logs| logs.contains(&place.namespace) && logs.contains("logged"))
    })
    .await;
    let values = cluster.key_values().await;
    assert!(!values.is_empty());
    for value in values {
        assert_eq!(value.len(), 36, "that is no key");
        // The message must not print it either.
        assert!(!logs.contains(&value), "a key is in the log");
    }
    assert!(!logs.contains(&sha256sum(&place.ready("logged").await)));
}
