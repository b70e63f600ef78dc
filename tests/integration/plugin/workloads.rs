//! Pods that read Secrets. Nothing runs them: the control plane of the tests has no node.

use serde_json::{Value, json};

use crate::harness::{Cluster, eventually};

/// The hash in the names of the `ReplicaSet`s of a Deployment.
const HASH: &str = "7c9d8f";

/// A pod that mounts this Secret.
pub fn mounts(secret: &str) -> Value {
    json!({ "volumes": [{ "name": "key", "secret": { "secretName": secret } }] })
}

/// A pod that has this data key of the Secret in an environment variable.
pub fn has_in_variable(secret: &str, data_key: &str) -> Value {
    let from = json!({ "secretKeyRef": { "name": secret, "key": data_key } });
    json!({ "containers": [container(&json!({ "env": [{ "name": "KEY", "valueFrom": from }] }))] })
}

/// Creates a pod of a workload such as `deployment/agent`, as the workload's controller does. The workload is real, because the
/// garbage collector deletes pods of owners that are not there.
pub async fn pod_of(cluster: &Cluster, workload: &str, spec: Value) {
    let (kind, name) = workload.split_once('/').expect("a kind and a name");
    let (api_version, kind, owner) = match kind {
        "deployment" => ("apps/v1", "ReplicaSet", format!("{name}-{HASH}")),
        "daemonset" => ("apps/v1", "DaemonSet", name.to_owned()),
        "job" => ("batch/v1", "Job", name.to_owned()),
        kind => panic!("no such kind: {kind}"),
    };
    let labels = json!({ "app": name });
    let mut template = json!({ "metadata": { "labels": labels }, "spec": { "containers": [container(&json!({}))] } });
    let mut of_owner = json!({ "template": template });
    if kind == "Job" {
        of_owner["template"]["spec"]["restartPolicy"] = json!("Never");
    } else {
        of_owner["selector"] = json!({ "matchLabels": labels });
    }
    let uid = created(
        cluster,
        &json!({
            "apiVersion": api_version, "kind": kind, "metadata": { "name": owner }, "spec": of_owner,
        }),
    );
    let reference = json!({ "apiVersion": api_version, "kind": kind, "name": owner, "uid": uid, "controller": true });
    json_patch::merge(
        &mut template,
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{owner}-x"), "ownerReferences": [reference],
                "labels": { "pod-template-hash": HASH },
            },
            "spec": { "automountServiceAccountToken": false },
        }),
    );
    json_patch::merge(&mut template, &json!({ "spec": spec }));
    account(cluster).await;
    created(cluster, &template);
}

/// Waits for the `ServiceAccount` of pods. The namespace has it a moment later.
async fn account(cluster: &Cluster) {
    let account =
        || async { cluster.kubectl(&["get", "serviceaccount", "default"], "").status.success().then_some(()) };
    eventually("the ServiceAccount of pods", account).await;
}

fn container(change: &Value) -> Value {
    let mut container = json!({ "name": "c", "image": "example.com/agent:1" });
    json_patch::merge(&mut container, change);
    container
}

fn created(cluster: &Cluster, object: &Value) -> String {
    cluster.kubectl_ok(&["create", "-f", "-", "-o", "jsonpath={.metadata.uid}"], &object.to_string())
}
