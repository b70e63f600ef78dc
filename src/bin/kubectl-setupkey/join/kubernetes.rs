//! The manifest of pods that mount the Secret of the key.

use serde_json::{Value, json};

use super::{At, Joining};
use crate::failure::Failure;

/// Where the Secret is mounted: a directory, and not a file by subPath, so that it follows the Secret.
const KEY_FOLDER: &str = "/etc/setup-key";
/// Where the `ConfigMap` with the CA is mounted.
const CA_FOLDER: &str = "/etc/authority";

/// A Deployment that Pod Security *restricted* accepts. Each new pod is a new peer; a container that restarts is the same one.
pub fn manifest(joining: &Joining) -> Result<String, Failure> {
    let labels = json!({
        "app.kubernetes.io/name": match joining.at { At::NetBird => "netbird", At::Cluster => "setupkey-enroll" },
        "app.kubernetes.io/instance": joining.name,
    });
    let mut container = match joining.at {
        At::NetBird => agent(joining),
        At::Cluster => enroll(joining),
    };
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
    });
    let mut mounts = vec![
        json!({ "name": "setup-key", "mountPath": KEY_FOLDER, "readOnly": true }),
        json!({ "name": "state", "mountPath": "/state" }),
    ];
    let mut volumes = vec![
        json!({ "name": "setup-key", "secret": { "secretName": joining.secret, "defaultMode": 0o440 } }),
        json!({ "name": "state", "emptyDir": { "medium": "Memory" } }),
    ];
    if let Some(config_map) = &joining.ca_config_map {
        mounts.push(json!({ "name": "authority", "mountPath": CA_FOLDER, "readOnly": true }));
        volumes.push(json!({ "name": "authority", "configMap": { "name": config_map } }));
    }
    container["volumeMounts"] = mounts.into();
    let name = match joining.at {
        At::NetBird => format!("netbird-{}", joining.name),
        At::Cluster => format!("enroll-{}", joining.name),
    };
    Ok(serde_yaml::to_string(&json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": joining.namespace, "labels": labels },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "automountServiceAccountToken": false,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }))?)
}

/// As in examples/netbird-deployment.yaml: the agent brings a network stack of its own, and needs no rights.
fn agent(joining: &Joining) -> Value {
    let (server, file) = (literal(&joining.server), format!("{KEY_FOLDER}/{}", joining.data_key));
    let mut env = vec![
        ("NB_MANAGEMENT_URL", server.as_str()),
        ("NB_SETUP_KEY_FILE", file.as_str()),
        ("NB_FOREGROUND_MODE", "true"),
        ("NB_USE_NETSTACK_MODE", "true"),
        ("NB_ENABLE_NETSTACK_LOCAL_FORWARDING", "true"),
        ("NB_DISABLE_DNS", "true"),
        ("NB_LOG_FILE", "console"),
        ("NB_STATE_DIR", "/state"),
        ("HOME", "/state"),
        ("USER", "netbird"),
    ];
    let ca = format!("{CA_FOLDER}/ca.crt");
    env.extend(joining.ca_config_map.as_ref().map(|_| ("SSL_CERT_FILE", ca.as_str())));
    json!({
        "name": "netbird",
        "image": joining.image("netbirdio/netbird:0.77.1-rootless"),
        "command": ["/usr/local/bin/netbird", "up"],
        "env": env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
    })
}

/// As in examples/pod-enroll.yaml.
fn enroll(joining: &Joining) -> Value {
    let mut args = vec![
        "enroll".to_owned(),
        format!("--server={}", literal(&joining.server)),
        format!("--key-file={KEY_FOLDER}/{}", joining.data_key),
        "--state-file=/state/peer".to_owned(),
    ];
    args.extend(joining.ca_config_map.as_ref().map(|_| format!("--ca-file={CA_FOLDER}/ca.crt")));
    json!({ "name": "enroll", "image": joining.image(""), "args": args })
}

/// A text in which the kubelet sees no variable, such as `$(HOME)`.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::tests::joining;

    fn pod(joining: &Joining) -> Value {
        let deployment: Value = serde_yaml::from_str(&manifest(joining).unwrap()).unwrap();
        deployment["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn the_agent_of_netbird_reads_the_data_key_of_the_secret() {
        let pod = pod(&joining(At::NetBird));
        assert_eq!(pod["volumes"][0]["secret"]["secretName"], "netbird-setup-key");
        let env = pod["containers"][0]["env"].as_array().unwrap();
        let value = |name: &str| env.iter().find(|variable| variable["name"] == name).map(|found| &found["value"]);
        assert_eq!(value("NB_SETUP_KEY_FILE"), Some(&json!("/etc/setup-key/key")));
        assert_eq!(value("NB_MANAGEMENT_URL"), Some(&json!("https://api.netbird.io")));
        assert_eq!((value("NB_SETUP_KEY"), value("SSL_CERT_FILE")), (None, None));
    }

    #[test]
    fn enroll_trusts_the_ca_of_the_config_map() {
        let pod = pod(&Joining { ca_config_map: Some("enrollment-ca".to_owned()), ..joining(At::Cluster) });
        let expected = [
            "enroll",
            "--server=https://enroll.example.com/a'$$(id)",
            "--key-file=/etc/setup-key/key",
            "--state-file=/state/peer",
            "--ca-file=/etc/authority/ca.crt",
        ];
        assert_eq!(pod["containers"][0]["args"], json!(expected));
        assert_eq!(pod["containers"][0]["image"], format!("setupkey-operator:{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(pod["volumes"][2]["configMap"]["name"], "enrollment-ca");
        assert_eq!(pod["containers"][0]["volumeMounts"][2]["mountPath"], "/etc/authority");
    }
}
