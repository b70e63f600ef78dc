//! The Helm chart, by the real helm on the real API server.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Output, Stdio},
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
    controller::{self, Environment, Scope, SystemClock, election::Leadership, health::Readiness, metrics::Metrics},
    key::ledger,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, condition, crds, eventually, kubectl, repository, tool};

fn chart() -> PathBuf {
    repository().join("charts/setupkey-operator")
}

fn helm() -> Command {
    let mut command = Command::new(tool("helm"));
    command.stdin(Stdio::null());
    command
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the chart renders with these arguments.
pub fn template_ok(arguments: &[&str]) -> String {
    ok(template(arguments))
}

fn template(arguments: &[&str]) -> Output {
    let mut command = helm();
    command.args(["template", "setupkey-operator"]).arg(chart()).args(["--namespace", "setupkey-system"]);
    command.args(arguments).output().unwrap()
}

#[test]
fn the_chart_passes_the_strict_linter() {
    ok(helm().args(["lint", "--strict"]).arg(chart()).output().unwrap());
}

#[test]
fn the_chart_carries_the_crds_of_the_code() {
    let files = |folder: PathBuf| {
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let read = |path: PathBuf| (path.file_name().unwrap().to_owned(), std::fs::read_to_string(path).unwrap());
        files.map(read).collect::<BTreeMap<_, _>>()
    };
    assert!(files(chart().join("files/crds")) == files(crds()), "run `make crds`");
}

#[test]
fn deploy_holds_the_rights_of_the_chart() {
    for name in ["rbac.yaml", "enrollment-rbac.yaml"] {
        let template = format!("templates/{name}");
        let rendered = template_ok(&["--set", "enrollment.enabled=true", "--show-only", &template]);
        let kept = std::fs::read_to_string(repository().join("deploy").join(name)).unwrap();
        assert!(kept.ends_with(&rendered), "deploy/{name} is not what the chart says: run `make crds`");
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_path() {
    for (value, path) in [
        ("replicas=two", "/replicas"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("scope.namespace=x", "/scope"),
        ("scope.namespaces={Upper}", "/scope/namespaces/0"),
        ("controller.logFormat=xml", "/controller/logFormat"),
        ("controller.extraArgs={leader-elect}", "/controller/extraArgs/0"),
        ("policies.maxExpiresIn=30d", "/policies/maxExpiresIn"),
        ("metrics.prometheusRule.expiresSoonDays=0", "/metrics/prometheusRule/expiresSoonDays"),
        ("enrollment.service.type=ExternalName", "/enrollment/service/type"),
        ("enrollment.peerLifetime=ten", "/enrollment/peerLifetime"),
        ("unheardOf=1", "unheardOf"),
    ] {
        let output = template(&["--set", value]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{value} was accepted");
        assert!(error.contains(path), "{value}: {error}");
    }
}

#[test]
fn the_chart_renders_as_it_did() {
    let everything = [
        "--set",
        "enrollment.enabled=true",
        "--set",
        "enrollment.tls.secretName=enrollment-tls",
        "--set",
        "metrics.serviceMonitor.enabled=true",
        "--set",
        "metrics.prometheusRule.enabled=true",
        "--set",
        "networkPolicy.enabled=true",
        "--set",
        "policies.maxExpiresIn=720h",
        "--set",
        "policies.requireUsageLimit=true",
        "--set",
        "policies.oneOffOnly=true",
        "--set",
        "policies.allowedGroupsLabel=setupkey.dev/allowed-groups",
    ];
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, arguments) in [
            ("chart-default", &[][..]),
            (
                "chart-namespaces",
                &["--set", "scope.namespaces={team-a,team-b}", "--set", "enrollment.enabled=true"][..],
            ),
            ("chart-everything", &everything[..]),
        ] {
            let rendered = template_ok(&[arguments, &["--set", "crds.enabled=false"]].concat());
            insta::assert_snapshot!(name, rendered);
        }
    });
}

/// What the chart says of its pods holds where Pod Security *restricted* is enforced, and no role gives Secrets away.
#[tokio::test(flavor = "multi_thread")]
async fn the_pods_are_accepted_under_pod_security_restricted() {
    let cluster = Cluster::for_test("restricted").await;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    ok(kubectl().args(["label", "namespace", &cluster.namespace, enforce]).output().unwrap());
    for (name, template) in [("operator", "templates/deployment.yaml"), ("enrollment", "templates/enrollment.yaml")] {
        let tls = "enrollment.tls.secretName=enrollment-tls";
        let rendered = template_ok(&["--set", "enrollment.enabled=true", "--set", tls, "--show-only", template]);
        let documents = rendered.split("\n---").map(|document| serde_yaml::from_str::<Value>(document).unwrap());
        let deployment = documents.into_iter().find(|document| document["kind"] == "Deployment").unwrap();
        let mut pod = deployment["spec"]["template"].clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = name.into();
        pod["spec"]["serviceAccountName"] = "default".into();
        cluster.kubectl_ok(&["apply", "--validate=strict", "-f", "-"], &pod.to_string());
    }
}

#[test]
fn people_s_roles_give_no_right_on_secrets() {
    let rendered = template_ok(&["--show-only", "templates/roles.yaml"]);
    assert!(rendered.contains("aggregate-to-view"));
    assert!(!rendered.contains("resources: [secrets]") && !rendered.contains("\"*\""));
}

/// Install, make a key, upgrade with a changed CRD, uninstall, install again: no key changes, no Secret is written.
#[tokio::test(flavor = "multi_thread")]
async fn upgrade_and_removal_change_no_key() {
    // A release owns its CRDs, so this one has a control plane of its own. The garbage collector must know the CRDs
    // from its start, so they are there before it, with the marks by which Helm takes them over.
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
        let mut command = helm();
        command.arg("--kubeconfig").arg(own.kubeconfig()).args(["--namespace", "setupkey-system"]).args(arguments);
        ok(command.args(chart).output().unwrap())
    };
    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new(own.kubectl());
        ok(command.arg("--kubeconfig").arg(own.kubeconfig()).args(arguments).stdin(Stdio::null()).output().unwrap())
    };
    let install = ["install", "--create-namespace", "setupkey-operator"];
    let notes = helm(&install, Some(chart()));
    assert!(notes.contains("kubectl get setupkey first"), "{notes}");
    kubectl(&["-n", "setupkey-system", "get", "deployment,poddisruptionbudget,service", "-o", "name"]);

    // The operator as a process, with a token of the chart's own ServiceAccount.
    let token = kubectl(&["-n", "setupkey-system", "create", "token", "setupkey-operator"]);
    let kubeconfig = Kubeconfig::read_from(own.kubeconfig()).unwrap();
    let admin = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let mut config = admin.clone();
    config.auth_info = Default::default();
    config.auth_info.token = Some(token.trim().to_owned().into());
    let client = Client::try_from(controller::tuned(config)).unwrap();
    let environment = Environment {
        client,
        clock: std::sync::Arc::new(SystemClock),
        leadership: Leadership::alone(),
        readiness: std::sync::Arc::new(Readiness::default()),
        metrics: Metrics::new(std::sync::Arc::new(SystemClock), 100),
        peer_lifetime: Duration::from_secs(600),
        orphan_age: ledger::ORPHAN_AGE,
    };
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
    // These CRDs were there before the chart, so it has to be told to take their fields over.
    helm(&["upgrade", "--force-conflicts", "setupkey-operator"], Some(changed));
    assert!(
        kubectl(&["get", "crd", "setupkeys.setupkey.dev", "-o", "jsonpath={.spec.names.shortNames}"]).contains("nbkey")
    );

    helm(&["uninstall", "setupkey-operator"], None);
    assert_eq!(kubectl(&["get", "setupkeys", "-o", "name"]), "setupkey.setupkey.dev/office\n", "the keys are gone");
    shutdown.cancel();
    operator.await.unwrap();

    helm(&install, Some(chart()));
    let shutdown = CancellationToken::new();
    let operator = tokio::spawn(controller::run(environment, Scope::Cluster, shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = keys.get("office").await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version(), "the SetupKey was written");
    assert_eq!(secret(), version, "the Secret was written");
    shutdown.cancel();
    operator.await.unwrap();
    own.stop();
}

/// The optional policies, each with its message.
#[tokio::test(flavor = "multi_thread")]
async fn policies_refuse_with_a_message() {
    // A policy holds for the whole cluster, so this one has a control plane of its own.
    let mut own = ControlPlane::start(Options { crds: vec![crds()], ..Options::default() }).unwrap();
    let run = |arguments: &[&str], input: &str| {
        let file = own.dir().join("manifest.yaml");
        std::fs::write(&file, input).unwrap();
        let mut command = Command::new(own.kubectl());
        command.arg("--kubeconfig").arg(own.kubeconfig()).args(arguments);
        if !input.is_empty() {
            command.arg("-f").arg(file);
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    for (setting, namespace_label, refused, message, accepted) in [
        ("policies.maxExpiresIn=720h", "", "expiresIn: 721h", "expiresIn may be at most 720h", "expiresIn: 720h"),
        ("policies.requireUsageLimit=true", "", "type: reusable", "must have a usageLimit", "usageLimit: 3"),
        ("policies.requireUsageLimit=true", "", "usageLimit: 0", "must have a usageLimit", "type: one-off"),
        ("policies.oneOffOnly=true", "", "usageLimit: 3", "only keys of type one-off", "type: one-off"),
        (
            "policies.allowedGroupsLabel=setupkey.dev/allowed-groups",
            "setupkey.dev/allowed-groups=office.printers",
            "autoGroups: [office, servers]",
            "may only hold groups that the label setupkey.dev/allowed-groups",
            "autoGroups: [office]",
        ),
        (
            "policies.allowedGroupsLabel=setupkey.dev/allowed-groups",
            "setupkey.dev/allowed-groups-",
            "autoGroups: [office]",
            "may only hold groups that the label setupkey.dev/allowed-groups",
            "{}",
        ),
    ] {
        let policy = template_ok(&["--show-only", "templates/policies.yaml", "--set", setting]);
        ok(run(&["apply"], &policy));
        if !namespace_label.is_empty() {
            ok(run(&["label", "namespace", "default", "--overwrite", namespace_label], ""));
        }
        let manifest = |spec: &str| {
            let spec = if spec == "{}" { "" } else { spec };
            let mut manifest: Value = serde_yaml::from_str(&crate::harness::manifest("key", spec)).unwrap();
            manifest["metadata"]["namespace"] = "default".into();
            manifest.to_string()
        };
        // A policy takes a moment to be in force, and the one before takes a moment to go.
        eventually(&format!("{setting} to refuse {refused} with {message:?}"), || async {
            let output = run(&["create", "--dry-run=server"], &manifest(refused));
            let said = String::from_utf8_lossy(&output.stderr).contains(message);
            (!output.status.success() && said).then_some(())
        })
        .await;
        eventually(&format!("{setting} to accept {accepted}"), || async {
            run(&["create", "--dry-run=server"], &manifest(accepted)).status.success().then_some(())
        })
        .await;
        ok(run(&["delete"], &policy));
    }
    own.stop();
}
