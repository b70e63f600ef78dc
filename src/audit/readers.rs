//! Which workloads read which Secrets, as their pods show.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use schemars::JsonSchema;
use serde::Serialize;

/// The label by which the pods of a `ReplicaSet` differ from those of the others of their Deployment.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A workload that reads a Secret.
#[derive(Clone, Debug, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reader {
    /// The kind of the workload in lower case, such as `deployment`; `pod` for a pod that nothing owns.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How it reads the Secret.
    pub how: How,
}

/// How a pod reads a Secret.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// From a mounted volume.
    File,
    /// From environment variables.
    Variable,
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// The readers of Secrets, by namespace and name of the Secret.
#[derive(Debug, Default)]
pub struct Readers(BTreeMap<(String, String), BTreeSet<Reader>>);

impl Readers {
    /// The readers that these pods show.
    pub fn of(pods: &[Pod]) -> Self {
        let mut readers = Self::default();
        for pod in pods {
            let (Some(spec), Some(namespace)) = (&pod.spec, &pod.metadata.namespace) else { continue };
            let (kind, name) = workload(pod);
            let uses = mounted(spec).map(|secret| (secret, How::File));
            for (secret, how) in uses.chain(in_variables(spec).map(|secret| (secret, How::Variable))) {
                let of_secret = readers.0.entry((namespace.clone(), secret.to_owned())).or_default();
                of_secret.insert(Reader { kind: kind.clone(), name: name.clone(), how });
            }
        }
        readers
    }

    /// Those of one Secret, sorted by kind and name.
    pub fn of_secret(&self, namespace: &str, secret: &str) -> impl Iterator<Item = &Reader> {
        self.0.get(&(namespace.to_owned(), secret.to_owned())).into_iter().flatten()
    }
}

/// Kind and name of what has created the pod. A Deployment is known by its `ReplicaSet`, whose name ends in a hash.
fn workload(pod: &Pod) -> (String, String) {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else {
        return ("pod".to_owned(), pod.metadata.name.clone().unwrap_or_default());
    };
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    match deployment {
        Some(deployment) if owner.kind == "ReplicaSet" => ("deployment".to_owned(), deployment.to_owned()),
        _ => (owner.kind.to_lowercase(), owner.name.clone()),
    }
}

fn mounted(spec: &PodSpec) -> impl Iterator<Item = &str> {
    spec.volumes.iter().flatten().flat_map(|volume| {
        let whole = volume.secret.iter().filter_map(|secret| secret.secret_name.as_deref());
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        whole.chain(sources.filter_map(|source| source.secret.as_ref().map(|secret| secret.name.as_str())))
    })
}

fn in_variables(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.flat_map(|container| {
        let all = container.env_from.iter().flatten().filter_map(|from| Some(from.secret_ref.as_ref()?.name.as_str()));
        let single = container.env.iter().flatten();
        all.chain(
            single.filter_map(|variable| Some(variable.value_from.as_ref()?.secret_key_ref.as_ref()?.name.as_str())),
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: Value, spec: Value) -> Pod {
        let mut pod = json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": { "containers": [] } });
        json_patch::merge(&mut pod, &json!({ "metadata": metadata, "spec": spec }));
        serde_json::from_value(pod).unwrap()
    }

    fn of_secret(pod: Pod) -> Vec<(String, How)> {
        let readers = Readers::of(&[pod]);
        readers.of_secret("n", "s").map(|reader| (reader.to_string(), reader.how)).collect()
    }

    #[test]
    fn each_way_to_read_a_secret_is_seen() {
        for (spec, how) in [
            (json!({ "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] }), How::File),
            (
                json!({ "volumes": [{ "name": "v", "projected": { "sources": [{ "secret": { "name": "s" } }] } }] }),
                How::File,
            ),
            (json!({ "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "s" } }] }] }), How::Variable),
            (
                json!({ "initContainers": [{ "name": "c", "env": [
                    { "name": "A", "value": "a" },
                    { "name": "NB_SETUP_KEY", "valueFrom": { "secretKeyRef": { "name": "s", "key": "setup-key" } } },
                ] }] }),
                How::Variable,
            ),
        ] {
            assert_eq!(of_secret(pod(json!({}), spec)), [("pod/p".to_owned(), how)]);
        }
        let other = json!({ "volumes": [{ "name": "v", "secret": { "secretName": "other" } }] });
        assert_eq!(of_secret(pod(json!({ "namespace": "m" }), other)), []);
    }

    #[test]
    fn a_pod_stands_for_the_workload_that_has_created_it() {
        let reads = json!({ "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] });
        let of = |kind: &str, name: &str| {
            let owner = json!({ "apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true });
            let labels = json!({ TEMPLATE_HASH: "7c9d" });
            of_secret(pod(json!({ "ownerReferences": [owner], "labels": labels }), reads.clone()))[0].0.clone()
        };
        assert_eq!(of("ReplicaSet", "agent-7c9d"), "deployment/agent");
        assert_eq!(of("ReplicaSet", "by-hand"), "replicaset/by-hand");
        assert_eq!(of("DaemonSet", "router"), "daemonset/router");
        assert_eq!(of("Job", "migrate"), "job/migrate");
    }
}
