//! Installing, upgrading and removing the chart.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use control_plane::{ControlPlane, Options};
use kube::{
    Api, Client, Config, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use setupkey_operator::{
    api::SetupKey,
    cluster::{Readiness, Scope, connect, tuned},
    controller::{self, Environment},
};
use tokio_util::sync::CancellationToken;

use super::{Helm, chart, ok, template_ok};
use crate::harness::{condition, crds, environment, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_and_removal_change_no_key() {
    upgrade_and_removal_with(Helm::Four).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_and_removal_with_helm_3_change_no_key() {
    upgrade_and_removal_with(Helm::Three).await;
}

/// Install, create a key, upgrade with a changed CRD, uninstall, install again. No key changes, no Secret is written.
async fn upgrade_and_removal_with(by: Helm) {
    // A release owns its CRDs, so this test has a control plane of its own. The garbage collector must know the CRDs
    // when it starts. So they are installed first, with the metadata that lets Helm adopt them.
    let folder = tempfile::tempdir().unwrap();
    let marked = template_ok(&["--show-only", "templates/crds.yaml"])
        .split("\n---\n")
        .map(|document| {
            let mut crd: Value = serde_yaml::from_str(document).unwrap();
            crd["metadata"]["annotations"]["meta.helm.sh/release-name"] = "setupkey-operator".into();
            crd["metadata"]["annotations"]["meta.helm.sh/release-namespace"] = "setupkey-system".into();
            serde_yaml::to_string(&crd).unwrap()
        })
        .collect::<Vec<_>>();
    let file = folder.path().join("crds.yaml");
    std::fs::write(&file, marked.join("---\n")).unwrap();
    let mut own = ControlPlane::start(Options { crds: vec![file], ..Options::default() }).unwrap();
    let helm = |arguments: &[&str], chart: Option<PathBuf>| {
        let mut command = by.command();
        command.arg("--kubeconfig").arg(own.kubeconfig()).args(["--namespace", "setupkey-system"]).args(arguments);
        ok(command.args(chart).output().unwrap())
    };
    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new(own.kubectl());
        ok(command.arg("--kubeconfig").arg(own.kubeconfig()).args(arguments).stdin(Stdio::null()).output().unwrap())
    };
    let install = ["install", "--create-namespace", "setupkey-operator"];
    let notes = helm(&install, Some(chart()));
    assert!(notes.contains("kubectl get sk first"), "{notes}");
    kubectl(&["-n", "setupkey-system", "get", "deployment,poddisruptionbudget,service", "-o", "name"]);

    // The operator as a process, with a token of the chart's own ServiceAccount.
    let token = kubectl(&["-n", "setupkey-system", "create", "token", "setupkey-operator"]);
    let kubeconfig = Kubeconfig::read_from(own.kubeconfig()).unwrap();
    let admin = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let mut config = admin.clone();
    config.auth_info = Default::default();
    config.auth_info.token = Some(token.trim().to_owned().into());
    let client = connect(tuned(config)).unwrap().build();
    let environment = environment(client);
    let shutdown = CancellationToken::new();
    let operator = tokio::spawn(controller::run(environment.clone(), Scope::Cluster, shutdown.clone()));
    let key = folder.path().join("key.yaml");
    std::fs::write(&key, crate::harness::manifest("office", "")).unwrap();
    kubectl(&["apply", "-f", key.to_str().unwrap()]);
    let keys: Api<SetupKey> = Api::namespaced(Client::try_from(admin).unwrap(), "default");
    let ready = || async {
        let key = keys.get("office").await.ok()?;
        (condition(key.status.as_ref()?, "Ready")?.status == "True").then_some(key)
    };
    let before = eventually("the key to be ready", ready).await;
    let secret = || kubectl(&["get", "secret", "office", "-o", "jsonpath={.metadata.resourceVersion}"]);
    let version = secret();

    // An upgrade that changes the CRD.
    let changed = folder.path().join("chart");
    ok(Command::new("cp").arg("-r").arg(chart()).arg(&changed).output().unwrap());
    let carried = changed.join("files/crds/setupkey.dev_setupkeys.yaml");
    let crd = std::fs::read_to_string(&carried).unwrap();
    std::fs::write(&carried, crd.replace("- sk\n", "- sk\n    - nbkey\n")).unwrap();
    helm(&[by.upgrade(), &["setupkey-operator"]].concat(), Some(changed));
    assert!(
        kubectl(&["get", "crd", "setupkeys.setupkey.dev", "-o", "jsonpath={.spec.names.shortNames}"]).contains("nbkey")
    );

    helm(&["uninstall", "setupkey-operator"], None);
    assert_eq!(kubectl(&["get", "setupkeys", "-o", "name"]), "setupkey.setupkey.dev/office\n", "the keys are gone");
    shutdown.cancel();
    operator.await.unwrap();

    helm(&install, Some(chart()));
    let shutdown = CancellationToken::new();
    let readiness = std::sync::Arc::new(Readiness::default());
    let environment = Environment { readiness: std::sync::Arc::clone(&readiness), ..environment };
    let operator = tokio::spawn(controller::run(environment, Scope::Cluster, shutdown.clone()));
    eventually("the controller to be ready", || async { readiness.is_ready().then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = keys.get("office").await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version(), "the SetupKey was written");
    assert_eq!(secret(), version, "the Secret was written");
    shutdown.cancel();
    operator.await.unwrap();
    own.stop();
}

/// Helm refuses an object that belongs to another release.
#[test]
fn releases_side_by_side_share_no_object() {
    let mut own = ControlPlane::start(Options { crds: vec![crds()], ..Options::default() }).unwrap();
    for (helm, release, namespace, team) in [
        (Helm::Four, "one", "shared", "team-a"),
        (Helm::Four, "two", "shared", "team-b"),
        (Helm::Three, "one", "elsewhere", "team-a"),
        (Helm::Three, "123", "elsewhere", "team-c"),
    ] {
        let create = ["create", "namespace", team];
        // A namespace of two releases is there already.
        Command::new(own.kubectl()).arg("--kubeconfig").arg(own.kubeconfig()).args(create).output().unwrap();
        let mut install = helm.command();
        install.arg("--kubeconfig").arg(own.kubeconfig()).args(["--namespace", namespace]);
        let values = format!("crds.enabled=false,enrollment.enabled=true,api.enabled=true,scope.namespaces={{{team}}}");
        ok(install.args(["install", "--create-namespace", release, "--set", &values]).arg(chart()).output().unwrap());
    }
    own.stop();
}
