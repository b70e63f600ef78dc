//! What the chart renders for a matrix of values, and what the API server says to it.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Stdio},
};

use control_plane::{ControlPlane, Options};
use serde_json::Value;

use super::{Helm, documents, ok, template, template_of, template_ok};
use crate::harness::{crds, repository};

fn folder() -> PathBuf {
    repository().join("tests/integration/chart")
}

/// The files of the matrix, by name. The first one changes no value.
fn matrix() -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder().join("values")).unwrap().map(|file| file.unwrap().path());
    let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<_> = files.map(|path| (name(&path), path.to_str().unwrap().to_owned())).collect();
    files.sort_by_key(|(name, _)| (name != "default", name.clone()));
    files
}

/// A snapshot leaves out the objects that are the same with the default values.
#[test]
fn the_chart_renders_as_it_did() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let rendered = |file: &str| template_ok(&["--values", file, "--set", "crds.enabled=false"]);
    let objects =
        |rendered: &str| rendered.split("---\n").map(|object| object.trim_end().to_owned()).collect::<Vec<_>>();
    let matrix = matrix();
    let usual: BTreeSet<_> = objects(&rendered(&matrix[0].1)).into_iter().collect();
    settings.bind(|| {
        for (name, file) in &matrix {
            let mut objects = objects(&rendered(file));
            objects.retain(|object| !object.is_empty() && (name == "default" || !usual.contains(object)));
            assert!(!objects.is_empty(), "{name} changes nothing");
            insta::assert_snapshot!(format!("chart-{name}"), objects.join("\n---\n"));
        }
    });
}

/// Both have the same objects in the same order, and differ only in empty lines.
#[test]
fn helm_3_renders_what_helm_4_renders() {
    for (name, file) in matrix() {
        let [three, four] = [Helm::Three, Helm::Four].map(|helm| documents(&ok(template(helm, &["--values", &file]))));
        assert!(three.len() > 1);
        assert_eq!(three, four, "{name}");
    }
}

/// A control plane that also knows the kinds of the Prometheus operator, as far as the chart uses them.
fn plane() -> ControlPlane {
    let crds = vec![crds(), folder().join("monitoring-crds.yaml")];
    ControlPlane::start(Options { crds, ..Options::default() }).unwrap()
}

/// Sends what the chart rendered as a dry run, to which the API server answers as to the real request. It refuses fields
/// that it does not know, two entries of a list with one name, and expressions that do not compile.
fn dry_run(plane: &ControlPlane, rendered: &str) -> Result<String, String> {
    let kubectl = || {
        let mut command = Command::new(plane.kubectl());
        command.arg("--kubeconfig").arg(plane.kubeconfig()).stdin(Stdio::null());
        command
    };
    let objects = documents(rendered);
    let namespaces: BTreeSet<_> =
        objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
    for namespace in namespaces {
        let created = kubectl().args(["create", "namespace", namespace]).output().unwrap();
        let error = String::from_utf8_lossy(&created.stderr).into_owned();
        assert!(created.status.success() || error.contains("AlreadyExists"), "{error}");
    }
    let file = plane.dir().join("rendered.yaml");
    std::fs::write(&file, rendered).unwrap();
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f"];
    let applied = kubectl().args(apply).arg(file).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if applied.status.success() {
        let answer = text(applied.stdout);
        assert_eq!(answer.lines().count(), objects.len(), "{answer}");
        return Ok(answer);
    }
    Err(text(applied.stderr))
}

/// Names that YAML reads as numbers, booleans or nothing. All are valid for namespaces, releases and Secrets.
const MISREAD: [&str; 7] = ["1e3", "true", "123", "null", "0x1f", "on", "0o17"];

/// Values that hold this word wherever a user may choose a name. Two accounts have other names, which must differ.
fn named(word: &str, enrollment: &str, api: &str) -> Value {
    let labels = serde_json::json!({ word: word });
    let component = serde_json::json!({
        "enabled": true, "tls": { "secretName": word }, "serviceAccount": { "name": enrollment, "annotations": labels },
        "podLabels": { "pod": word }, "extraEnv": [{ "name": "A", "value": word }], "service": { "annotations": labels },
    });
    let mut service = component.clone();
    service["namespace"] = word.into();
    service["serviceAccount"]["name"] = api.into();
    serde_json::json!({
        "nameOverride": word, "scope": { "namespaces": [word] }, "imagePullSecrets": [{ "name": word }],
        "global": { "imagePullSecrets": [word] }, "image": { "tag": word, "repository": word },
        "serviceAccount": { "name": word }, "enrollment": component, "api": service, "priorityClassName": word,
        "nodeSelector": labels, "extraLabels": labels, "podLabels": labels, "podAnnotations": labels,
        "metrics": {
            "serviceMonitor": { "enabled": true, "labels": { "of": word } },
            "podMonitor": { "enabled": true }, "prometheusRule": { "enabled": true }, "dashboard": { "enabled": true },
        },
        "policies": { "guards": { "exempt": [{ "kind": "User", "name": word }] }, "secretCopies": { "allowed": [word] } },
    })
}

#[test]
fn the_api_server_takes_all_that_the_chart_renders() {
    let mut plane = plane();
    for (name, file) in matrix() {
        let rendered = template_ok(&["--values", &file]);
        dry_run(&plane, &rendered).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let file = plane.dir().join("values.yaml");
    for (index, word) in MISREAD.iter().enumerate() {
        let [enrollment, api] = [1, 2].map(|more| MISREAD[(index + more) % MISREAD.len()]);
        std::fs::write(&file, named(word, enrollment, api).to_string()).unwrap();
        let rendered = template_of(word, word, &["--values", file.to_str().unwrap()]);
        let answer = dry_run(&plane, &rendered).unwrap_or_else(|error| panic!("{word}: {error}"));
        assert!(answer.contains(&format!("serviceaccount/{word} ")), "{answer}");
    }
    // The dry run finds what it is for.
    for (rendered, wrong, refusal) in [
        ("replicas: 2", "replica: 2", "field not declared in schema"),
        ("containerPort: 8081", "containerPort: \"8081\"", "expected numeric"),
        ("failurePolicy: Fail", "failurePolicy: Maybe", "Unsupported value"),
    ] {
        let broken = template_ok(&[]).replacen(rendered, wrong, 1);
        let error = dry_run(&plane, &broken).unwrap_err();
        assert!(error.contains(refusal), "{wrong}: {error}");
    }
    plane.stop();
}
