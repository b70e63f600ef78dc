//! The conditions of a key: their types and reasons, and how they are read and set.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{SetupKey, SetupKeyStatus, Timestamp},
    plain::plain,
};

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
/// Reason of `Ready` and `Stalled`: the API server does not store the labels, annotations or data keys that the spec asks for.
pub const METADATA_NOT_KEPT: &str = "MetadataNotKept";
/// Reason of `Ready` and `Stalled`: the Secret has a data key that the spec asks for, and others have put something else there.
pub const DATA_KEY_CONFLICT: &str = "DataKeyConflict";
/// Reason of `Ready` and `Stalled`: the status was lost, and its uses cannot be counted.
pub const USES_UNKNOWN: &str = "UsesUnknown";
/// Reason of `Ready` and `Stalled`: there is no authority of this kind and name.
pub const AUTHORITY_NOT_FOUND: &str = "AuthorityNotFound";
/// Reason of `Ready` and `Stalled`: the authority does not let this namespace use it.
pub const AUTHORITY_NOT_ALLOWED: &str = "AuthorityNotAllowed";
/// Reason of `Ready`: the authority cannot be used now. Its own status says why.
pub const AUTHORITY_NOT_READY: &str = "AuthorityNotReady";
/// Reason of `Ready` and `Stalled`: the authority refuses the key as it is asked for.
pub const AUTHORITY_REFUSED: &str = "AuthorityRefused";
/// Reason of `Ready` and `Stalled`: calls about this key keep failing, and the authority is reached otherwise.
pub const AUTHORITY_FAILED: &str = "AuthorityFailed";
/// Reason of `Ready`: the authority has no group of a name that the spec names.
pub const GROUP_NOT_FOUND: &str = "GroupNotFound";
/// Reason of `Ready` and `Stalled`: the authority has several groups of a name that the spec names.
pub const GROUP_AMBIGUOUS: &str = "GroupAmbiguous";
/// Reason of `Ready` and `Stalled`: the authority does not allow a group that the spec names.
pub const GROUP_NOT_ALLOWED: &str = "GroupNotAllowed";
/// Reason of `Ready` and `Stalled`: the next key is due, and the Secret can never take it.
pub const ROTATION_FAILED: &str = "RotationFailed";
/// Reason of `Ready`: the `SetupKey` is being deleted, and its key is still at the authority.
pub const DELETION_PENDING: &str = "DeletionPending";

/// Reason of `Valid`: no Secret of ours holds a key.
pub const NOT_ISSUED: &str = "NotIssued";
/// Reason of `Valid`: the key was revoked at its authority, and the spec does not ask for that.
pub const REVOKED_AT_AUTHORITY: &str = "RevokedAtAuthority";
/// Reason of `Valid`: no peer has used the key for longer than the spec allows.
pub const UNUSED: &str = "Unused";
/// Reason of `Valid`: the key was deleted at its authority.
pub const DELETED_AT_AUTHORITY: &str = "DeletedAtAuthority";
/// Reason of `Valid`: the value is lost, and another key is about to be issued.
pub const REPLACING: &str = "Replacing";

/// The reasons of `Ready` when it is false. A change to one of them causes an event.
pub const UNREADY_REASONS: [&str; 17] = [
    SECRET_CONFLICT,
    SECRET_REFUSED,
    SECRET_FAILED,
    SECRET_ALTERED,
    METADATA_NOT_KEPT,
    DATA_KEY_CONFLICT,
    USES_UNKNOWN,
    AUTHORITY_NOT_FOUND,
    AUTHORITY_NOT_ALLOWED,
    AUTHORITY_NOT_READY,
    AUTHORITY_REFUSED,
    AUTHORITY_FAILED,
    GROUP_NOT_FOUND,
    GROUP_AMBIGUOUS,
    GROUP_NOT_ALLOWED,
    ROTATION_FAILED,
    DELETION_PENDING,
];
/// The reasons of `Ready` and `Valid` that are about the authority. The others are about the Secret.
const REASONS_OF_AUTHORITIES: [&str; 11] = [
    AUTHORITY_NOT_FOUND,
    AUTHORITY_NOT_ALLOWED,
    AUTHORITY_NOT_READY,
    AUTHORITY_REFUSED,
    AUTHORITY_FAILED,
    GROUP_NOT_FOUND,
    GROUP_AMBIGUOUS,
    GROUP_NOT_ALLOWED,
    DELETION_PENDING,
    REVOKED_AT_AUTHORITY,
    DELETED_AT_AUTHORITY,
];
/// Those of [`UNREADY_REASONS`] that no person has to act on: they end when the authority answers, or has the group.
const WAITING_REASONS: [&str; 3] = [AUTHORITY_NOT_READY, GROUP_NOT_FOUND, DELETION_PENDING];

impl Finding {
    pub(super) fn ready(message: String) -> Self {
        Self { holds: true, reason: RECONCILED, message }
    }

    pub(super) fn not_ready(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }

    /// Whether a person must act.
    pub(super) fn stalls(&self) -> bool {
        !self.holds && !WAITING_REASONS.contains(&self.reason)
    }
}

/// Whether a reason is about the authority.
pub fn is_about_authority(reason: &str) -> bool {
    REASONS_OF_AUTHORITIES.contains(&reason)
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

/// Why a person must act, in the words of the condition `Ready`; `None` if there is nothing for a person to do.
pub fn stalled(key: &SetupKey) -> Option<&str> {
    let status = key.status.as_ref().filter(|status| is_true(status, STALLED))?;
    condition(status, READY).map(|ready| ready.message.as_str())
}

/// What a condition says.
#[derive(Clone)]
pub struct Finding {
    /// Whether the condition is true.
    pub holds: bool,
    /// Why, as an identifier.
    pub reason: &'static str,
    /// Why, as sentences. They may quote others; the condition has them as plain text.
    pub message: String,
}

/// Sets a condition, or removes it for `None`. Its transition time moves only when its status does.
pub fn set_condition(
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
        message: plain(&finding.message).into_owned(),
        observed_generation: generation,
        last_transition_time: unmoved
            .map_or_else(|| Timestamp::from(now).into(), |condition| condition.last_transition_time.clone()),
    };
    match place {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
}
