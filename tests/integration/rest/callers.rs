//! The rights of a caller: its token and Kubernetes' RBAC decide, and nothing else.

use serde_json::{Value, json};

use super::{
    Rest, a_change, a_key, path,
    tokens::{EVERYTHING, token, token_of, with_lifetime},
};
use crate::harness::Cluster;

/// Each of the five calls, with a valid request.
fn calls(id: &Value) -> [(String, Value); 5] {
    [
        ("GET /api/setup-keys".to_owned(), Value::Null),
        ("POST /api/setup-keys".to_owned(), a_key("new")),
        (format!("GET {}", path(id)), Value::Null),
        (format!("PUT {}", path(id)), a_change(true, &["changed"])),
        (format!("DELETE {}", path(id)), Value::Null),
    ]
}

/// A cluster with one key, and how that key looks before any call.
async fn with_a_key(test: &str) -> (Cluster, Rest, Value) {
    let cluster = Cluster::for_test(test).await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let id = cluster.ready("office").await.id.into();
    operator.stop().await;
    let rest = Rest::of(&cluster).await;
    (cluster, rest, id)
}

fn keys(cluster: &Cluster) -> String {
    cluster.kubectl_ok(&["get", "sk", "-o", "jsonpath={.items[*].spec}"], "")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_lends_its_own_credentials_to_nobody() {
    let (cluster, rest, id) = with_a_key("rest_no_token").await;
    let before = keys(&cluster);
    for (call, body) in calls(&id) {
        for authorization in [None, Some(""), Some("Basic YWRtaW46YWRtaW4="), Some("nonsense")] {
            let answer = rest.send(authorization, &call, &body.to_string()).await;
            assert_eq!(answer.refused(401), "no valid authentication provided", "{call} with {authorization:?}");
        }
        for token in ["", " nonsense", "nonsense", "nbp_0123456789012345678901234567890123456789"] {
            assert_eq!(rest.ask(token, &call, body.clone()).await.refused(401), "token invalid", "{call}");
        }
    }
    assert_eq!(keys(&cluster), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_kubernetes_does_not_take_are_not_taken() {
    let (cluster, rest, id) = with_a_key("rest_bad_tokens").await;
    let good = token_of(&cluster, "user", EVERYTHING);
    let elsewhere = token(&cluster, "user", &["--audience=https://elsewhere.example.com"]);
    let expired = with_lifetime(&good, 600);
    let before = keys(&cluster);
    for (call, body) in calls(&id) {
        for (token, what) in [(&elsewhere, "for another audience"), (&expired, "expired")] {
            assert_eq!(rest.ask(token, &call, body.clone()).await.refused(401), "token invalid", "{call}, {what}");
        }
    }
    assert_eq!(keys(&cluster), before);
    // Only the lifetime was wrong: the same token, made the same way, is accepted while it lasts.
    rest.ask(&with_lifetime(&good, 7200), "GET /api/setup-keys", Value::Null).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_takes_the_rights_that_it_would_take_without_us() {
    let (cluster, rest, id) = with_a_key("rest_rbac").await;
    let before = keys(&cluster);
    let nobody = token_of(&cluster, "nobody", &[]);
    for (call, body) in calls(&id) {
        let answer = rest.ask(&nobody, &call, body).await;
        assert!(answer.refused(403).starts_with("permission denied: "), "{call}: {}", answer.body);
    }
    let reader = token_of(&cluster, "reader", &["list,get setupkeys.setupkey.dev"]);
    for (call, body) in calls(&id) {
        let answer = rest.ask(&reader, &call, body).await;
        if call.starts_with("GET") {
            assert!(answer.granted().to_string().contains("office"));
        } else {
            assert!(answer.refused(403).starts_with("permission denied: "), "{call}: {}", answer.body);
        }
    }
    // The message names the missing right.
    let answer = rest.ask(&reader, &format!("DELETE {}", path(&id)), Value::Null).await;
    assert!(
        answer.refused(403).contains(":reader may not delete setupkeys.setupkey.dev in namespace "),
        "{}",
        answer.body
    );
    assert_eq!(keys(&cluster), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_the_key_creates_none() {
    let (cluster, rest, _) = with_a_key("rest_no_secrets").await;
    let blind = token_of(&cluster, "blind", &["list,get,create,patch,delete setupkeys.setupkey.dev"]);
    let before = keys(&cluster);
    let answer = rest.ask(&blind, "POST /api/setup-keys", a_key("new")).await;
    let sentence = format!(
        "permission denied: the answer to a creation shows the key, which takes the right to get secrets in namespace {}; nothing was created",
        cluster.namespace
    );
    assert_eq!(answer.refused(403), sentence);
    assert_eq!(keys(&cluster), before);
    // The other calls do not need that right.
    rest.ask(&blind, "GET /api/setup-keys", Value::Null).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_sees_the_caller_and_not_the_service() {
    let (cluster, rest, _) = with_a_key("rest_caller").await;
    let operator = cluster.start_operator().await;
    let user = token_of(&cluster, "user", EVERYTHING);
    // Admission policies and the audit log see the caller.
    let policy = json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": cluster.namespace },
            "spec": {
                "matchConstraints": { "resourceRules": [{
                    "apiGroups": ["setupkey.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["setupkeys"],
                }] },
                "validations": [{
                    "expression": "false", "messageExpression": "'it was ' + request.userInfo.username",
                }],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": cluster.namespace },
            "spec": {
                "policyName": cluster.namespace, "validationActions": ["Deny"],
                "matchResources": {
                    "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": cluster.namespace } },
                },
            },
        },
    ] });
    cluster.kubectl_ok(&["apply", "-f", "-"], &policy.to_string());
    let created = rest.ask(&user, "POST /api/setup-keys", a_key("new")).await.granted();
    let who = format!("it was system:serviceaccount:{}:user", cluster.namespace);
    // The API server enforces a policy a moment after its creation.
    crate::harness::eventually("the policy to refuse", || async {
        let call = format!("PUT {}", path(&created["id"]));
        let answer = rest.ask(&user, &call, a_change(false, &["a"])).await;
        (answer.status.as_u16() == 422).then(|| assert!(answer.refused(422).contains(&who), "{}", answer.body))
    })
    .await;
    cluster.kubectl_ok(&["delete", "-f", "-"], &policy.to_string());
    operator.stop().await;
}
