//! The pods of the chart, and who may reach them.

use serde_json::{Value, json};
use setupkey_operator::authority::netbird::HostPattern;

use super::{chart, documents, kind, ok, template_ok};
use crate::harness::{Cluster, eventually, kubectl};

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

/// The controller understands the values of the chart.
#[test]
fn the_hosts_of_authorities_become_flags() {
    let hosts = ["netbird.example.com", "*.corp.example", "10.1.2.3", "10.0.0.0/8", "2001:db8::/32"];
    let set = format!("authorities.hosts={{{}}}", hosts.join(","));
    let rendered = template_ok(&["--set", &set, "--show-only", "templates/deployment.yaml"]);
    let args =
        kind(&documents(&rendered), "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"].clone();
    let args: Vec<_> = args.as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    let flags: Vec<_> = args.iter().filter_map(|arg| arg.strip_prefix("--authority-hosts=")).collect();
    assert_eq!(flags, hosts);
    assert!(flags.iter().all(|host| host.parse::<HostPattern>().is_ok()));
    assert!(!args.contains(&"--allow-insecure-authorities"));
}

/// The pods of all components.
fn pods(arguments: &[&str]) -> Vec<Value> {
    let enabled = "enrollment.enabled=true,api.enabled=true,enrollment.tls.secretName=t,api.tls.secretName=t";
    let objects = documents(&template_ok(&[&["--set", enabled], arguments].concat()));
    let deployments = kind(&objects, "Deployment");
    assert_eq!(deployments.len(), 3);
    let pod = |deployment: &&Value| {
        let mut pod = deployment["spec"]["template"].clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = deployment["metadata"]["name"].clone();
        pod["spec"]["serviceAccountName"] = "default".into();
        pod
    };
    deployments.iter().map(pod).collect()
}

/// What OpenShift's constraint `restricted-v2` refuses: users and groups outside of the range of the namespace, unless the
/// pod names none, and what the security standard *restricted* refuses.
fn like_restricted_v2(namespace: &str) -> String {
    let within = "1000680000 && C.FIELD <= 1000689999";
    let context = "has(C.FIELD) && !(C.FIELD >= WITHIN)".replace("WITHIN", within);
    let outside = |of: &str, field: &str| context.replace("FIELD", field).replace('C', of);
    let pod = "object.spec.securityContext";
    let expressions = [
        (format!("!(has({pod}) && {})", outside(pod, "runAsUser")), "runAsUser is out of range"),
        (format!("!(has({pod}) && {})", outside(pod, "fsGroup")), "fsGroup is out of range"),
        (
            format!(
                "object.spec.containers.all(c, !has(c.securityContext) || !({}))",
                outside("c.securityContext", "runAsUser")
            ),
            "runAsUser of a container is out of range",
        ),
        (format!("has({pod}) && has({pod}.runAsNonRoot) && {pod}.runAsNonRoot"), "runAsNonRoot is missing"),
        (
            format!("has({pod}) && has({pod}.seccompProfile) && {pod}.seccompProfile.type == 'RuntimeDefault'"),
            "seccompProfile is missing",
        ),
        (
            "object.spec.containers.all(c, has(c.securityContext) && has(c.securityContext.capabilities) && 'ALL' in c.securityContext.capabilities.drop \
             && !has(c.securityContext.capabilities.add) && c.securityContext.allowPrivilegeEscalation == false)"
                .to_owned(),
            "capabilities are kept",
        ),
    ];
    let validations = expressions.map(|(expression, message)| json!({ "expression": expression, "message": message }));
    let kind = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": { "name": namespace }, "spec": spec,
        })
    };
    let policy = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
            "resourceRules": [
                { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
            ],
        },
        "validations": validations,
    });
    let binding = json!({ "policyName": namespace, "validationActions": ["Deny"] });
    format!("{}\n---\n{}", kind("ValidatingAdmissionPolicy", policy), kind("ValidatingAdmissionPolicyBinding", binding))
}

/// The values for OpenShift, in files, as the chart's README has them.
fn values_for_openshift() -> Vec<tempfile::NamedTempFile> {
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    let (_, section) = readme.split_once("**OpenShift.**").expect("a section about OpenShift");
    let (section, _) = section.split_once("\n**").expect("another section");
    let blocks =
        section.split("```yaml\n").skip(1).map(|block| block.split_once("```").expect("the end of the values").0);
    let files = blocks.map(|values| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, values).unwrap();
        file
    });
    files.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn openshift_takes_the_pods_with_the_values_of_the_readme() {
    let cluster = Cluster::for_test("openshift").await;
    cluster.kubectl_ok(&["apply", "-f", "-"], &like_restricted_v2(&cluster.namespace));
    let create = |pod: &Value| {
        let output = cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], &pod.to_string());
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let usual = pods(&[]);
    eventually("the policy to be in force", || async { (!create(&usual[0]).0).then_some(()) }).await;
    for pod in &usual {
        let (accepted, error) = create(pod);
        assert!(!accepted && error.contains("runAsUser is out of range"), "{error}");
    }
    let files = values_for_openshift();
    assert_eq!(files.len(), 2);
    let from_files = files.iter().map(|file| vec!["--values", file.path().to_str().unwrap()]);
    let on_the_line =
        ["runAsUser", "runAsGroup", "fsGroup"].map(|field| format!("podSecurityContext.{field}=null")).join(",");
    let in_range = "podSecurityContext.runAsUser=1000680000,podSecurityContext.fsGroup=1000689999";
    let seen = ["--api-versions", "security.openshift.io/v1"];
    let ways = from_files.chain([vec!["--set", &on_the_line], vec!["--set", in_range], seen.to_vec()]);
    for arguments in ways {
        for pod in pods(&arguments) {
            let (accepted, error) = create(&pod);
            assert!(accepted, "{arguments:?}: {error}");
        }
    }
    let disabled = "global.compatibility.openshift.adaptSecurityContext=disabled";
    for pod in pods(&[&seen[..], &["--set", disabled]].concat()) {
        assert!(!create(&pod).0, "the chart sees OpenShift, but is told not to care");
    }
    let own = ["--set", "podSecurityContext.runAsUser=7,global.compatibility.openshift.adaptSecurityContext=force"];
    for pod in pods(&own) {
        assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 7, "a user's own choice stays");
    }
    // The policy also sees the rest.
    for (values, refusal) in [
        ("podSecurityContext=null", "runAsNonRoot is missing"),
        ("podSecurityContext.runAsUser=null", "fsGroup is out of range"),
        ("podSecurityContext.runAsUser=1000690000", "runAsUser is out of range"),
        (
            "podSecurityContext.runAsUser=null,podSecurityContext.fsGroup=null,securityContext=null",
            "capabilities are kept",
        ),
        (
            "global.compatibility.openshift.adaptSecurityContext=force,podSecurityContext.seccompProfile=null",
            "seccompProfile is missing",
        ),
    ] {
        for pod in pods(&["--set", values]) {
            let (accepted, error) = create(&pod);
            assert!(!accepted && error.contains(refusal), "{values}: {error}");
        }
    }
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        cluster.kubectl_ok(&["delete", kind, &cluster.namespace], "");
    }
}

#[test]
fn a_value_of_a_component_replaces_the_one_for_all_pods() {
    let global = r#"{"tolerations": [{"key": "all"}], "nodeSelector": {"all": "1"}, "podSecurityContext": {"runAsUser": 1},
        "podLabels": {"a": "all", "b": "all"}, "podAnnotations": {"a": "all"}, "priorityClassName": "all",
        "enrollment": {"tolerations": [{"key": "own"}], "podSecurityContext": null, "priorityClassName": "",
            "podLabels": {"b": "own"}, "podAnnotations": {"a": "own"}, "nodeSelector": {"own": "1"}}}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, global).unwrap();
    for pod in pods(&["--values", file.path().to_str().unwrap()]) {
        let own = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "enrollment";
        let expected = if own { "own" } else { "all" };
        assert_eq!(pod["spec"]["tolerations"], json!([{ "key": expected }]));
        assert_eq!(pod["spec"]["nodeSelector"], json!({ expected: "1" }), "it is not merged");
        assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 1);
        assert_eq!(pod["spec"]["priorityClassName"], "all");
        assert_eq!(pod["metadata"]["labels"]["a"], "all", "labels add up");
        assert_eq!(pod["metadata"]["labels"]["b"], expected);
        assert_eq!(pod["metadata"]["annotations"]["a"], expected);
    }
}

/// The last of several equal flags counts.
#[test]
fn extra_arguments_come_last_and_the_chart_sets_no_address() {
    let extra = ["controller", "enrollment", "api"].map(|component| format!("{component}.extraArgs={{--log=trace}}"));
    for pod in pods(&["--set", &extra.join(",")]) {
        let args = pod["spec"]["containers"][0]["args"].as_array().unwrap().clone();
        assert_eq!(args.last().unwrap(), "--log=trace");
        assert!(args.iter().filter(|arg| arg.as_str().unwrap().starts_with("--log=")).count() == 2, "{args:?}");
        assert!(!args.iter().any(|arg| arg.as_str().unwrap().contains("address")), "{args:?}");
    }
}

/// Without a group for the volume, the file belongs to root alone.
#[test]
fn the_pods_can_read_their_certificate_with_and_without_a_group() {
    for (values, mode) in [("podSecurityContext.runAsUser=2", 0o440), ("podSecurityContext.fsGroup=null", 0o444)] {
        let modes: Vec<_> = pods(&["--set", values])
            .iter()
            .filter_map(|pod| pod["spec"]["volumes"].as_array().cloned())
            .flatten()
            .filter_map(|volume| volume["secret"]["defaultMode"].as_u64())
            .collect();
        assert_eq!(modes, [mode, mode], "{values}");
    }
}
