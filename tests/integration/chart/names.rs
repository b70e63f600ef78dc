//! The names of the chart's objects.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{documents, kind, template_of};

/// Everything that the chart can render, with two namespaces to work in or all.
const ALL: &str = "crds.enabled=false,enrollment.enabled=true,api.enabled=true,networkPolicy.enabled=true,\
                   metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true,\
                   metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true,policies.oneOffOnly=true,\
                   policies.requireUsageLimit=true,policies.maxExpiresIn=1h,policies.allowedGroupsLabel=groups";

fn objects(release: &str, namespace: &str, arguments: &[&str]) -> Vec<Value> {
    documents(&template_of(release, namespace, &[&["--set", ALL], arguments].concat()))
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Kind, namespace and name.
fn identity(object: &Value) -> (String, String, String) {
    (object["kind"].as_str().unwrap().to_owned(), text(object, "namespace").to_owned(), text(object, "name").to_owned())
}

/// Releases as Helm takes them: of up to 53 characters, with dots, and beginning with digits.
fn releases() -> Vec<(String, &'static str)> {
    let long = "r".repeat(53);
    let names = ["a", "a-b", "a.b", "1.a", "1e3", "123", "on", "setupkey-operator", "my-setupkey-operator", &long];
    let almost = format!("{}s", "r".repeat(52));
    let dotted = format!("{}.{}", "d".repeat(26), "d".repeat(26));
    let operators = ["x".repeat(26), "y".repeat(27), "z".repeat(35)].map(|rest| format!("{rest}-setupkey-operator"));
    let names = names.into_iter().map(str::to_owned).chain([almost, dotted]).chain(operators);
    let mut releases: Vec<_> = names.map(|name| (name, "c")).collect();
    // Two of one name, and two whose names and namespaces join to the same text.
    releases.extend([("a".to_owned(), "b-c"), ("b".to_owned(), "c"), ("setupkey-operator".to_owned(), "d")]);
    releases
}

#[test]
fn the_names_of_objects_are_valid_for_every_release_and_those_of_two_releases_differ() {
    let label = regex::Regex::new("^[a-z]([-a-z0-9]*[a-z0-9])?$").unwrap();
    let subdomain = regex::Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").unwrap();
    let value = regex::Regex::new("^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$").unwrap();
    for scope in ["scope.namespaces=null", "scope.namespaces={team-a,team-b}"] {
        let mut owners = BTreeMap::new();
        for (release, namespace) in releases() {
            let objects = objects(&release, namespace, &["--set", scope]);
            assert!(objects.len() > 40, "{}", objects.len());
            for object in &objects {
                let name = text(object, "name");
                let labels = object["metadata"]["labels"].as_object().unwrap();
                assert!(labels.values().all(|label| label.as_str().unwrap().len() <= 63), "{labels:?}");
                assert!(labels.values().all(|label| value.is_match(label.as_str().unwrap())), "{labels:?}");
                assert!(name.len() <= 253 && subdomain.is_match(name), "{name}");
                if object["kind"] == "Service" || object["kind"] == "Deployment" {
                    assert!(name.len() <= 63 && label.is_match(name), "{name}");
                }
                let owner = format!("{release} in {namespace}");
                if let Some(other) = owners.insert(identity(object), owner.clone()) {
                    panic!("{owner} and {other} share {:?}", identity(object));
                }
            }
        }
    }
}

#[test]
fn an_installed_release_keeps_the_names_that_an_upgrade_needs() {
    let objects = objects("setupkey-operator", "setupkey-system", &[]);
    let names = |of: &str| kind(&objects, of).into_iter().map(|object| text(object, "name")).collect::<BTreeSet<_>>();
    let names_of_components =
        BTreeSet::from(["setupkey-operator", "setupkey-operator-api", "setupkey-operator-enrollment"]);
    assert_eq!(names("Deployment"), names_of_components);
    assert_eq!(names("ServiceAccount"), names_of_components);
    for deployment in kind(&objects, "Deployment") {
        let component = text(deployment, "name").strip_prefix("setupkey-operator-").unwrap_or("controller");
        let selector = serde_json::json!({
            "app.kubernetes.io/name": "setupkey-operator", "app.kubernetes.io/instance": "setupkey-operator",
            "app.kubernetes.io/component": component,
        });
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], selector, "it cannot be changed");
    }
}

/// The right to a Lease goes by its name. Two releases in one namespace have two.
#[test]
fn the_controller_may_use_the_lease_that_it_is_told_to_use() {
    let leases = ["setupkey-operator", "a", "b", "1.a"].map(|release| {
        let objects = objects(release, "c", &[]);
        let roles = kind(&objects, "Role");
        let rules = roles.iter().flat_map(|role| role["rules"].as_array().unwrap());
        let named: Vec<_> = rules.filter_map(|rule| rule["resourceNames"].as_array()).flatten().collect();
        let deployments = kind(&objects, "Deployment");
        let containers = deployments.iter().map(|deployment| &deployment["spec"]["template"]["spec"]["containers"][0]);
        let args: Vec<_> = containers.flat_map(|container| container["args"].as_array().unwrap()).collect();
        let args: Vec<_> =
            args.iter().filter_map(|arg| arg.as_str()?.strip_prefix("--leader-election-name=")).collect();
        assert_eq!(args.len(), 1);
        assert_eq!(named, args);
        args[0].to_owned()
    });
    assert_eq!(leases[0], "setupkey-operator");
    assert_eq!(BTreeSet::from(leases).len(), 4);
}
