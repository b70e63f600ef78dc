use serde_json::{Value, json};

use super::Person;
use crate::harness::{Cluster, kubectl};

fn kubernetes() -> String {
    let output = kubectl().args(["version", "-o", "json"]).output().expect("kubectl runs");
    let version: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    version["serverVersion"]["gitVersion"].as_str().expect("a version").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_version_tells_of_program_cluster_and_keys() {
    let person = Person::administrator(&Cluster::for_test("plugin-version").await);
    let (ours, kubernetes) = (concat!("v", env!("CARGO_PKG_VERSION")), kubernetes());
    let text = format!("Client:      {ours}\nKubernetes:  {kubernetes}\nSetupKeys:   setupkey.dev/v1alpha1\n");
    assert_eq!(person.runs(&["version"]).ok(), text);
    let whole = json!({ "client": ours, "kubernetes": kubernetes, "setupKeys": ["v1alpha1"], "note": null });
    assert_eq!(person.runs(&["version", "-o", "json"]).json(), whole);
    let yaml: Value = serde_yaml::from_str(person.runs(&["version", "-o", "yaml"]).ok()).unwrap();
    assert_eq!(yaml, whole);
    // The cluster is not asked, so there need not be one.
    let alone = person.runs(&["version", "--client", "--kubeconfig", "/none"]);
    assert_eq!(alone.ok(), format!("Client:      {ours}\n"));
    let form = person.runs(&["version", "-o", "table"]);
    assert!(form.fails().contains("there is text, json and yaml"), "{form:?}");
}

/// Only a caller who may not even ask what the cluster offers is told less.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_version_says_what_it_may_not_know() {
    let cluster = Cluster::for_test("plugin-version-rights").await;
    let guest = Person::with_rights(&cluster, "guest", &[]);
    assert!(guest.runs(&["version"]).ok().contains("SetupKeys:   setupkey.dev/v1alpha1\n"));
    let anonymous = Person::administrator(&cluster).runs(&["version", "--as", "system:anonymous"]);
    assert_eq!(anonymous.code, 0, "{anonymous:?}");
    assert!(anonymous.out.contains(&format!("Kubernetes:  {}\nSetupKeys:   unknown\n", kubernetes())), "{anonymous:?}");
    let why =
        "could not list the resources of the cluster: forbidden: User \"system:anonymous\" cannot get path \"/apis\"";
    assert!(anonymous.err.starts_with(&format!("warning: {why}")), "{anonymous:?}");
}
