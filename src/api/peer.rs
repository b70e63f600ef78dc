use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Timestamp, rules};

/// The terms on which the peer joined. They never change: revoking, expiring or deleting the key does not touch them, and
/// neither does a later change of the key's groups.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[expect(clippy::duplicated_attributes, reason = "columns of the same type are no duplicates")]
#[kube(
    group = "setupkey.dev",
    version = "v1alpha1",
    kind = "Peer",
    plural = "peers",
    namespaced,
    status = "PeerStatus",
    derive = "PartialEq",
    doc = "A Peer is a machine that has joined with a setup key. The enrollment service creates it; deleting it removes the machine from the network.",
    printcolumn(
        name = "Hostname",
        type_ = "string",
        json_path = ".spec.hostname",
        description = "The name that the machine gave itself"
    ),
    printcolumn(
        name = "Groups",
        type_ = "string",
        json_path = ".spec.groups",
        description = "The groups that it joined"
    ),
    printcolumn(
        name = "Ephemeral",
        type_ = "boolean",
        json_path = ".spec.ephemeral",
        description = "Whether it is removed once it has not been seen for a while"
    ),
    printcolumn(
        name = "Connected",
        type_ = "boolean",
        json_path = ".status.connected",
        description = "Whether it was seen lately"
    ),
    printcolumn(
        name = "Last Seen",
        type_ = "date",
        json_path = ".status.lastSeen",
        description = "When it was last seen, to within minutes"
    ),
    printcolumn(
        name = "Key",
        type_ = "string",
        json_path = ".spec.setupKeyRef.name",
        description = "The SetupKey that it joined with"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.ephemeral",
    selectable = ".spec.publicKey"
)]
#[x_kube(validation = rules::peer_is_immutable())]
#[serde(rename_all = "camelCase")]
pub struct PeerSpec {
    /// The public key of the machine: the base64 of 32 bytes, as WireGuard writes it. metadata.name is made from it, so a
    /// machine cannot join twice.
    #[schemars(length(min = 44, max = 44), regex(pattern = r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"))]
    pub public_key: String,

    /// The name that the machine gave itself: 1 to 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub hostname: String,

    /// The groups of the key at the moment the machine joined. Each is also a label, group.setupkey.dev/GROUP, so that
    /// peers can be selected by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,

    /// The DNS labels that the machine brought, where its key allows that: at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub extra_dns_labels: Vec<String>,

    /// Whether the machine is removed once it has not been seen for a while.
    #[serde(default)]
    pub ephemeral: bool,

    /// The key that the machine joined with. It may have been deleted since.
    pub setup_key_ref: SetupKeyReference,

    /// The base64 of the SHA-256 of the token by which the machine proves its identity.
    #[schemars(length(min = 44, max = 44), regex(pattern = r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"))]
    pub token_digest: String,
}

/// Which key a machine joined with.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupKeyReference {
    /// The name of the SetupKey, in the namespace of the Peer.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The uid of that object, by which it differs from a later one of the same name.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The public id of the key.
    #[schemars(length(min = 20, max = 20))]
    pub id: String,
    /// Which use of the key it was, 1 for the first: what its usedTimes was raised to when the machine was admitted.
    #[serde(rename = "use")]
    #[schemars(range(min = 1))]
    pub number: i64,
}

/// What is known about the machine now.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Whether the machine was seen within its lifetime, 10 minutes unless the operator is configured otherwise.
    #[serde(default)]
    pub connected: bool,

    /// When the machine was last seen. It is written at most once per third of the lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}
