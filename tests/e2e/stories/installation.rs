//! The chart, and what it gives its users.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use setupkey_operator::key::Digest;

use crate::{
    cluster::{Cluster, eventually},
    keys::sha256sum,
    node,
    pods::{Key, Script},
    release::Release,
};

/// Controller, enrollment service and REST API: all replicas are ready by their probes, and one controller leads.
pub async fn the_chart_installs_under_pod_security_restricted(cluster: Arc<Cluster>) {
    let place = cluster.namespace("operator").await;
    let careless = ["run", "careless", "--image=none", "--dry-run=server"];
    let refusal = place.try_kubectl(&careless, "").expect_err("a pod that promises nothing is let in");
    assert!(refusal.contains("violates PodSecurity \"restricted"), "{refusal}");
    let release = Release::of(&cluster);
    release.certify().await;
    release.install();
    release.settled().await;
    for pod in release.pods(Release::SELECTOR).await {
        let status = pod.status.as_ref().unwrap();
        let container = &status.container_statuses.as_ref().unwrap()[0];
        assert!(container.ready, "{}", pod.name_any());
        // The kubelet has judged the pod, by the chart's own probes.
        let spec = &pod.spec.as_ref().unwrap().containers[0];
        assert!(spec.readiness_probe.is_some() && spec.liveness_probe.is_some());
    }
    let (lease, leader) = release.leader().await;
    // The leader is one of the release's pods.
    let names: BTreeSet<_> = release.pods(Release::CONTROLLER).await.iter().map(Pod::name_any).collect();
    assert!(names.contains(&leader.name_any()));
    assert!(lease.spec.unwrap().renew_time.is_some());
}

/// By the name of the Service, as Prometheus does it from a pod.
pub async fn metrics_are_scraped_through_the_service(cluster: Arc<Cluster>) {
    let place = cluster.namespace("metrics").await;
    place.apply_key("scraped", "usageLimit: 7");
    place.ready("scraped").await;
    let release = Release::of(&cluster);
    let url = format!("http://{}-metrics.{}:8081/metrics", Release::NAME, release.namespace);
    // The Service chooses a replica, and only the leader has the series of the keys.
    let script = format!(
        "until wget -q -O - {url} | grep 'setupkey_usage_limit.*name=\"scraped\".* 7'; do sleep 1; done
        echo scraped"
    );
    place.start(Script { name: "prometheus", script: &script, key: Key::None }).await;
    place.log_with("prometheus", "\nscraped").await;
}

/// Covers everything that has happened in the stories before.
pub async fn logs_are_read_with_kubectl_and_hold_no_key(cluster: Arc<Cluster>) {
    let place = cluster.namespace("logs").await;
    place.apply_key("logged", "");
    place.ready("logged").await;
    place.publish_authority().await;
    let peer = place.enrolled("machine", "logged").await;
    let release = Release::of(&cluster);
    eventually("the operator to log the new key", || async {
        Some(release.logs()).filter(|logs| logs.contains(&place.namespace) && logs.contains("logged"))
    })
    .await;
    place.log_with("machine", &peer.name_any()).await;
    let logs = cluster.logs();
    // The messages must not print a secret either.
    let values = cluster.key_values().await;
    assert!(values.contains(&place.value("logged").await));
    for value in values {
        assert_eq!(value.len(), 36, "that is no key");
        assert!(!logs.contains(&value), "a key is in a log");
    }
    assert!(!logs.contains(&sha256sum(&place.ready("logged").await)));
    let peers = cluster.peers().await;
    assert!(peers.len() > 1);
    let digests: BTreeSet<_> = peers.into_iter().map(|peer| peer.spec.token_digest).collect();
    // Only a pod knows its token, but the digest of the token is known.
    let is_in_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let holds_a_token = |text: &str| {
        let mut words = text.split(|c| !is_in_base64(c)).filter(|word| word.len() >= 43);
        words.any(|word| digests.contains(Digest::of(word).as_str()))
    };
    assert!(!holds_a_token(&logs), "the token of a peer is in a log");
    if cluster.is_ours() {
        let pod = place.api::<Pod>().get("machine").await.unwrap();
        assert!(holds_a_token(&node::file_of_pod(&pod, "state", "peer")), "tokens are not recognised");
    }
    assert!(!logs.contains("eyJhbGciOi"), "the token of a ServiceAccount is in a log");
    place.delete_pod("machine").await;
}
