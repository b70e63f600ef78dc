use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{Authority, ClusterAuthority, Peer, SetupKey};

/// Every CRD of the project.
///
/// Returned as plain JSON because the typed CRD cannot say all of it: its bounds are floating-point numbers.
fn crds() -> Vec<Value> {
    let with_conditions = [SetupKey::crd(), Authority::crd(), ClusterAuthority::crd()].map(|crd| {
        let mut crd = plain(&crd);
        for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
            describe_status(&mut version["schema"]["openAPIV3Schema"]["properties"]["status"]);
        }
        crd
    });
    with_conditions.into_iter().chain([plain(&Peer::crd())]).collect()
}

fn plain(crd: &CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a CRD is plain data");
    tidy(&mut crd);
    crd
}

/// A CRD as it is kept in `crds/`.
pub struct CrdManifest {
    /// The name of the file.
    pub file: String,
    /// What is in it, as YAML.
    pub text: String,
}

/// The CRDs, each as a YAML file.
pub fn crd_manifests() -> Vec<CrdManifest> {
    let manifest = |crd: Value| {
        let names = (crd["spec"]["group"].as_str(), crd["spec"]["names"]["plural"].as_str());
        let (Some(group), Some(plural)) = names else { unreachable!("a CRD has a group and a plural") };
        let document = serde_yaml::to_string(&crd).expect("a CRD is plain data");
        let text = format!("# Generated from the code by `make crds`. Do not edit.\n---\n{document}");
        CrdManifest { file: format!("{group}_{plural}.yaml"), text }
    };
    crds().into_iter().map(manifest).collect()
}

/// Writes the schema as Kubernetes' own generator would.
///
/// - An optional field is one that may be absent, not one that may be null: `null` among the values of an enum is noise
///   in the error message, and a nullable field lets an explicit null past the rules.
/// - A whole number has no fraction, or each GitOps diff of the CRD shows one.
/// - A paragraph is one line, for `kubectl explain` wraps lines itself.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("nullable");
            if let Some(Value::Array(values)) = fields.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::String(description)) = fields.get_mut("description") {
                let paragraphs = description.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
                *description = paragraphs.collect::<Vec<_>>().join("\n\n");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(float) = number.as_f64()
                && number.is_f64()
                && float.fract() == 0.0
            {
                *value = json!(float as i64);
            }
        }
        _ => {}
    }
}

/// What the derive cannot say about a status.
fn describe_status(status: &mut Value) {
    // kstatus, and with it Flux and Argo CD, reads an object without observedGeneration as current. The default makes
    // a fresh object read as in progress from its first moment.
    status["default"] = json!({ "observedGeneration": -1 });

    // The limits of Go's metav1.Condition, which the Rust type does not carry.
    // Source: apimachinery, pkg/apis/meta/v1/types.go.
    let limits = json!({
        "type": {
            "maxLength": 316,
            "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        },
        "status": { "enum": ["True", "False", "Unknown"] },
        "reason": { "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$" },
        "message": { "maxLength": 32768 },
        "observedGeneration": { "minimum": 0 },
    });
    let properties = &mut status["properties"]["conditions"]["items"]["properties"];
    for (field, limits) in limits.as_object().into_iter().flatten() {
        for (limit, value) in limits.as_object().into_iter().flatten() {
            properties[field][limit] = value.clone();
        }
    }
}
