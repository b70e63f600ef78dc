//! The operator's rights against what it used: no right that no test needed, and none that was missing.
//!
//! Judged by the API server's audit log of the whole test run, in which the operator worked with the token of its
//! ServiceAccount under the rights that the chart gives.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

const OPERATOR: &str = "system:serviceaccount:setupkey-system:setupkey-operator";

/// A verb on a resource, as RBAC knows it.
type Right = (String, String, String);

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What deploy/rbac.yaml, which is the chart's, grants.
fn granted() -> BTreeSet<Right> {
    let manifest = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/rbac.yaml")).unwrap();
    let mut rights = BTreeSet::new();
    for document in manifest.split("\n---") {
        let document: Value = serde_yaml::from_str(document).unwrap();
        for rule in document["rules"].as_array().into_iter().flatten() {
            let list = |field: &str| rule[field].as_array().unwrap().iter().map(text).collect::<Vec<_>>();
            for group in list("apiGroups") {
                for resource in list("resources") {
                    rights.extend(list("verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
                }
            }
        }
    }
    rights
}

/// What the operator asked for, and whether it was let.
fn used() -> (BTreeSet<Right>, BTreeSet<Right>) {
    let folder = std::env::var("CONTROL_PLANE_DIR").expect("an audit log: this is run by `make test`");
    let log = std::fs::read_to_string(PathBuf::from(folder).join("audit.log")).expect("an audit log");
    let (mut allowed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if event["user"]["username"] != OPERATOR {
            continue;
        }
        let object = &event["objectRef"];
        let (resource, subresource) = (text(&object["resource"]), text(&object["subresource"]));
        let resource = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
        let right = (text(&object["apiGroup"]), resource, text(&event["verb"]));
        match event["annotations"]["authorization.k8s.io/decision"].as_str() {
            Some("forbid") => refused.insert(right),
            Some("allow") => allowed.insert(right),
            _ => false,
        };
    }
    (allowed, refused)
}

#[test]
#[ignore = "judges the audit log of a whole test run; `make test` runs it after that"]
fn rbac_minimal() {
    let (granted, (allowed, refused)) = (granted(), used());
    assert!(!allowed.is_empty(), "the operator asked for nothing");
    assert_eq!(refused, BTreeSet::new(), "the operator lacks rights");
    let unused: Vec<_> = granted.difference(&allowed).collect();
    assert!(unused.is_empty(), "granted, and used by no test: {unused:?}");
    println!("rbac_minimal: {} rights, each used", granted.len());
}
