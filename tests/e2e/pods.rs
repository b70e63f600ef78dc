//! Pods that use keys, as Pod Security *restricted* requires them.

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::PostParams};
use serde_json::{Value, json};

use crate::cluster::{Place, eventually};

/// Where a key is mounted.
pub const MOUNTED: &str = "/etc/netbird/setup-key";

/// A shell script in a pod of its own.
pub struct Script<'a> {
    pub name: &'a str,
    pub script: &'a str,
    pub key: Key<'a>,
}

/// How the pod gets its key from the Secret with this name.
pub enum Key<'a> {
    None,
    Mounted(&'a str),
    /// As `NB_SETUP_KEY`.
    Variable(&'a str),
}

/// Identifies a pod and its restarts. If equal, the pod is the same and has not restarted.
#[derive(Debug, PartialEq)]
pub struct Life {
    uid: Option<String>,
    restarts: i32,
    phase: Option<String>,
}

impl Place<'_> {
    pub async fn start(&self, script: Script<'_>) {
        let mut container = json!({
            "name": "script",
            "image": self.cluster.shell_image(),
            "command": ["sh", "-c", script.script],
        });
        let mut volumes = Value::Array(Vec::new());
        match script.key {
            Key::None => {}
            Key::Mounted(secret) => {
                container["volumeMounts"] = json!([{ "name": "key", "mountPath": "/etc/netbird", "readOnly": true }]);
                volumes = json!([{ "name": "key", "secret": { "secretName": secret, "defaultMode": 0o400 } }]);
            }
            Key::Variable(secret) => {
                let source = json!({ "secretKeyRef": { "name": secret, "key": "setup-key" } });
                container["env"] = json!([{ "name": "NB_SETUP_KEY", "valueFrom": source }]);
            }
        }
        self.create_pod(self.restricted_pod(script.name, container, volumes)).await;
    }

    /// A pod with one container that never restarts, and that Pod Security *restricted* accepts.
    pub fn restricted_pod(&self, name: &str, mut container: Value, volumes: Value) -> Value {
        container["securityContext"] = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        });
        json!({
            "metadata": { "name": name },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [container],
                "volumes": volumes,
            },
        })
    }

    pub async fn create_pod(&self, pod: Value) {
        let pod = serde_json::from_value(pod).expect("a Pod");
        self.api::<Pod>().create(&PostParams::default(), &pod).await.expect("a created Pod");
    }

    /// Waits until the log of the pod contains this text, and returns the log.
    pub async fn log_with(&self, pod: &str, text: &str) -> String {
        eventually(&format!("{text:?} in the log of the pod {}/{pod}", self.namespace), || async {
            self.try_kubectl(&["logs", pod], "").ok().filter(|log| log.contains(text))
        })
        .await
    }

    pub async fn life(&self, pod: &str) -> Life {
        let pod = self.api::<Pod>().get(pod).await.expect("the Pod");
        let uid = pod.uid();
        let status = pod.status.unwrap_or_default();
        let restarts = status.container_statuses.iter().flatten().map(|container| container.restart_count).sum();
        Life { uid, restarts, phase: status.phase }
    }

    /// Runs a command in a running pod.
    pub fn exec(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", script], "")
    }
}
