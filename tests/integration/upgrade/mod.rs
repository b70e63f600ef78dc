//! What the first release left behind: its CRD, and keys whose status says nothing about revisions.

use std::process::Command;

use control_plane::{ControlPlane, Options};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use setupkey_operator::{
    api::{SetupKey, SetupKeyStatus},
    cluster::{Scope, connect, tuned},
    controller,
};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{QUIET, any_key, crds, digest, environment, eventually, exactly, repository, says},
    requests::Requests,
};

/// A control plane with the CRDs of the first release.
struct World {
    own: ControlPlane,
    config: Config,
    client: Client,
}

impl World {
    async fn new() -> Self {
        let released = repository().join("tests/integration/upgrade/setupkey.dev_setupkeys.yaml");
        let others = ["authorities", "clusterauthorities", "peers"];
        let others = others.map(|plural| crds().join(format!("setupkey.dev_{plural}.yaml")));
        let files = std::iter::once(released).chain(others).collect();
        let own = ControlPlane::start(Options { crds: files, ..Options::default() }).unwrap();
        let kubeconfig = Kubeconfig::read_from(own.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        Self { own, config, client }
    }

    fn keys(&self) -> Api<SetupKey> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// A key as the first release left it, with its Secret.
    async fn leave(&self, name: &str, spec: Value, changes: Value) -> String {
        let object = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": name }, "spec": spec,
        });
        let keys = self.keys();
        let key = keys.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        let (value, id, expires) = (any_key(), "0123456789abcdefghij", "2099-12-01T06:00:00Z");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": { "setup-key": value },
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/managed-by": "setupkey-operator", "setupkey.dev/key": name },
                "annotations": { "setupkey.dev/id": id, "setupkey.dev/expires": expires },
                "ownerReferences": [{
                    "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "name": name,
                    "uid": key.uid(), "controller": true, "blockOwnerDeletion": true,
                }],
            },
        });
        let manager = PostParams { field_manager: Some("setupkey-operator".to_owned()), ..PostParams::default() };
        let secret = self.secrets().create(&manager, &serde_json::from_value(secret).unwrap()).await.unwrap();
        let since = "2026-11-24T06:00:00Z";
        let condition = |type_: &str, status: &str, reason: &str, message: String| {
            json!({
                "type": type_, "status": status, "reason": reason, "message": message,
                "observedGeneration": 1, "lastTransitionTime": since,
            })
        };
        let mut status = json!({
            "observedGeneration": 1, "id": id, "key": format!("{}****", &value[..5]), "digest": digest(&value),
            "state": "valid", "valid": true, "expires": expires, "usedTimes": 0, "updatedAt": since,
            "secret": { "name": name, "key": "setup-key", "resourceVersion": secret.resource_version() },
            "conditions": [
                condition("Ready", "True", "Reconciled", format!("Secret {name:?} holds the key under \"setup-key\".")),
                condition("Valid", "True", "Valid", format!("The key admits peers until {expires}.")),
            ],
        });
        json_patch::merge(&mut status, &changes);
        let patch = Patch::Merge(json!({ "status": status }));
        keys.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
        value
    }

    /// Installs the CRDs of this version, and waits until the API server knows the new fields.
    async fn upgrade(&self) {
        let mut apply = Command::new(self.own.kubectl());
        apply.arg("--kubeconfig").arg(self.own.kubeconfig()).args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
        ]);
        let applied = apply.arg(crds()).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let probe = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": "probe" },
            "spec": { "rotation": {} },
        });
        let probe = serde_json::from_value(probe).unwrap();
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        eventually("the API server to know the new fields", || async {
            self.keys().create(&dry_run, &probe).await.ok()?.spec.rotation
        })
        .await;
    }

    async fn start_operator(&self, requests: &Requests) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let client = connect(tuned(self.config.clone())).unwrap().with_layer(requests).build();
        let shutdown = CancellationToken::new();
        let environment = environment(client);
        let run = controller::run(environment, Scope::Cluster, shutdown.clone());
        (shutdown, tokio::spawn(run))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_first_release_are_taken_up_by_one_write_and_keep_their_values() {
    let world = World::new().await;
    let left = [
        ("plain", json!({}), json!({})),
        (
            "used",
            json!({ "usageLimit": 3 }),
            json!({ "usedTimes": 2, "usageLimit": 3, "lastUsed": "2026-11-25T06:00:00Z" }),
        ),
    ];
    let mut values = Vec::new();
    for (name, spec, status) in left {
        values.push((name, world.leave(name, spec, status).await));
    }
    let before = world.keys().get("plain").await.unwrap().status.unwrap();
    assert_eq!((before.revision, before.issued_at), (None, None));
    world.upgrade().await;

    let requests = Requests::default();
    let (shutdown, operator) = world.start_operator(&requests).await;
    for (name, value) in &values {
        let status: SetupKeyStatus = eventually("the key to be taken up", || async {
            let status = world.keys().get(name).await.ok()?.status?;
            (status.revision == Some(1)).then_some(status)
        })
        .await;
        assert_eq!(status.digest, Some(digest(value)), "{name} has another value");
        assert_eq!(
            (says(&status, "Ready").as_str(), says(&status, "Valid").as_str()),
            ("True Reconciled", "True Valid")
        );
        // 720h before its expiry.
        assert_eq!(status.issued_at, "2099-11-01T06:00:00Z".parse().ok(), "{name}");
        assert_eq!(status.used_times, if *name == "used" { 2 } else { 0 });
        let secret = world.secrets().get(name).await.unwrap();
        assert_eq!(secret.data.unwrap()["setup-key"].0, value.as_bytes(), "the Secret of {name} holds another value");
    }
    exactly(values.len(), QUIET, || requests.writes()).await;
    shutdown.cancel();
    operator.await.unwrap();

    let requests = Requests::default();
    let (shutdown, operator) = world.start_operator(&requests).await;
    exactly(0, QUIET, || requests.writes()).await;
    shutdown.cancel();
    operator.await.unwrap();
    let mut own = world.own;
    own.stop();
}
