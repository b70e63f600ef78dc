//! The Helm chart, with the real helm on the real API server: Helm 4, and Helm 3 where it may differ.

mod names;
mod parent;
mod pods;
mod policies;
mod rendered;
mod rights;
mod upgrade;
mod values;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

pub use crate::harness::helm::{Helm, chart, ok, template, template_of, template_ok};
use crate::harness::{crds, repository};

/// The objects in a manifest. A key that stands twice in a map is an error, as it is for Flux and kustomize.
fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text).map(serde_yaml::Value::deserialize);
    let documents = documents.map(|document| document.unwrap_or_else(|error| panic!("{error}\n{text}")));
    documents.filter(|document| !document.is_null()).map(|document| serde_json::to_value(document).unwrap()).collect()
}

fn kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The text of each template by the name of its file.
fn templates() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(chart().join("templates")).unwrap().map(|file| file.unwrap().path());
    let read = |path: PathBuf| {
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
    };
    files.map(read).collect()
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

/// A template that begins otherwise could end in an error of the template engine, which says nothing about the value.
#[test]
fn every_template_begins_with_the_check_of_the_values() {
    let templates = templates();
    let objects: Vec<_> = templates.iter().filter(|(name, _)| name.ends_with(".yaml")).collect();
    assert!(objects.len() > 8);
    for (name, text) in objects {
        assert!(text.starts_with("{{- include \"setupkey.check\" . -}}\n"), "{name}");
    }
}

#[test]
fn every_setting_of_a_workload_stands_once() {
    let templates = templates();
    let count = |words: &str| templates.values().map(|text| text.matches(words).count()).sum::<usize>();
    for object in ["Deployment", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount\nmetadata"] {
        assert_eq!(count(&format!("kind: {object}")), 1, "{object}");
    }
    for (setting, times) in [
        // Of the pod, and of its container.
        (" securityContext:", 2),
        (" livenessProbe:", 1),
        (" readinessProbe:", 1),
        (" terminationGracePeriodSeconds:", 1),
        (" topologySpreadConstraints:", 1),
    ] {
        assert_eq!(count(setting), times, "{setting}");
    }
}

/// YAML reads `1e3` as a number and `on` as a boolean. So a template writes each text through a function that quotes it.
#[test]
fn templates_quote_every_text() {
    let written = regex::Regex::new(r"^\s*(?:- |[-\w.]+: )+\{\{-? (.*) \}\}$").unwrap();
    let mut actions = 0;
    for (name, text) in templates().iter().filter(|(name, _)| *name != "NOTES.txt") {
        for action in text.lines().filter_map(|line| Some(written.captures(line)?[1].to_owned())) {
            let quotes = action.ends_with("quote") || action.starts_with("toJson ");
            let structured = action.contains("nindent");
            let is_no_text = action.starts_with("int ") || action == ".token" || action.ends_with("default false");
            assert!(quotes || structured || is_no_text, "{name}: {action}");
            actions += 1;
        }
    }
    assert!(actions > 50, "{actions}");
}
