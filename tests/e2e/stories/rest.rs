//! NetBird's REST API, for pods that have a token of their own.

use std::sync::Arc;

use serde_json::json;

use crate::{
    cluster::{Cluster, Place},
    release::Release,
};

/// The API has no rights of its own, so a caller sees only what its ServiceAccount may see.
pub async fn the_rest_api_shows_a_pod_what_its_service_account_may_see(cluster: Arc<Cluster>) {
    let release = Release::of(&cluster);
    // The service serves its own namespace.
    let place = Place { cluster: &cluster, namespace: release.namespace.clone() };
    place.apply_key("listed", "usageLimit: 7");
    place.ready("listed").await;
    for account in ["reader", "stranger"] {
        place.kubectl(&["create", "serviceaccount", account], "");
    }
    place.kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=setupkeys.setupkey.dev"], "");
    let bind = format!("--serviceaccount={}:reader", place.namespace);
    place.kubectl(&["create", "rolebinding", "reader", "--role=reader", &bind], "");

    let url = format!("http://{}-api.{}.svc/api/setup-keys", Release::NAME, place.namespace);
    // Only in the pod, the token is on a command line.
    let script = format!(
        "token=$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)
        wget -q -O - --header \"Authorization: Bearer $token\" {url} 2>&1; echo; echo answered"
    );
    for account in ["reader", "stranger"] {
        let container = json!({
            "name": "caller", "image": cluster.shell_image(), "command": ["sh", "-c", script],
        });
        let mut pod = place.restricted_pod(account, container, json!([]));
        pod["spec"]["serviceAccountName"] = account.into();
        pod["spec"]["automountServiceAccountToken"] = true.into();
        place.create_pod(pod).await;
    }
    let answer = place.log_with("reader", "answered").await;
    assert!(answer.contains("\"name\":\"listed\"") && answer.contains("\"usage_limit\":7"), "{answer}");
    let refusal = place.log_with("stranger", "answered").await;
    assert!(refusal.contains("403") && !refusal.contains("listed"), "{refusal}");
}
