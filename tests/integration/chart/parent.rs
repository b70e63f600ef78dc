//! The chart as a dependency of another chart.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::{Value, json};

use super::{Helm, chart, documents, kind, ok};

/// A parent chart that has this one as a dependency under each of these names.
struct Parent {
    folder: tempfile::TempDir,
}

impl Parent {
    fn of(names: &[&str]) -> Self {
        let parent = Self { folder: tempfile::tempdir().unwrap() };
        let version = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
        let version: Value = serde_yaml::from_str(&version).unwrap();
        let dependency = |name: &&str| {
            json!({
                "name": "setupkey-operator", "version": version["version"], "alias": name,
                "condition": format!("{name}.enabled"),
            })
        };
        let dependencies: Vec<_> = names.iter().map(dependency).collect();
        let manifest =
            json!({ "apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": dependencies });
        std::fs::write(parent.path().join("Chart.yaml"), manifest.to_string()).unwrap();
        let charts = parent.path().join("charts");
        std::fs::create_dir(&charts).unwrap();
        ok(Command::new("cp").arg("-r").arg(chart()).arg(charts).output().unwrap());
        parent
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The objects with these values, which come from a file of the user, or the error.
    fn render(&self, helm: Helm, values: &Value) -> Result<Vec<Value>, String> {
        let file = self.path().join("of-the-user.yaml");
        std::fs::write(&file, values.to_string()).unwrap();
        let mut command = helm.command();
        command.args(["template", "prod"]).arg(self.path()).args([
            "--namespace",
            "network",
            "--kube-version",
            "1.33.0",
        ]);
        let output = command.arg("--values").arg(file).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        Ok(documents(&String::from_utf8(output.stdout).unwrap()))
    }

    /// The same for values that belong to the parent chart.
    fn render_own(&self, helm: Helm, values: &Value) -> Result<Vec<Value>, String> {
        let own = self.path().join("values.yaml");
        std::fs::write(&own, values.to_string()).unwrap();
        let rendered = self.render(helm, &json!({}));
        std::fs::remove_file(own).unwrap();
        rendered
    }
}

#[test]
fn a_parent_chart_turns_the_chart_on_and_off() {
    let parent = Parent::of(&["setupkey-operator"]);
    for helm in [Helm::Three, Helm::Four] {
        let render = |values: Value| parent.render(helm, &json!({ "setupkey-operator": values })).unwrap();
        assert_eq!(render(json!({ "enabled": false })), [] as [Value; 0]);
        let objects = render(json!({ "enabled": true }));
        assert_eq!(kind(&objects, "Deployment")[0]["metadata"]["name"], "prod-setupkey-operator");
    }
}

#[test]
fn a_parent_chart_sets_the_registry_and_its_secrets_for_all() {
    let parent = Parent::of(&["setupkey-operator"]);
    let values = json!({
        "global": { "imageRegistry": "mirror.example.com", "imagePullSecrets": ["mirror"], "storageClass": "fast" },
        "setupkey-operator": { "imagePullSecrets": [{ "name": "own" }, { "name": "mirror" }] },
    });
    for helm in [Helm::Three, Helm::Four] {
        let objects = parent.render(helm, &values).unwrap();
        let pod = &kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
        let image = pod["containers"][0]["image"].as_str().unwrap();
        assert!(image.starts_with("mirror.example.com/setupkey-operator:"), "{image}");
        assert_eq!(pod["imagePullSecrets"], json!([{ "name": "mirror" }, { "name": "own" }]));
    }
}

/// Helm removes a null of a user's file. Helm 4 ignores one of the parent chart, and Helm 3 removes it.
#[test]
fn null_from_a_parent_chart_is_no_value_or_an_error_that_names_it() {
    let parent = Parent::of(&["setupkey-operator"]);
    let empty = json!({ "setupkey-operator": {
        "podSecurityContext": { "runAsUser": null, "fsGroup": null }, "nodeSelector": null, "imagePullSecrets": null,
        "global": null, "controller": { "extraEnv": null, "resources": null, "livenessProbe": null },
    }});
    let context =
        |objects: &[Value]| kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["securityContext"].clone();
    for helm in [Helm::Three, Helm::Four] {
        let context_with = context(&parent.render(helm, &empty).unwrap());
        assert!(context_with["runAsUser"].is_null() && context_with["runAsNonRoot"] == true, "{context_with}");
        assert_eq!(context(&parent.render_own(helm, &empty).unwrap())["runAsNonRoot"], true);
        for (values, path) in [
            (json!({ "controller": null }), "the value controller is null"),
            (json!({ "policies": { "guards": { "peers": null } } }), "the value policies.guards.peers is null"),
            (json!({ "metrics": { "service": null } }), "the value metrics.service is null"),
        ] {
            let values = json!({ "setupkey-operator": values });
            let error = parent.render(helm, &values).unwrap_err();
            assert!(error.contains(path), "{helm:?}: {error}");
            let own = parent.render_own(helm, &values);
            assert!(own.as_ref().err().is_none_or(|error| error.contains(path)), "{helm:?}: {own:?}");
        }
    }
}

/// Helm 4 ignores a null in the values of the parent chart, so there has to be another way.
#[test]
fn a_parent_chart_can_leave_out_the_fixed_user() {
    let parent = Parent::of(&["setupkey-operator"]);
    let adapt = json!({ "compatibility": { "openshift": { "adaptSecurityContext": "force" } } });
    for helm in [Helm::Three, Helm::Four] {
        let objects = parent.render_own(helm, &json!({ "global": adapt })).unwrap();
        let context = &kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["securityContext"];
        assert_eq!(*context, json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } }));
    }
}

/// An alias is the name of the chart, and may hold capitals and underscores.
#[test]
fn a_parent_chart_may_have_the_chart_twice() {
    let parent = Parent::of(&["keys", "setupKeys_2"]);
    let values = json!({ "setupKeys_2": { "crds": { "enabled": false } } });
    let valid = regex::Regex::new("^[a-z][-a-z0-9]{1,43}$").unwrap();
    for helm in [Helm::Three, Helm::Four] {
        let objects = parent.render(helm, &values).unwrap();
        let identity = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
        let identities: BTreeSet<_> = objects.iter().map(identity).collect();
        assert_eq!(identities.len(), objects.len(), "{identities:#?}");
        let deployments = kind(&objects, "Deployment");
        let selectors: BTreeSet<_> = deployments.iter().map(|it| it["spec"]["selector"].to_string()).collect();
        assert_eq!(selectors.len(), 2, "{selectors:?}");
        assert!(deployments.iter().all(|it| valid.is_match(it["metadata"]["name"].as_str().unwrap())));
    }
}
