//! Objects as a watch decodes them: without `managedFields`, and one that cannot be decoded does not stop the others.
//!
//! kube's `DeserializeGuard` decodes each object into a tree, copies the tree, and decodes that. The tree is mostly
//! `managedFields`, from which nothing is decided. Here an object is decoded from its text, and `managedFields` are skipped.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::{
    Resource,
    core::{DeserializeGuard, PartialObjectMeta, error_boundary::InvalidObject},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use serde_json::value::RawValue;

use crate::api::{Peer, PeerSpec, PeerStatus, SetupKey, SetupKeySpec, SetupKeyStatus};

/// An object that was decoded in this way: all of it or its metadata, as its type says.
#[derive(Clone, Debug)]
pub struct Lean<T>(pub T);

/// A kind that is made of metadata, a spec and a status.
pub trait Parts: Sized {
    /// Its spec.
    type Spec: DeserializeOwned;
    /// Its status.
    type Status: DeserializeOwned;

    /// The object of these parts.
    fn of(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

impl Parts for SetupKey {
    type Spec = SetupKeySpec;
    type Status = SetupKeyStatus;

    fn of(metadata: ObjectMeta, spec: SetupKeySpec, status: Option<SetupKeyStatus>) -> Self {
        Self { metadata, spec, status }
    }
}

impl Parts for Peer {
    type Spec = PeerSpec;
    type Status = PeerStatus;

    fn of(metadata: ObjectMeta, spec: PeerSpec, status: Option<PeerStatus>) -> Self {
        Self { metadata, spec, status }
    }
}

#[derive(Deserialize)]
struct Object<S, T> {
    metadata: Metadata,
    spec: S,
    status: Option<T>,
}

#[derive(Deserialize)]
struct OfObject {
    metadata: Metadata,
}

/// All metadata but `managedFields`, and what the API server no longer sets.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    uid: Option<String>,
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        Self {
            annotations: metadata.annotations,
            creation_timestamp: metadata.creation_timestamp,
            deletion_grace_period_seconds: metadata.deletion_grace_period_seconds,
            deletion_timestamp: metadata.deletion_timestamp,
            finalizers: metadata.finalizers,
            generate_name: metadata.generate_name,
            generation: metadata.generation,
            labels: metadata.labels,
            managed_fields: None,
            name: metadata.name,
            namespace: metadata.namespace,
            owner_references: metadata.owner_references,
            resource_version: metadata.resource_version,
            self_link: None,
            uid: metadata.uid,
        }
    }
}

/// The metadata of an object but `managedFields`, for a field of a kind that is watched.
pub fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Metadata::deserialize(deserializer).map(ObjectMeta::from)
}

impl<'de, K> Deserialize<'de> for Lean<PartialObjectMeta<K>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let OfObject { metadata } = OfObject::deserialize(deserializer)?;
        Ok(Self(PartialObjectMeta { types: None, metadata: metadata.into(), _phantom: PhantomData }))
    }
}

impl<'de, K: Parts> Deserialize<'de> for Lean<DeserializeGuard<K>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let decoded = match serde_json::from_str::<Object<K::Spec, K::Status>>(text) {
            Ok(Object { metadata, spec, status }) => Ok(K::of(metadata.into(), spec, status)),
            Err(error) => {
                let OfObject { metadata } = serde_json::from_str(text).map_err(D::Error::custom)?;
                Err(InvalidObject { error: error.to_string(), metadata: metadata.into() })
            }
        };
        Ok(Self(DeserializeGuard(decoded)))
    }
}

impl<T: Resource> Resource for Lean<T> {
    type DynamicType = T::DynamicType;
    type Scope = T::Scope;

    fn kind(dynamic: &T::DynamicType) -> Cow<'_, str> {
        T::kind(dynamic)
    }

    fn group(dynamic: &T::DynamicType) -> Cow<'_, str> {
        T::group(dynamic)
    }

    fn version(dynamic: &T::DynamicType) -> Cow<'_, str> {
        T::version(dynamic)
    }

    fn plural(dynamic: &T::DynamicType) -> Cow<'_, str> {
        T::plural(dynamic)
    }

    fn metadata_api() -> bool {
        T::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use kube::core::WatchEvent;
    use serde_json::{Value, json};

    use super::*;

    fn peer(number: Value) -> Value {
        json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer",
            "metadata": {
                "annotations": { "a": "b" }, "creationTimestamp": "2026-11-24T06:00:00Z",
                "deletionGracePeriodSeconds": 0, "deletionTimestamp": "2026-11-24T06:00:01Z",
                "finalizers": ["setupkey.dev/pending"], "generateName": "p", "generation": 2, "labels": { "c": "d" },
                "name": "peer", "namespace": "n", "resourceVersion": "7", "uid": "u",
                "ownerReferences": [{ "apiVersion": "v1", "kind": "K", "name": "o", "uid": "v" }],
                "managedFields": [{
                    "manager": "m", "operation": "Update", "apiVersion": "setupkey.dev/v1alpha1", "fieldsType": "FieldsV1",
                    "fieldsV1": { "f:spec": { "f:hostname": {} } },
                }],
            },
            "spec": {
                "publicKey": "", "hostname": "ada", "tokenDigest": "",
                "setupKeyRef": { "name": "office", "uid": "u", "id": "id-1", "use": number },
            },
            "status": { "connected": true },
        })
    }

    /// As a watch brings it.
    fn decoded(object: &Value) -> Result<Peer, Box<InvalidObject>> {
        // The API server writes the type first.
        let event = format!(r#"{{"type":"ADDED","object":{object}}}"#);
        match serde_json::from_str(&event).unwrap() {
            WatchEvent::Added(Lean(DeserializeGuard::<Peer>(decoded))) => decoded.map_err(Box::new),
            _ => panic!("{event}"),
        }
    }

    #[test]
    fn all_but_managed_fields_is_decoded() {
        let mut whole: Peer = serde_json::from_value(peer(json!(3))).unwrap();
        assert!(whole.metadata.managed_fields.take().is_some());
        assert_eq!(decoded(&peer(json!(3))).unwrap(), whole);
    }

    #[test]
    fn all_metadata_but_managed_fields_is_decoded() {
        let mut whole: Peer = serde_json::from_value(peer(json!(3))).unwrap();
        whole.metadata.managed_fields = None;
        let metadata: Lean<PartialObjectMeta<Peer>> = serde_json::from_value(peer(json!(3))).unwrap();
        assert_eq!(*metadata.meta(), whole.metadata);
    }

    #[test]
    fn the_api_server_is_asked_for_metadata_where_no_more_is_decoded() {
        assert!(Lean::<PartialObjectMeta<Peer>>::metadata_api());
        assert!(!Lean::<DeserializeGuard<Peer>>::metadata_api());
    }

    #[test]
    fn an_object_that_cannot_be_decoded_is_known_by_its_metadata() {
        let invalid = decoded(&peer(json!("three"))).unwrap_err();
        assert_eq!((invalid.metadata.name.as_deref(), invalid.metadata.uid.as_deref()), (Some("peer"), Some("u")));
        assert!(invalid.error.contains("three"), "{}", invalid.error);
    }
}
