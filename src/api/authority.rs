use k8s_openapi::{
    ByteString,
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector},
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lifetime, Timestamp, rules};

/// Where the keys of this namespace live that name this Authority.
#[expect(clippy::duplicated_attributes, reason = "columns of the same type are no duplicates")]
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "setupkey.dev",
    version = "v1alpha1",
    kind = "Authority",
    plural = "authorities",
    shortname = "ska",
    namespaced,
    status = "AuthorityStatus",
    derive = "PartialEq",
    doc = "An Authority is a NetBird account in which the operator keeps setup keys. SetupKeys of the same namespace name it in authorityRef.",
    printcolumn(
        name = "Type",
        type_ = "string",
        json_path = ".status.type",
        description = "The kind of authority: NetBird"
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.netbird.url", description = "Where it is"),
    printcolumn(
        name = "Keys",
        type_ = "integer",
        json_path = ".status.keys",
        description = "Keys there that belong to SetupKeys of this cluster"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether its keys can be listed and changed"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AuthoritySpec {
    /// A NetBird account, on NetBird's cloud or on a server of your own.
    pub netbird: NetBird,

    /// The groups that SetupKeys may name in autoGroups, by name or id. Absent: any group. Who may create SetupKeys decides
    /// which groups machines join, so leave out groups with more rights than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_groups: Option<Vec<String>>,
}

/// Where the keys live that name this ClusterAuthority, and which namespaces may name it.
#[expect(clippy::duplicated_attributes, reason = "columns of the same type are no duplicates")]
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "setupkey.dev",
    version = "v1alpha1",
    kind = "ClusterAuthority",
    plural = "clusterauthorities",
    shortname = "skca",
    status = "AuthorityStatus",
    derive = "PartialEq",
    doc = "A ClusterAuthority is a NetBird account in which the operator keeps setup keys of several namespaces. SetupKeys name it in authorityRef, with kind ClusterAuthority.",
    printcolumn(
        name = "Type",
        type_ = "string",
        json_path = ".status.type",
        description = "The kind of authority: NetBird"
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.netbird.url", description = "Where it is"),
    printcolumn(
        name = "Keys",
        type_ = "integer",
        json_path = ".status.keys",
        description = "Keys there that belong to SetupKeys of this cluster"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether its keys can be listed and changed"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAuthoritySpec {
    /// A NetBird account, on NetBird's cloud or on a server of your own. Its token is in the operator's namespace.
    pub netbird: NetBird,

    /// The namespaces whose SetupKeys may name this authority, by their labels; {} means all namespaces. A SetupKey of
    /// another namespace is Stalled with the reason AuthorityNotAllowed, also when the labels change later.
    pub namespace_selector: LabelSelector,

    /// The groups that SetupKeys may name in autoGroups, by name or id. Absent: any group. Who may create SetupKeys decides
    /// which groups machines join, so leave out groups with more rights than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_groups: Option<Vec<String>>,
}

/// A NetBird account and how it is reached.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetBird {
    /// The base of the management API, without a path: https://api.netbird.io for NetBird's cloud, or
    /// https://netbird.example.com. A URL with http:// works only where the operator runs with
    /// --allow-insecure-authorities, because the token is then sent in the clear.
    #[schemars(length(min = 1, max = 300))]
    #[x_kube(validation = rules::base_url("netbird.url"))]
    pub url: String,

    /// The Secret with the access token of a NetBird service user. Its role must be admin, or NetBird refuses to create keys.
    /// For an Authority it is in the same namespace, for a ClusterAuthority in the operator's. A changed token is taken up
    /// without a restart.
    pub token_secret_ref: TokenSecret,

    /// Certificates that are trusted besides the built-in ones, as the base64 of PEM. For a server whose certificate comes
    /// from a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 262_144))]
    #[x_kube(validation = rules::pem_certificates())]
    pub ca_bundle: Option<ByteString>,

    /// The id of the NetBird account to work in, where the token can use more than one. Absent: the token's own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::account_id())]
    pub account: Option<String>,

    /// The URL that NetBird's agents are told to join at. Default: url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    #[x_kube(validation = rules::base_url("netbird.agentUrl"))]
    pub agent_url: Option<String>,

    /// How often the keys are listed, 30s to 1h: so long it takes until a use of a key, or a change made at NetBird, is seen
    /// here. One call lists the keys of all SetupKeys. NetBird's cloud allows 120 calls a minute.
    #[serde(default = "default_interval")]
    #[x_kube(validation = rules::interval())]
    pub interval: Lifetime,

    /// Whether a group that a SetupKey names and NetBird does not have is created. Default: false, and the SetupKey waits
    /// with the reason GroupNotFound until the group is there.
    #[serde(default)]
    pub create_groups: bool,
}

/// A data key of a Secret that holds an access token.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecret {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in its data. Default: NB_API_KEY, as NetBird's own operator has it.
    #[serde(default = "default_token_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// What the operator has found. It changes when there is something to tell, not with each list.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// The generation of the spec that this status is about; -1 means that the operator has not seen this object yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The kind of authority.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub authority_type: Option<String>,

    /// How many keys there belong to SetupKeys of this cluster, when they were last listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keys: Option<i64>,

    /// When the access token expires. Absent if NetBird does not tell, as for a user with several tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires: Option<Timestamp>,

    /// Ready: the keys can be listed and changed. Stalled: a person must act; present only while that is so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl NetBird {
    /// The URL that NetBird's agents are told to join at.
    pub fn agent_url(&self) -> &str {
        self.agent_url.as_deref().unwrap_or(&self.url)
    }
}

fn default_interval() -> Lifetime {
    Lifetime::seconds(60)
}

fn default_token_key() -> String {
    "NB_API_KEY".to_owned()
}
