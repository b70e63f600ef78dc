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

/// How many workloads are named in a sentence.
const MOST_NAMES: usize = 5;

/// A workload that reads a Secret.
#[derive(Clone, Debug, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
pub struct Readers(BTreeMap<(String, String), BTreeSet<Use>>);

/// A reader, and the one data key that it reads; `None` for the whole Secret.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Use {
    reader: Reader,
    data_key: Option<String>,
}

impl Readers {
    /// The readers that these pods show.
    pub fn of(pods: &[Pod]) -> Self {
        let mut readers = Self::default();
        readers.add(pods);
        readers
    }

    /// Adds the readers that these pods show.
    pub fn add(&mut self, pods: &[Pod]) {
        for pod in pods {
            let (Some(spec), Some(namespace)) = (&pod.spec, &pod.metadata.namespace) else { continue };
            let (kind, name) = workload(pod);
            let files = mounted(spec).map(|secret| (secret, None, How::File));
            let variables = in_variables(spec).map(|(secret, data_key)| (secret, data_key, How::Variable));
            for (secret, data_key, how) in files.chain(variables) {
                let of_secret = self.0.entry((namespace.clone(), secret.to_owned())).or_default();
                let reader = Reader { kind: kind.clone(), name: name.clone(), how };
                of_secret.insert(Use { reader, data_key: data_key.map(str::to_owned) });
            }
        }
    }

    /// Those of one Secret, sorted by kind and name.
    pub fn of_secret(&self, namespace: &str, secret: &str) -> BTreeSet<&Reader> {
        self.uses(namespace, secret).map(|of| &of.reader).collect()
    }

    /// Those that read the whole Secret, or one of these data keys of it.
    pub fn of_data_keys(&self, namespace: &str, secret: &str, data_keys: &[&str]) -> BTreeSet<&Reader> {
        let is_of_them = |of: &&Use| of.data_key.as_deref().is_none_or(|data_key| data_keys.contains(&data_key));
        self.uses(namespace, secret).filter(is_of_them).map(|of| &of.reader).collect()
    }

    fn uses(&self, namespace: &str, secret: &str) -> impl Iterator<Item = &Use> {
        self.0.get(&(namespace.to_owned(), secret.to_owned())).into_iter().flatten()
    }
}

/// The workloads by kind and name, each once. Of more than five, the first five and how many more there are.
pub fn names<'a>(readers: impl IntoIterator<Item = &'a Reader>) -> String {
    let names: BTreeSet<_> = readers.into_iter().map(ToString::to_string).collect();
    let shown: Vec<_> = names.iter().take(MOST_NAMES).map(String::as_str).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
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

/// The Secrets in environment variables, each with the data key that is read; `None` for all of them.
fn in_variables(spec: &PodSpec) -> impl Iterator<Item = (&str, Option<&str>)> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.flat_map(|container| {
        let all = container.env_from.iter().flatten();
        let all = all.filter_map(|from| Some((from.secret_ref.as_ref()?.name.as_str(), None)));
        let single = container.env.iter().flatten().filter_map(|variable| {
            let reference = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
            Some((reference.name.as_str(), Some(reference.key.as_str())))
        });
        all.chain(single)
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
        readers.of_secret("n", "s").into_iter().map(|reader| (reader.to_string(), reader.how)).collect()
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

    #[test]
    fn a_variable_from_another_data_key_does_not_read_the_key() {
        let variables = json!({ "containers": [{ "name": "c", "env": [
            { "name": "NB_MANAGEMENT_URL", "valueFrom": { "secretKeyRef": { "name": "s", "key": "url" } } },
        ] }] });
        let readers = Readers::of(&[pod(json!({}), variables)]);
        assert_eq!(readers.of_data_keys("n", "s", &["setup-key"]).len(), 0);
        assert_eq!(readers.of_data_keys("n", "s", &["setup-key", "url"]).len(), 1);
        let all = json!({ "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "s" } }] }] });
        assert_eq!(Readers::of(&[pod(json!({}), all)]).of_data_keys("n", "s", &["setup-key"]).len(), 1);
    }

    #[test]
    fn pods_of_further_pages_are_added() {
        let mounts = |name: &str| {
            let volume = json!({ "name": "v", "secret": { "secretName": "s" } });
            pod(json!({ "name": name }), json!({ "volumes": [volume] }))
        };
        let mut readers = Readers::of(&[mounts("a")]);
        readers.add(&[mounts("b")]);
        assert_eq!(names(readers.of_secret("n", "s")), "pod/a, pod/b");
    }

    #[test]
    fn of_many_workloads_the_first_are_named() {
        let of = |number: usize| Reader { kind: "pod".to_owned(), name: format!("p{number}"), how: How::File };
        let twice = [of(1), Reader { how: How::Variable, ..of(1) }, of(2)];
        assert_eq!(names(&twice), "pod/p1, pod/p2");
        let many: Vec<_> = (1..=7).map(of).collect();
        assert_eq!(names(&many), "pod/p1, pod/p2, pod/p3, pod/p4, pod/p5 and 2 more");
    }
}
