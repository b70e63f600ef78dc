//! The operator's rights against its requests: tests use every right, and no right is missing.
//!
//! The API server's audit log of the whole test run is the evidence. In that run, the operator used the token of its
//! ServiceAccount and the rights from the chart.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

/// Each account, and the chart's manifest with its rights.
const ACCOUNTS: [(&str, &str); 2] =
    [("setupkey-operator", "rbac.yaml"), ("setupkey-operator-enrollment", "enrollment-rbac.yaml")];

/// A verb on a resource, as RBAC knows it.
type Right = (String, String, String);

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a manifest grants.
fn granted(manifest: &str) -> BTreeSet<Right> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(manifest);
    let manifest = std::fs::read_to_string(manifest).unwrap();
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

/// The rights of an account that were used, and those that were refused.
fn used(account: &str) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let folder = std::env::var("CONTROL_PLANE_DIR").expect("an audit log: this is run by `make test`");
    let log = std::fs::read_to_string(PathBuf::from(folder).join("audit.log")).expect("an audit log");
    let (mut allowed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if event["user"]["username"] != format!("system:serviceaccount:setupkey-system:{account}") {
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
    for (account, manifest) in ACCOUNTS {
        let (granted, (allowed, refused)) = (granted(manifest), used(account));
        assert!(!granted.is_empty(), "{manifest} grants nothing");
        assert!(!allowed.is_empty(), "{account} asked for nothing");
        assert_eq!(refused, BTreeSet::new(), "{account} lacks rights");
        let unused: Vec<_> = granted.difference(&allowed).collect();
        assert!(unused.is_empty(), "granted to {account}, and used by no test: {unused:?}");
        println!("rbac_minimal: {} rights of {account}, each used", granted.len());
    }
}
