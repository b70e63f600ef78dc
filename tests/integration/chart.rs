//! The Helm chart, with the real helm on the real API server: Helm 4, and Helm 3 where it may differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use control_plane::{ControlPlane, Options};
use kube::{
    Api, Client, Config, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use serde_json::Value;
use setupkey_operator::{
    api::SetupKey,
    authority::netbird::HostPattern,
    cluster::{Readiness, Scope, tuned},
    controller::{self, Environment},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, condition, crds, environment, eventually, kubectl, repository, tool};

fn chart() -> PathBuf {
    repository().join("charts/setupkey-operator")
}

#[derive(Clone, Copy, Debug)]
enum Helm {
    Three,
    Four,
}

impl Helm {
    fn command(self) -> Command {
        let program = match self {
            Self::Three => "helm3",
            Self::Four => "helm",
        };
        let mut command = Command::new(tool(program));
        command.stdin(Stdio::null());
        command
    }

    /// The flags for an upgrade that changes objects from before the release. Helm 4 uses server-side apply, where
    /// fields have owners. Helm 3 takes the fields over without a flag.
    fn upgrade(self) -> &'static [&'static str] {
        match self {
            Self::Three => &["upgrade"],
            Self::Four => &["upgrade", "--force-conflicts"],
        }
    }
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the chart renders with these arguments.
pub fn template_ok(arguments: &[&str]) -> String {
    ok(template(Helm::Four, arguments))
}

/// What the chart renders for this release.
pub fn template_of(release: &str, namespace: &str, arguments: &[&str]) -> String {
    ok(render(Helm::Four, release, namespace, arguments))
}

fn template(helm: Helm, arguments: &[&str]) -> Output {
    render(helm, "setupkey-operator", "setupkey-system", arguments)
}

fn render(helm: Helm, release: &str, namespace: &str, arguments: &[&str]) -> Output {
    let mut command = helm.command();
    command.args(["template", release]).arg(chart()).args(["--namespace", namespace]);
    // The oldest Kubernetes that the chart supports. Without this flag, Helm uses the version that it was built with.
    command.args(["--kube-version", "1.33.0"]);
    command.args(arguments).output().unwrap()
}

#[test]
fn the_chart_passes_the_strict_linter() {
    for helm in [Helm::Three, Helm::Four] {
        ok(helm.command().args(["lint", "--strict"]).arg(chart()).output().unwrap());
    }
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
    for name in ["rbac.yaml", "enrollment-rbac.yaml", "guards.yaml"] {
        let template = format!("templates/{name}");
        let rendered = template_ok(&["--set", "enrollment.enabled=true", "--show-only", &template]);
        let kept = std::fs::read_to_string(repository().join("deploy").join(name)).unwrap();
        assert!(rendered.contains("ules:"), "{rendered}");
        assert!(kept.ends_with(&rendered), "deploy/{name} is not what the chart renders: run `make crds`");
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
        ("api.issueTimeout=0", "/api/issueTimeout"),
        ("api.tls.secret=x", "/api/tls"),
        ("policies.maxExpiresIn=30d", "/policies/maxExpiresIn"),
        ("policies.guards.peers=off", "/policies/guards/peers"),
        ("policies.guards.exempt={velero}", "/policies/guards/exempt/0"),
        ("policies.guards.exempt[0].kind=Robot,policies.guards.exempt[0].name=r", "/policies/guards/exempt/0/kind"),
        (
            "policies.guards.exempt[0].kind=ServiceAccount,policies.guards.exempt[0].name=velero",
            "/policies/guards/exempt/0",
        ),
        ("metrics.prometheusRule.expiresSoonDays=0", "/metrics/prometheusRule/expiresSoonDays"),
        ("enrollment.service.type=ExternalName", "/enrollment/service/type"),
        ("peers.lifetime=ten", "/peers/lifetime"),
        ("peers.lifetime=30s", "/peers/lifetime"),
        ("enrollment.peerLifetime=10m", "/enrollment"),
        ("networkPolicy.metricsFrom={all}", "/networkPolicy/metricsFrom/0"),
        ("networkPolicy.metricsFrom[0].pod=x", "/networkPolicy/metricsFrom/0"),
        ("controller.env={HTTPS_PROXY}", "/controller/env/0"),
        ("controller.env[0].value=x", "/controller/env/0"),
        ("authorities.hosts={https://netbird.example.com}", "/authorities/hosts/0"),
        ("authorities.hosts={a:443}", "/authorities/hosts/0"),
        ("authorities.hosts={*}", "/authorities/hosts/0"),
        ("authorities.hosts=netbird.example.com", "/authorities/hosts"),
        ("authorities.allowInsecure=no", "/authorities/allowInsecure"),
        ("networkPolicy.authorityPorts={https}", "/networkPolicy/authorityPorts/0"),
        ("unheardOf=1", "unheardOf"),
    ] {
        for helm in [Helm::Three, Helm::Four] {
            let output = template(helm, &["--set", value]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{value} was accepted");
            assert!(error.contains(path), "{value}: {error}");
        }
    }
}

/// The enrollment service writes when peers were seen, and the controller removes peers that were not.
#[test]
fn controller_and_enrollment_service_get_the_same_lifetime_of_peers() {
    let lifetime = "peers.lifetime=1h30m";
    let rendered = template_ok(&["--set", "enrollment.enabled=true", "--set", lifetime]);
    let containers = documents(&rendered).into_iter().filter(|object| object["kind"] == "Deployment");
    let args = containers.map(|deployment| deployment["spec"]["template"]["spec"]["containers"][0]["args"].clone());
    let args: Vec<_> = args.map(|args| args.as_array().unwrap().clone()).collect();
    assert_eq!(args.len(), 2);
    assert!(args.iter().all(|args| args.contains(&"--peer-lifetime=1h30m".into())), "{args:?}");
}

/// Each value that can be set, by its path. An empty map counts as a value, because users fill it.
fn leaves(value: &Value, path: &str) -> BTreeMap<String, Value> {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        None => [(path.to_owned(), value.clone())].into(),
        Some(fields) => fields.iter().flat_map(|(name, value)| leaves(value, &format!("{path}.{name}"))).collect(),
    }
}

#[test]
fn the_readme_of_the_chart_lists_every_value_with_its_default() {
    let values = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values = leaves(&serde_yaml::from_str(&values).unwrap(), "");
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    let row = regex::Regex::new(r"(?m)^\| `([^`]+)` \| `([^`]+)` \| [^|]+ \|$").unwrap();
    let listed =
        row.captures_iter(&readme).map(|row| (format!(".{}", &row[1]), serde_yaml::from_str(&row[2]).unwrap()));
    assert_eq!(listed.collect::<BTreeMap<String, Value>>(), values);
}

/// Values that the chart is rendered with, by name.
const VALUES: [(&str, &[&str]); 4] = [
    ("chart-default", &[]),
    ("chart-namespaces", &["--set", "scope.namespaces={team-a,team-b}", "--set", "enrollment.enabled=true"]),
    (
        "chart-everything",
        &[
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
            "networkPolicy.authorityPorts={443,33073}",
            "--set",
            "authorities.hosts={netbird.example.com,*.corp.example,10.0.0.0/8,::1},authorities.allowInsecure=true",
            "--set",
            "controller.env[0].name=HTTPS_PROXY,controller.env[0].value=http://proxy.example.com:3128",
            "--set-json",
            "networkPolicy.metricsFrom=[{\"podSelector\": {\"matchLabels\": {\"app\": \"prometheus\"}}}]",
            "--set",
            "policies.guards.exempt[0].kind=ServiceAccount,policies.guards.exempt[0].namespace=velero",
            "--set",
            "policies.guards.exempt[0].name=velero,policies.guards.exempt[1].kind=Group",
            "--set",
            "policies.guards.exempt[1].name=o'connor \\\"oncall\\\"",
            "--set",
            "policies.maxExpiresIn=720h",
            "--set",
            "policies.requireUsageLimit=true",
            "--set",
            "policies.oneOffOnly=true",
            "--set",
            "policies.allowedGroupsLabel=setupkey.dev/allowed-groups",
        ],
    ),
    ("chart-api", &["--show-only", "templates/api.yaml", "--set", API]),
];

#[test]
fn the_chart_renders_as_it_did() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, arguments) in VALUES {
            let rendered = template_ok(&[arguments, &["--set", "crds.enabled=false"]].concat());
            insta::assert_snapshot!(name, rendered);
        }
    });
}

/// Both have the same objects in the same order, and differ only in empty lines.
#[test]
fn helm_3_renders_what_helm_4_renders() {
    for (name, arguments) in VALUES {
        let [three, four] = [Helm::Three, Helm::Four].map(|helm| documents(&ok(template(helm, arguments))));
        assert!(three.len() > 1);
        assert_eq!(three, four, "{name}");
    }
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// Policies belong to the cluster. Two releases may have the same name in different namespaces.
#[test]
fn the_names_of_policies_are_valid_and_those_of_two_releases_differ() {
    let long = "r".repeat(53);
    let releases = [("a", "b-c"), ("a-b", "c"), ("a", "c"), ("b", "c"), ("1.a", "c"), (long.as_str(), "c")];
    let policies = ["--show-only", "templates/guards.yaml", "--show-only", "templates/policies.yaml"];
    let policies = [&policies[..], &["--set", "policies.oneOffOnly=true"]].concat();
    let subdomain = regex::Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").unwrap();
    let rendered = releases.map(|(release, namespace)| template_of(release, namespace, &policies));
    let objects = rendered.iter().flat_map(|rendered| documents(rendered));
    let names = objects.filter(|object| object["kind"] == "ValidatingAdmissionPolicy");
    let names: Vec<_> = names.map(|policy| policy["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.len(), releases.len() * 7);
    assert!(names.iter().all(|name| name.len() <= 253 && subdomain.is_match(name)), "{names:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

/// The REST API, with all that belongs to it.
const API: &str = "api.enabled=true,api.namespace=keys,api.tls.secretName=api-tls,networkPolicy.enabled=true,metrics.serviceMonitor.enabled=true";

/// The served ports stay open to all. Without peers, so does the port of metrics and probes.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_policy_says_who_may_scrape() {
    let cluster = Cluster::for_test("scrapes").await;
    let monitoring = r#"[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]"#;
    let all = "enrollment.enabled=true,api.enabled=true,networkPolicy.enabled=true";
    for peers in [monitoring, "[]"] {
        let rendered = template_ok(&["--set", all, "--set-json", &format!("networkPolicy.metricsFrom={peers}")]);
        let mut policies = documents(&rendered);
        policies.retain(|object| object["kind"] == "NetworkPolicy");
        assert_eq!(policies.len(), 3);
        for mut policy in policies {
            policy["metadata"]["namespace"] = cluster.namespace.as_str().into();
            cluster.kubectl_ok(&["apply", "--validate=strict", "-f", "-"], &policy.to_string());
            for rule in policy["spec"]["ingress"].as_array().unwrap() {
                let ports: Vec<_> = rule["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
                let wanted = if ports == ["http"] && peers == monitoring { monitoring } else { "null" };
                assert_eq!(rule["from"], serde_json::from_str::<Value>(wanted).unwrap(), "{policy}");
                assert!(ports == ["http"] || !ports.iter().any(|port| *port == "http"), "{policy}");
            }
        }
    }
}

/// The REST API acts only for its callers, so its pods must have no rights that a caller could borrow.
#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_the_rest_api_are_restricted_and_hold_no_credential() {
    let cluster = Cluster::for_test("restricted_api").await;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    ok(kubectl().args(["label", "namespace", &cluster.namespace, enforce]).output().unwrap());
    let everything = template_ok(&["--set", API]);
    let objects = || documents(&everything).into_iter();
    let deployment = objects()
        .find(|object| object["metadata"]["name"] == "setupkey-operator-api" && object["kind"] == "Deployment");
    let mut pod = deployment.expect("a Deployment")["spec"]["template"].clone();
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap().to_owned();
    let bindings = objects().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")));
    let subjects: Vec<_> = bindings.flat_map(|binding| binding["subjects"].as_array().unwrap().clone()).collect();
    assert!(!subjects.is_empty() && subjects.iter().all(|subject| subject["name"] != account), "{subjects:?}");

    for (field, value) in [("apiVersion", "v1"), ("kind", "Pod")] {
        pod[field] = value.into();
    }
    pod["metadata"]["name"] = "api".into();
    pod["spec"]["serviceAccountName"] = "default".into();
    let accepted = cluster.kubectl_ok(&["apply", "--validate=strict", "-o", "json", "-f", "-"], &pod.to_string());
    let accepted: Value = serde_json::from_str(&accepted).unwrap();
    assert!(
        !accepted["spec"]["volumes"].to_string().contains("serviceAccountToken"),
        "{}",
        accepted["spec"]["volumes"]
    );
}

/// The chart's pods are accepted where Pod Security *restricted* is enforced, and no role shows Secrets to others.
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
    let roles = documents(&rendered);
    let rules: Vec<_> = roles.iter().flat_map(|role| role["rules"].as_array().unwrap()).collect();
    assert!(!rules.is_empty());
    for rule in rules {
        let resources = rule["resources"].as_array().unwrap();
        assert!(!resources.iter().any(|resource| resource == "secrets" || resource == "*"), "{rule}");
        assert!(!rule["apiGroups"].as_array().unwrap().iter().any(|group| group == "*"), "{rule}");
    }
}

/// Who may let the operator call a URL: `edit` may not, and `admin` may in its own namespace.
#[test]
fn authorities_are_for_administrators() {
    let roles = documents(&template_ok(&["--show-only", "templates/roles.yaml"]));
    let rights = |of: &str| -> BTreeSet<String> {
        let aggregates = |role: &&Value| {
            role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{of}")] == "true"
        };
        let rules = roles.iter().filter(aggregates).flat_map(|role| role["rules"].as_array().unwrap());
        let on_authorities = rules.flat_map(|rule| {
            let list =
                |field: &str| rule[field].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned());
            list("resources")
                .flat_map(|resource| list("verbs").map(move |verb| format!("{verb} {resource}")).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        });
        on_authorities.filter(|right| right.contains("authorities")).collect()
    };
    let reading = |resource: &str| {
        ["get", "list", "watch"].map(|verb| [format!("{verb} {resource}"), format!("{verb} {resource}/status")])
    };
    let reading: BTreeSet<_> =
        [reading("authorities"), reading("clusterauthorities")].into_iter().flatten().flatten().collect();
    let writing = ["create", "update", "patch", "delete", "deletecollection"].map(|verb| format!("{verb} authorities"));
    assert_eq!(rights("view"), reading);
    assert_eq!(rights("edit"), reading);
    assert_eq!(rights("admin"), reading.into_iter().chain(writing).collect());
}

/// The controller understands the values of the chart.
#[test]
fn the_hosts_of_authorities_become_flags() {
    let hosts = ["netbird.example.com", "*.corp.example", "10.1.2.3", "10.0.0.0/8", "2001:db8::/32"];
    let set = format!("authorities.hosts={{{}}}", hosts.join(","));
    let rendered = template_ok(&["--set", &set, "--show-only", "templates/deployment.yaml"]);
    let args = documents(&rendered)[0]["spec"]["template"]["spec"]["containers"][0]["args"].clone();
    let args: Vec<_> = args.as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    let flags: Vec<_> = args.iter().filter_map(|arg| arg.strip_prefix("--authority-hosts=")).collect();
    assert_eq!(flags, hosts);
    assert!(flags.iter().all(|host| host.parse::<HostPattern>().is_ok()));
    assert!(!args.contains(&"--allow-insecure-authorities"));
}

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
    let client = Client::try_from(tuned(config)).unwrap();
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

/// The optional policies, each with its message.
#[tokio::test(flavor = "multi_thread")]
async fn policies_refuse_with_a_message() {
    // A policy applies to the whole cluster, so this test has a control plane of its own.
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
        (
            "policies.secretCopies.refused=true",
            "",
            "secret: {annotations: {replicator.v1.mittwald.de/replicate-to: theirs}}",
            "copies the Secret elsewhere",
            "secret: {annotations: {example.com/replicate-to: theirs}}",
        ),
        (
            "policies.secretCopies.allowed={replicator.v1.mittwald.de}",
            "",
            "secret: {labels: {synator/sync: 'yes'}}",
            "policies.secretCopies.allowed",
            "secret: {annotations: {replicator.v1.mittwald.de/replicate-to: theirs}}",
        ),
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
        // A new policy takes a moment to be enforced, and the previous one takes a moment to disappear.
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
