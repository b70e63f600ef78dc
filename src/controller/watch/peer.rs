use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::{Watchable, text};
use crate::{
    api::{Peer, Timestamp, metadata::PENDING_FINALIZER},
    cluster::{Lean, lean},
    controller::own_writes::Kind,
    key::presence::Presence,
};

/// The fields of a Peer that the controller decides from. No value in a Peer makes it undecodable.
#[derive(Clone, Debug, Deserialize, Resource, Serialize)]
#[resource(inherit = Peer)]
pub struct WatchedPeer {
    #[serde(deserialize_with = "lean::metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

impl<'de> Deserialize<'de> for Lean<WatchedPeer> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WatchedPeer::deserialize(deserializer).map(Self)
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    ephemeral: bool,
    setup_key_ref: KeyReference,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct KeyReference {
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    connected: bool,
    #[serde(deserialize_with = "readable")]
    last_seen: Option<Timestamp>,
}

/// A moment that cannot be read is none.
fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

impl WatchedPeer {
    /// The key that it joined with.
    pub fn key(&self) -> &KeyReference {
        &self.spec.setup_key_ref
    }

    /// Whether it has the finalizer that holds it until its entry is no longer pending.
    pub fn is_held(&self) -> bool {
        self.finalizers().iter().any(|finalizer| finalizer == PENDING_FINALIZER)
    }

    pub fn is_leaving(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    pub fn presence(&self) -> Presence {
        let created = self.metadata.creation_timestamp.as_ref();
        Presence {
            created: created.map_or_else(|| chrono::DateTime::UNIX_EPOCH.into(), Timestamp::from),
            last_seen: self.status.last_seen,
            connected: self.status.connected,
            ephemeral: self.spec.ephemeral,
            leaving: self.is_leaving(),
        }
    }
}

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let time = "2026-11-24T06:00:00Z";
    let sample = json!({
        "metadata": {
            "name": "peer-a", "namespace": "a", "uid": "a", "resourceVersion": "1", "creationTimestamp": time,
        },
        "spec": { "ephemeral": false }, "status": { "connected": true, "lastSeen": time },
    });
    text(&serde_json::from_value::<WatchedPeer>(sample).expect("a Peer"))
});

/// The most characters of finalizers that are kept of a Peer.
const FINALIZERS: usize = 4096;

impl Watchable for WatchedPeer {
    const KIND: Kind = Kind::Peer;

    fn strip(&mut self) {
        let metadata = std::mem::take(&mut self.metadata);
        self.metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            // Others write these, too. A Peer with more is not held by ours.
            finalizers: metadata.finalizers.filter(|all| all.iter().map(String::len).sum::<usize>() <= FINALIZERS),
            ..ObjectMeta::default()
        };
        if !self.is_held() {
            // The key matters only while the peer is held.
            self.spec.setup_key_ref = KeyReference::default();
        }
    }

    fn to_text(&self) -> Vec<u8> {
        text(self)
    }

    fn from_text(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    fn dictionary() -> &'static [u8] {
        &SAMPLE
    }
}
