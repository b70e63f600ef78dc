//! What `make manifests` makes of the chart for a release.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde::Deserialize;
use serde_json::Value;

use super::site::{ok, package};
use crate::harness::{Cluster, crds, repository, tool};

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// What `helm show` says of the package.
fn show(folder: &Path, what: &str) -> Value {
    let package = folder.join(format!("setupkey-operator-{}.tgz", env!("CARGO_PKG_VERSION")));
    serde_yaml::from_str(&ok(Command::new(tool("helm")).args(["show", what]).arg(package).output().unwrap())).unwrap()
}

/// An annotation of the packaged chart that holds YAML.
fn annotation(chart: &Value, name: &str) -> Vec<Value> {
    serde_yaml::from_str(chart["annotations"][format!("artifacthub.io/{name}")].as_str().expect(name)).expect(name)
}

#[test]
fn a_release_names_its_image_in_chart_and_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let image = "registry.example:5000/team/setupkey-operator";
    package(folder.path(), &[("IMAGE", image), ("SOURCE", "https://git.example/team/setupkey-operator")]);
    let tagged = format!("{image}:{}", env!("CARGO_PKG_VERSION"));
    let chart = show(folder.path(), "chart");
    assert_eq!(show(folder.path(), "values")["image"]["repository"], image);
    assert_eq!(annotation(&chart, "images")[0]["image"], tagged.as_str());
    assert_eq!(annotation(&chart, "links")[0]["url"], "https://git.example/team/setupkey-operator/issues");
    assert_eq!(chart["home"], "https://git.example/team/setupkey-operator");
    let objects = documents(&folder.path().join("setupkey-operator.yaml"));
    assert_eq!(
        (&objects[0]["kind"], &objects[0]["metadata"]["name"]),
        (&"Namespace".into(), &"setupkey-system".into())
    );
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").expect("a Deployment");
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], tagged.as_str());

    let mut script = Command::new(repository().join("hack/manifests.sh"));
    let refused =
        script.env("HELM", tool("helm")).env("MANIFESTS", folder.path()).env("IMAGE", "a b").output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("IMAGE holds a character"), "{refused:?}");
}

#[test]
fn the_crds_of_a_release_are_those_of_the_code_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), &[]);
    let by_name = |crds: Vec<Value>| -> BTreeMap<String, Value> {
        crds.into_iter().map(|crd| (crd["metadata"]["name"].as_str().unwrap().to_owned(), crd)).collect()
    };
    let shipped = by_name(documents(&folder.path().join("crds.yaml")));
    let files = std::fs::read_dir(crds()).unwrap().map(|file| file.unwrap().path());
    let code = by_name(files.flat_map(|file| documents(&file)).collect());
    assert_eq!(shipped.keys().collect::<Vec<_>>(), code.keys().collect::<Vec<_>>());
    for (name, crd) in &shipped {
        assert_eq!(crd["spec"], code[name]["spec"], "{name}");
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "{name}");
    }
    let whole = documents(&folder.path().join("setupkey-operator.yaml"));
    assert_eq!(
        by_name(whole.into_iter().filter(|object| object["kind"] == "CustomResourceDefinition").collect()),
        shipped
    );
}

/// One entry for each point of the changelog, with its kind and first sentence.
#[test]
fn the_changes_of_the_packaged_chart_are_those_of_the_changelog() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), &[]);
    let changelog = std::fs::read_to_string(repository().join("CHANGELOG.md")).unwrap();
    let sections: Vec<_> = changelog.split("\n## ").skip(1).collect();
    let of = |name: &str| sections.iter().find(|section| section.split_whitespace().next() == Some(name));
    let section = of(env!("CARGO_PKG_VERSION")).or_else(|| of("Unreleased")).expect("a section");
    let mut expected = Vec::new();
    for part in section.split("\n### ").skip(1) {
        let (kind, points) = part.split_once('\n').unwrap();
        for point in points.split("\n- ").skip(1) {
            let text = point.split_whitespace().collect::<Vec<_>>().join(" ");
            let sentence = text.split(". ").next().unwrap().trim_end_matches('.').replace('`', "");
            expected.push((kind.to_lowercase(), sentence));
        }
    }
    assert!(expected.len() >= 10);
    let link = regex::Regex::new(r"\[([^]]*)\]\([^)]*\)").unwrap();
    let expected: Vec<_> =
        expected.into_iter().map(|(kind, text)| (kind, link.replace_all(&text, "$1").into_owned())).collect();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let changes = annotation(&show(folder.path(), "chart"), "changes");
    let changes: Vec<_> = changes.iter().map(|change| (text(&change["kind"]), text(&change["description"]))).collect();
    assert_eq!(changes, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_artifact_hub_are_accepted() {
    let cluster = Cluster::for_test("artifact_hub").await;
    let chart = std::fs::read_to_string(repository().join("charts/setupkey-operator/Chart.yaml")).unwrap();
    let examples = annotation(&serde_yaml::from_str(&chart).unwrap(), "crdsExamples");
    assert!(examples.len() >= 3);
    for example in examples {
        let dry_run = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        cluster.kubectl_ok(&dry_run, &example.to_string());
    }
}
