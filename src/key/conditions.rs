//! The conditions of a key: their types and reasons, and how they are read and set.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::{SetupKey, SetupKeyStatus, Timestamp};

/// The cluster matches the spec.
pub const READY: &str = "Ready";
/// The key admits peers.
pub const VALID: &str = "Valid";
/// A person must act.
pub const STALLED: &str = "Stalled";

/// Reason of `Ready`: there is nothing left to do.
pub const RECONCILED: &str = "Reconciled";
/// Reason of `Ready` and `Stalled`: the Secret has another owner.
pub const SECRET_CONFLICT: &str = "SecretConflict";
/// Reason of `Ready` and `Stalled`: the API server does not let the operator read or write the Secret.
pub const SECRET_REFUSED: &str = "SecretRefused";
/// Reason of `Ready` and `Stalled`: reading or writing the Secret keeps failing.
pub const SECRET_FAILED: &str = "SecretFailed";
/// Reason of `Ready` and `Stalled`: the API server stores another value than the key that it is sent.
pub const SECRET_ALTERED: &str = "SecretAltered";
/// Reason of `Ready` and `Stalled`: the API server does not store the labels or annotations that the spec asks for.
pub const METADATA_NOT_KEPT: &str = "MetadataNotKept";
/// Reason of `Ready` and `Stalled`: the status was lost, and its uses cannot be counted.
pub const USES_UNKNOWN: &str = "UsesUnknown";
/// Reason of `Valid`: no Secret of ours holds a key.
pub const NOT_ISSUED: &str = "NotIssued";

/// The reasons for which a key is stalled.
pub const STALLED_REASONS: [&str; 6] =
    [SECRET_CONFLICT, SECRET_REFUSED, SECRET_FAILED, SECRET_ALTERED, METADATA_NOT_KEPT, USES_UNKNOWN];

/// What a condition says.
#[derive(Clone)]
pub(super) struct Finding {
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Finding {
    pub(super) fn ready(message: String) -> Self {
        Self { holds: true, reason: RECONCILED, message }
    }

    pub(super) fn not_ready(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// The condition of this type.
pub fn condition<'a>(status: &'a SetupKeyStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// The reason of a condition.
pub fn reason_of<'a>(status: &'a SetupKeyStatus, type_: &str) -> Option<&'a str> {
    condition(status, type_).map(|condition| condition.reason.as_str())
}

/// Whether the condition of this type is there and true.
pub fn is_true(status: &SetupKeyStatus, type_: &str) -> bool {
    condition(status, type_).is_some_and(|condition| condition.status == "True")
}

/// Whether the last report says that the cluster matches the spec.
pub fn is_ready(key: &SetupKey) -> bool {
    key.status.as_ref().is_some_and(|status| is_true(status, READY))
}

/// Sets a condition, or removes it for `None`. Its transition time moves only when its status does.
pub(super) fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    finding: Option<Finding>,
    generation: Option<i64>,
    now: DateTime<Utc>,
) {
    let place = conditions.iter().position(|condition| condition.type_ == type_);
    let Some(finding) = finding else {
        conditions.retain(|condition| condition.type_ != type_);
        return;
    };
    let status = if finding.holds { "True" } else { "False" };
    let unmoved = place.map(|place| &conditions[place]).filter(|condition| condition.status == status);
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: finding.reason.to_owned(),
        message: finding.message,
        observed_generation: generation,
        last_transition_time: unmoved
            .map_or_else(|| Timestamp::from(now).into(), |condition| condition.last_transition_time.clone()),
    };
    match place {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
}
