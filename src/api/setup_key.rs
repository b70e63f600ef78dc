use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lifetime, PendingPeer, PreviousKey, SetupKeyStatus, rules};

/// What the key allows. Its type, lifetime, limit and authority are fixed when the SetupKey is created, so a key keeps the
/// terms that it was handed out with. Groups, revocation, rotation and most of the Secret may change.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "setupkey.dev",
    version = "v1alpha1",
    kind = "SetupKey",
    plural = "setupkeys",
    shortname = "sk",
    // Of this kind alone: with another kind in the category, kubectl takes "setupkey NAME" for two kinds and refuses it.
    category = "setupkey",
    namespaced,
    status = "SetupKeyStatus",
    derive = "PartialEq",
    doc = "A SetupKey describes a secret that lets machines join a private network. The operator generates the secret into a Secret of the same namespace and reports its state here.",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", description = "reusable or one-off"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "valid, overused, expired or revoked"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.usedTimes", description = "Peers that joined with this key"),
    printcolumn(name = "Limit", type_ = "integer", json_path = ".status.usageLimit", description = "Peers that may join; empty when there is no limit"),
    // kubectl prints the age of a date, and the age of a moment to come as <invalid>.
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expires", description = "When the key stops admitting peers"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secret.name", description = "The Secret that holds the key"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the cluster matches the spec"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision", description = "Which key this is: 1 for the first, one more after each rotation", priority = 1),
    printcolumn(name = "Rotates", type_ = "string", json_path = ".status.rotateAt", description = "When the next key is issued; empty when none is due", priority = 1),
    printcolumn(name = "Authority", type_ = "string", json_path = ".spec.authorityRef.name", description = "The authority behind the key; empty for a key of the cluster itself", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.type",
    selectable = ".status.state",
    selectable = ".status.id",
    validation = rules::name_fits_a_label(),
    validation = rules::immutable_defaulting_to_name(&["name"]),
    validation = rules::immutable_defaulting_to_name(&["secret", "name"]),
    validation = rules::secret_key_is_immutable(),
    validation = rules::secret_is_not_helms(),
    validation = rules::authority_is_immutable(),
)]
#[x_kube(
    validation = rules::one_off_is_used_once(),
    validation = rules::groups_are_label_names(),
    validation = rules::groups_are_names(),
    validation = rules::only_authorities_retain(),
    validation = rules::renewal(),
    validation = rules::overlap(),
    validation = rules::only_authorities_have_a_url(),
)]
#[serde(rename_all = "camelCase")]
pub struct SetupKeySpec {
    /// The display name of this key, 1 to 255 characters, none of them a control character. It need not be unique. Default:
    /// metadata.name. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = rules::no_control_characters("name"))]
    pub name: Option<String>,

    /// How often the key can be used: "reusable" admits peers up to usageLimit, "one-off" admits one. Cannot be changed.
    #[serde(rename = "type", default)]
    #[x_kube(validation = rules::immutable("type"))]
    pub key_type: KeyType,

    /// How long the key admits peers, counted from the moment it is issued: 24h to 8760h, as a Go duration such as 720h or
    /// 36h30m. There is no unit for days; 30 days are 720h. status.expires has the resulting moment. Cannot be changed.
    #[serde(default = "default_expires_in")]
    #[x_kube(validation = rules::lifetime(), validation = rules::immutable("expiresIn"))]
    pub expires_in: Lifetime,

    /// The groups of the peers that join, at most 64 different ones. Without an authorityRef, a group is a name of at most 63
    /// letters, digits, '-', '_' and '.'; with one, it is the name or id of a NetBird group. May be changed at any time: peers
    /// that join later get the new groups, peers that have joined keep theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub auto_groups: Vec<String>,

    /// How many peers may join with this key; 0 means any number. A one-off key always has the limit 1. Cannot be
    /// changed.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    #[x_kube(validation = rules::immutable("usageLimit"))]
    pub usage_limit: i32,

    /// Whether peers that join with this key are removed once they have not been seen for their lifetime. Right for pods
    /// and autoscaled machines. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = rules::immutable("ephemeral"))]
    pub ephemeral: bool,

    /// Whether a peer may bring DNS labels of its own when it joins. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = rules::immutable("allowExtraDnsLabels"))]
    pub allow_extra_dns_labels: bool,

    /// Whether the key is revoked: true stops it from admitting peers, false lets it admit them again. The peers that have
    /// joined stay as they are. NetBird never takes a revocation back, so with an authorityRef, false puts a new key with the
    /// same expiry and the remaining uses into the Secret.
    #[serde(default)]
    pub revoked: bool,

    /// When another key is issued in place of this one, with another value, the whole lifetime and the whole limit, and how
    /// long the replaced key admits peers after that. Absent: only the annotation setupkey.dev/rotate-requested-at causes
    /// that, and the overlap is 24h. May be changed at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,

    /// A key that no peer has used for so long is revoked, 24h to 8760h, as a Go duration such as 720h. The time is counted
    /// from the last use, or from the moment the key was issued; a rotation by schedule does not begin it again. Such a key
    /// has the state revoked, and the condition Valid has the reason Unused. The keys that it has replaced admit no peers
    /// either. Raising or removing this value lets the key admit peers again. A key whose limit is reached is overused, not
    /// unused. May be changed at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::unused())]
    pub revoke_unused_after: Option<Lifetime>,

    /// The Secret that the key is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretTemplate>,

    /// The authority behind the key: a NetBird account, in which the operator creates the key and whose agents join with it.
    /// Absent: the cluster itself, and the enrollment service admits peers. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_ref: Option<AuthorityReference>,

    /// What happens to the key at the authority when the SetupKey is deleted: "Delete" deletes it, and the SetupKey goes once
    /// that is done; "Retain" leaves it, and it admits peers until it expires. Peers that have joined stay in both cases. May
    /// be changed at any time, also while the SetupKey is being deleted.
    #[serde(default, skip_serializing_if = "DeletionPolicy::is_delete")]
    pub deletion_policy: DeletionPolicy,
}

/// When another key is issued in place of the current one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// How long before its expiry a key is replaced: from 1h to one hour less than expiresIn, as a Go duration such as 168h.
    /// A key that is revoked, or that is one-off and used, is not replaced. Absent: keys are replaced on request only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<Lifetime>,

    /// How long a replaced key admits peers after that, at most until its own expiry: from 0s to expiresIn, as a Go duration
    /// such as 24h. It applies to keys that are replaced from then on. 0s means that a replaced key ends at once, and those
    /// that were replaced before end too.
    #[serde(default = "default_overlap")]
    pub overlap: Lifetime,
}

/// The authority behind a key.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityReference {
    /// Authority: one of the same namespace. ClusterAuthority: one for several namespaces.
    #[serde(default)]
    pub kind: AuthorityKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The kinds of authorities.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum AuthorityKind {
    /// One of the same namespace.
    #[default]
    Authority,
    /// One for several namespaces.
    ClusterAuthority,
}

/// What happens to the key at the authority when the SetupKey is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// It is deleted.
    #[default]
    Delete,
    /// It stays, and admits peers until it expires.
    Retain,
}

/// Whether a key can be used once or many times.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// Admits peers up to the usage limit.
    #[default]
    Reusable,
    /// Admits one peer.
    OneOff,
}

/// Where the key is written, and which metadata the Secret carries.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = rules::aliases_differ(), validation = rules::url_key_differs())]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    /// The name of the Secret, in the namespace of the SetupKey. It may not begin with sh.helm.release.v1. Default:
    /// metadata.name. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::dns_subdomain())]
    pub name: Option<String>,

    /// The key in the Secret's data that holds the setup key, and so the file name in a pod that mounts the Secret.
    /// Default: setup-key. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::data_key("secret.key"))]
    pub key: Option<String>,

    /// Further keys in the Secret's data that hold the setup key too, at most 8, such as NB_SETUP_KEY for a container that
    /// takes all of the Secret as its environment. May be changed at any time. A data key that the operator did not write is
    /// left as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = rules::data_keys())]
    pub aliases: Vec<String>,

    /// A key in the Secret's data that holds the URL to which NetBird's agents connect, such as NB_MANAGEMENT_URL: the
    /// netbird.agentUrl of the authority, or its netbird.url. Needs an authorityRef. May be changed at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::data_key("secret.managementUrlKey"))]
    pub management_url_key: Option<String>,

    /// Labels for the Secret, at most 32, and at most 4096 characters in all. Labels of the SetupKey are not copied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = { "type": "string", "maxLength": 63 }))]
    #[x_kube(
        validation = rules::no_reserved_keys("labels"),
        validation = rules::qualified_keys("labels"),
        validation = rules::label_values(),
        validation = rules::little_metadata("labels"),
    )]
    pub labels: BTreeMap<String, String>,

    /// Annotations for the Secret, at most 32, and at most 4096 characters in all. Annotations of the SetupKey are not
    /// copied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(
        validation = rules::no_reserved_keys("annotations"),
        validation = rules::qualified_keys("annotations"),
        validation = rules::little_metadata("annotations"),
    )]
    pub annotations: BTreeMap<String, String>,
}

/// 30 days. NetBird: setupkey.go, DefaultSetupKeyDuration.
fn default_expires_in() -> Lifetime {
    Lifetime::hours(720)
}

/// Long enough for files of a mounted Secret to follow, and for a night.
fn default_overlap() -> Lifetime {
    Lifetime::hours(24)
}

impl DeletionPolicy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_delete(&self) -> bool {
        *self == Self::Delete
    }
}

impl SetupKeySpec {
    /// How many peers may ever join, or `None` when there is no limit.
    ///
    /// A one-off key has the limit 1. NetBird: setupkey.go forces the same.
    pub fn effective_usage_limit(&self) -> Option<i32> {
        match self.key_type {
            KeyType::OneOff => Some(1),
            KeyType::Reusable => (self.usage_limit > 0).then_some(self.usage_limit),
        }
    }

    /// How long a key admits peers after it was replaced.
    pub fn overlap(&self) -> Lifetime {
        self.rotation.as_ref().map_or_else(default_overlap, |rotation| rotation.overlap)
    }

    /// Whether a key admits peers after it was replaced.
    pub fn overlaps(&self) -> bool {
        self.overlap() > Lifetime::seconds(0)
    }
}

impl SetupKey {
    /// The name of this key's Secret.
    pub fn secret_name(&self) -> &str {
        let named = self.spec.secret.as_ref().and_then(|secret| secret.name.as_deref());
        named.or(self.metadata.name.as_deref()).unwrap_or_default()
    }

    /// How many peers were admitted; none as long as there is no status.
    pub fn used_times(&self) -> i64 {
        self.status.as_ref().map_or(0, |status| status.used_times)
    }

    /// The peers that were admitted and have no Peer object yet.
    pub fn pending(&self) -> &[PendingPeer] {
        self.status.as_ref().map_or(&[], |status| &status.pending)
    }

    /// The keys that were replaced and may still admit peers.
    pub fn previous(&self) -> &[PreviousKey] {
        self.status.as_ref().map_or(&[], |status| &status.previous)
    }

    /// The key in the Secret's data that holds the value.
    pub fn secret_key(&self) -> &str {
        self.spec.secret.as_ref().and_then(|secret| secret.key.as_deref()).unwrap_or("setup-key")
    }
}
