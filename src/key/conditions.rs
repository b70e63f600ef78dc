//! The conditions of a key: their types, reasons and messages.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    plan::drift,
    record::{Observed, Persistence, Subject, Trouble, holds_the_key, is_reported_altered},
    secret::{OwnedSecret, SecretView},
};
use crate::api::{SetupKey, SetupKeyStatus, State, Timestamp};

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
    fn ready(message: String) -> Self {
        Self { holds: true, reason: RECONCILED, message }
    }

    fn not_ready(reason: &'static str, message: String) -> Self {
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

/// Whether the last report says that the cluster matches the spec.
pub fn is_ready(key: &SetupKey) -> bool {
    let ready = key.status.as_ref().and_then(|status| condition(status, READY));
    ready.is_some_and(|condition| condition.status == "True")
}

/// Whether the cluster matches the spec, from everything that this pass has seen. `None` where nothing new was seen.
pub(super) fn ready(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Finding> {
    let (key, name) = (observed.key, observed.key.secret_name());
    if let Some(trouble) = observed.trouble {
        return Some(in_trouble(trouble, name));
    }
    Some(match observed.secret {
        SecretView::Unchanged => return None,
        SecretView::Foreign => Finding::not_ready(
            SECRET_CONFLICT,
            format!(
                "Secret {name:?} exists and this SetupKey does not own it, so it is left alone. Delete that Secret, or create a SetupKey with another secret.name."
            ),
        ),
        SecretView::Orphaned => Finding::not_ready(
            SECRET_CONFLICT,
            format!(
                "Secret {name:?} holds a key and has lost its owner, as after a restore, so it is left alone. To keep its key, give it an owner reference to this SetupKey, uid {}; for a new key, delete it.",
                key.metadata.uid.as_deref().unwrap_or_default()
            ),
        ),
        SecretView::Owned(secret) if holds_the_key(key, secret) => kept(key, secret, now),
        SecretView::Owned(secret) if secret.was_altered() || is_reported_altered(key) => Finding::not_ready(
            SECRET_ALTERED,
            format!(
                "The API server stores another value in Secret {name:?} than the key that the operator sends, so an admission policy or webhook replaces it. Exempt the Secret from that policy. The operator keeps trying with dry runs."
            ),
        ),
        // Nothing else keeps the planner from replacing the key.
        SecretView::Owned(_) => Finding::not_ready(
            SECRET_REFUSED,
            format!(
                "Secret {name:?} is immutable and does not hold the key on record, so the operator cannot put it right. Delete the Secret; the operator then creates it with a new key."
            ),
        ),
        // Without trouble, an absent Secret is created and an unread one is read before anything is reported.
        SecretView::Absent | SecretView::Unread => return None,
    })
}

fn in_trouble(trouble: &Trouble, name: &str) -> Finding {
    let why = trouble.why.trim_end_matches('.');
    match (trouble.with, trouble.persistence) {
        (Subject::Secret, Persistence::Refused) => Finding::not_ready(
            SECRET_REFUSED,
            format!("The API server refuses access to Secret {name:?}: {why}. The operator keeps retrying."),
        ),
        (Subject::Secret, Persistence::Lasting | Persistence::Passing) => Finding::not_ready(
            SECRET_FAILED,
            format!("Reading or writing Secret {name:?} keeps failing: {why}. The operator keeps retrying."),
        ),
        (Subject::Peers, _) => Finding::not_ready(
            USES_UNKNOWN,
            format!(
                "The status was lost, and the Peers that joined with this key cannot be counted: {why}. The key admits no peers until they are. The operator keeps retrying."
            ),
        ),
    }
}

/// The Secret holds the key. Its labels and annotations may still differ: what this pass has written was not stored.
fn kept(key: &SetupKey, secret: &OwnedSecret, now: DateTime<Utc>) -> Finding {
    let name = key.secret_name();
    let holds = format!("Secret {name:?} holds the key under {:?}.", key.secret_key());
    let Some(drift) = drift(key, secret, now) else { return Finding::ready(holds) };
    let names = drift.names().join(", ");
    if drift.is_cosmetic() {
        return Finding::ready(format!("{holds} The API server does not store the operator's value of its {names}."));
    }
    Finding::not_ready(
        METADATA_NOT_KEPT,
        format!(
            "{holds} The API server does not store these as they are sent, so an admission policy or webhook changes them: {names}. Change the policy, or secret.labels and secret.annotations."
        ),
    )
}

/// Whether the key admits peers, from the status that is about to be written.
pub(super) fn valid(status: &SetupKeyStatus) -> Finding {
    let expires = status.expires.map(|expires| expires.to_string()).unwrap_or_default();
    let (reason, message) = match status.state {
        None => (NOT_ISSUED, "No Secret of this SetupKey holds a key.".to_owned()),
        Some(State::Valid) => ("Valid", format!("The key admits peers until {expires}.")),
        Some(State::Expired) => ("Expired", format!("The key expired at {expires}.")),
        Some(State::Revoked) => {
            ("Revoked", "The key is revoked; set revoked to false to let it admit peers again.".to_owned())
        }
        Some(State::Overused) => {
            let peers = match status.used_times {
                1 => "1 peer has joined".to_owned(),
                peers => format!("{peers} peers have joined"),
            };
            ("Overused", format!("The usage limit is reached: {peers}."))
        }
    };
    Finding { holds: status.state == Some(State::Valid), reason, message }
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
