//! One object that this version cannot decode.

use control_plane::{ControlPlane, Options};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use setupkey_operator::{api::SetupKey, cluster::Scope, controller};
use std::process::Command;
use tokio_util::sync::CancellationToken;

use crate::harness::{crds, environment, eventually, says, setup_key_crd};

/// The CRD as a later version might have it, with a type of key that this version does not know.
fn loosened_crd() -> Value {
    let mut crd: Value = serde_yaml::from_str(&std::fs::read_to_string(setup_key_crd()).unwrap()).unwrap();
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["type"]["enum"] = json!(["reusable", "one-off", "from-the-future"]);
    crd
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_object_stops_nobody() {
    // All tests of a control plane share its CRDs, so this test has a control plane of its own.
    let file = std::env::temp_dir().join(format!("setupkey-loosened-{}.yaml", std::process::id()));
    std::fs::write(&file, serde_yaml::to_string(&loosened_crd()).unwrap()).unwrap();
    let mut own = ControlPlane::start(Options { crds: vec![crds(), file.clone()], ..Default::default() }).unwrap();
    std::fs::remove_file(file).unwrap();
    let apply = |name: &str, key_type: &str| {
        let manifest = format!(
            "{{apiVersion: setupkey.dev/v1alpha1, kind: SetupKey, metadata: {{name: {name}, namespace: default}}, spec: {{type: {key_type}}}}}"
        );
        let file = own.dir().join(format!("{name}.yaml"));
        std::fs::write(&file, manifest).unwrap();
        let applied = Command::new(own.kubectl())
            .arg("--kubeconfig")
            .arg(own.kubeconfig())
            .arg("apply")
            .arg("-f")
            .arg(file)
            .output();
        let applied = applied.unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    };
    let kubeconfig = Kubeconfig::read_from(own.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();

    apply("future", "from-the-future");
    let shutdown = CancellationToken::new();
    let environment = environment(client.clone());
    let operator = tokio::spawn(controller::run(environment, Scope::Cluster, shutdown.clone()));
    apply("present", "reusable");
    let keys: Api<SetupKey> = Api::namespaced(client, "default");
    eventually("the readable key to be ready", || async {
        let status = keys.get("present").await.ok()?.status?;
        (says(&status, "Ready") == "True Reconciled").then_some(())
    })
    .await;
    shutdown.cancel();
    operator.await.unwrap();
    own.stop();
}
