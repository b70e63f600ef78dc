//! The roles that the chart gives to people.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{documents, template_ok};

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
