use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Timestamp, rules};

/// What the operator has found and done. It is a report: to change something, change the spec.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupKeyStatus {
    /// The generation of the spec that this status is about. While it is lower than metadata.generation, the operator
    /// has not applied the latest change; -1 means that it has not seen this object yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Which key of this SetupKey is the current one: 1 for the first, one more after each rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub revision: Option<i64>,

    /// The public id of the key: 20 characters of 0-9 and a-v. It admits no peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// The key, masked: its first 5 characters and ****. The whole key is in the Secret only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,

    /// The base64 of the SHA-256 of the key, by which it is recognised. Absent while no Secret of this SetupKey holds a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// Whether the key admits peers, and why not: expired before revoked before overused. Absent until a key is issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,

    /// Whether the key admits peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<bool>,

    /// When this revision was issued. A rotation that was requested for this moment or an earlier one is not carried out
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Timestamp>,

    /// When the next key is issued in place of this one. Absent when none is due: no rotation is asked for, or it is skipped
    /// because the key is revoked, or one-off and used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_at: Option<Timestamp>,

    /// From when the time is counted that revokeUnusedAfter speaks of, where that is not issuedAt: a rotation by schedule
    /// does not begin it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Timestamp>,

    /// The last second in which the key admits peers, fixed when the key is issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,

    /// How many peers have joined with this key. It never goes down for one id.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub used_times: i64,

    /// How many peers may join in all; absent when there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_limit: Option<i32>,

    /// When a peer last joined with this key, in any revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,

    /// When a change of the spec was last applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,

    /// The Secret that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretReference>,

    /// The keys that were replaced and may still admit peers, the oldest first. At a ninth, the oldest ends early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub previous: Vec<PreviousKey>,

    /// What the operator remembers of the key at its authority. Absent for a key of the cluster itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AtAuthority>,

    /// Peers that were admitted, are counted in usedTimes, and have no Peer object yet. Normally empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub pending: Vec<PendingPeer>,

    /// Ready: the cluster matches the spec. Valid: the key admits peers. Stalled: a person must act; present only
    /// while that is so. A revoked or expired key is Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 19))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["type".into()]),
        validation = rules::room_for_our_conditions(),
    )]
    pub conditions: Vec<Condition>,
}

/// A key that was replaced.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviousKey {
    /// Its public id.
    #[schemars(length(max = 20))]
    pub id: String,
    /// The base64 of the SHA-256 of it, by which it is recognised.
    #[schemars(length(max = 44))]
    pub digest: String,
    /// Its first 5 characters and ****.
    #[schemars(length(max = 9))]
    pub key: String,
    /// The last second in which it would admit peers had it not been replaced.
    pub expires: Timestamp,
    /// The last second in which it admits peers.
    pub admits_until: Timestamp,
    /// How many peers have joined with it.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub used_times: i64,
    /// How many peers may join with it; absent when there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_limit: Option<i32>,
}

/// The Secret as the operator last left it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The name of the Secret, in the namespace of the SetupKey.
    pub name: String,
    /// The key in its data.
    pub key: String,
    /// The version of the Secret whose data was last compared with the digest.
    pub resource_version: String,
    /// The further keys in its data that the operator keeps equal to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub aliases: Vec<String>,
    /// The key in its data that holds the URL of the authority's agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_url_key: Option<String>,
    /// That URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_url: Option<String>,
}

/// A key at its authority.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AtAuthority {
    /// How the key stands there.
    pub standing: KeyStanding,
    /// How many peers had joined with the keys that this one was issued instead of. They count in usedTimes.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub used_before: i64,
}

/// How a key stands at its authority.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum KeyStanding {
    /// It is there, and not revoked.
    Active,
    /// It was revoked there because the spec says so.
    Revoked,
    /// It was revoked there, and the spec does not say so.
    RevokedAtAuthority,
    /// It is not there any more.
    DeletedAtAuthority,
    /// The operator is about to revoke it and to issue another one instead of it, because its value is lost.
    Replacing,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A peer that was admitted and is about to become a Peer object.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingPeer {
    /// The public id of the key that the peer was admitted with.
    #[serde(default)]
    #[schemars(length(max = 20))]
    pub key_id: String,
    /// Which use of that key this is: what usedTimes was raised to. No other entry with this keyId ever has the same
    /// number, so an entry is never mistaken for a later one of the same machine.
    #[schemars(range(min = 1))]
    pub number: i64,
    /// The name that the Peer will have.
    #[schemars(length(max = 63))]
    pub name: String,
    /// As in the Peer.
    #[schemars(length(max = 44))]
    pub public_key: String,
    /// As in the Peer.
    #[schemars(length(max = 253))]
    pub hostname: String,
    /// As in the Peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub extra_dns_labels: Vec<String>,
    /// As in the Peer.
    #[schemars(length(max = 44))]
    pub token_digest: String,
    /// When it was admitted.
    pub since: Timestamp,
}

/// Whether a key admits peers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The key admits peers.
    Valid,
    /// The usage limit is reached.
    Overused,
    /// The moment in `expires` has passed.
    Expired,
    /// The spec says `revoked`.
    Revoked,
}

impl State {
    /// The state as it stands in the status.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Valid => "valid",
            State::Overused => "overused",
            State::Expired => "expired",
            State::Revoked => "revoked",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
