//! How much memory the author of a `SetupKey` makes each process spend on it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::SetupKey;

/// The largest size at which a `SetupKey` is handled. Each request about it moves all of it, and a process has 32 under way.
const MOST: usize = 128 * 1024;

/// Why a key is too large to be handled, as a sentence. `None` for one that is not.
///
/// The CRD's rules bound the spec, and no rule bounds metadata: etcd stores 1.5 MiB of labels.
pub fn too_large(key: &SetupKey) -> Option<String> {
    let size = of_metadata(&key.metadata) + of_template(key) + of_conditions(key);
    (size > MOST).then(|| {
        format!(
            "labels, annotations, finalizers, owner references, secret.labels, secret.annotations and conditions take {} KiB together, and may take {} KiB",
            size.div_ceil(1024),
            MOST / 1024
        )
    })
}

fn of_metadata(metadata: &ObjectMeta) -> usize {
    let pairs = of_pairs(metadata.labels.iter().chain(&metadata.annotations).flatten());
    let finalizers: usize = metadata.finalizers.iter().flatten().map(String::len).sum();
    let owners = metadata.owner_references.iter().flatten();
    let owners: usize =
        owners.map(|owner| owner.api_version.len() + owner.kind.len() + owner.name.len() + owner.uid.len()).sum();
    pairs + finalizers + owners
}

fn of_template(key: &SetupKey) -> usize {
    let template = key.spec.secret.iter();
    template.map(|template| of_pairs(template.labels.iter().chain(&template.annotations))).sum()
}

fn of_conditions(key: &SetupKey) -> usize {
    let conditions = key.status.iter().flat_map(|status| &status.conditions);
    conditions.map(|condition| condition.type_.len() + condition.reason.len() + condition.message.len()).sum()
}

fn of_pairs<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> usize {
    pairs.map(|(key, value)| key.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key(metadata: Value, spec: Value) -> SetupKey {
        let key =
            json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": metadata, "spec": spec });
        serde_json::from_value(key).unwrap()
    }

    #[test]
    fn whatever_an_author_can_make_large_counts() {
        let large = "a".repeat(MOST + 1);
        assert_eq!(too_large(&key(json!({ "name": "k" }), json!({}))), None);
        for (metadata, spec) in [
            (json!({ "labels": { "l": large } }), json!({})),
            (json!({ "annotations": { "a": large } }), json!({})),
            (json!({ "finalizers": [large] }), json!({})),
            (json!({ "ownerReferences": [{ "apiVersion": "v1", "kind": "K", "name": "n", "uid": large }] }), json!({})),
            (json!({}), json!({ "secret": { "labels": { "l": large } } })),
            (json!({}), json!({ "secret": { "annotations": { "a": large } } })),
        ] {
            let said = too_large(&key(metadata, spec)).expect("too large");
            assert!(said.contains("take 129 KiB together, and may take 128 KiB"), "{said}");
        }
    }
}
