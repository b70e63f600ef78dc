//! What the conditions of a key say. A message about trouble ends with what to do.

mod authority;

use std::fmt::Debug;

use chrono::{DateTime, Utc};

use super::{
    conditions::{
        DATA_KEY_CONFLICT, Finding, METADATA_NOT_KEPT, NOT_ISSUED, ROTATION_FAILED, SECRET_ALTERED, SECRET_CONFLICT,
        SECRET_FAILED, SECRET_REFUSED, UNUSED, USES_UNKNOWN,
    },
    data_keys::WantedData,
    facts::asks_for_revocation,
    record::{Observed, Persistence, Subject, Trouble, data_drift, drift, holds_the_key, is_reported_altered},
    rotation,
    secret::{OwnedSecret, SecretView},
};
use crate::api::{SetupKey, SetupKeyStatus, State};

/// Whether the cluster matches the spec, from everything that this pass has seen. `None` where nothing new was seen.
pub(super) fn ready(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Finding> {
    let (key, name) = (observed.key, observed.key.secret_name());
    if let Some(trouble) = observed.trouble {
        return Some(in_trouble(trouble, key));
    }
    if let Some(finding) = authority::ready(observed, now) {
        return Some(finding);
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
        SecretView::Owned(secret) if holds_the_key(observed, secret) => kept(observed, secret, now),
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

/// Names in quotation marks, with commas between them.
fn quoted<T: Debug>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn unused(key: &SetupKey) -> Finding {
    let allowed = key.spec.revoke_unused_after.map(|after| after.to_string()).unwrap_or_default();
    Finding {
        holds: false,
        reason: UNUSED,
        message: format!(
            "No peer has used the key for {allowed}, so it is revoked. Raise or remove revokeUnusedAfter to let it admit peers again."
        ),
    }
}

fn in_trouble(trouble: &Trouble, key: &SetupKey) -> Finding {
    let name = key.secret_name();
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
        (Subject::Authority, persistence) => authority::in_trouble(key, why, persistence),
        (Subject::Peers, _) => Finding::not_ready(
            USES_UNKNOWN,
            format!(
                "The status was lost, and the Peers that joined with this key cannot be counted: {why}. The key admits no peers until they are. The operator keeps retrying."
            ),
        ),
    }
}

/// The Secret holds the key. The rest of it may still differ: what this pass has written was not stored, or cannot be written.
fn kept(observed: Observed<'_>, secret: &OwnedSecret, now: DateTime<Utc>) -> Finding {
    let (key, name) = (observed.key, observed.key.secret_name());
    let mut holds = format!("Secret {name:?} holds the key under {:?}.", key.secret_key());
    if secret.immutable && rotation::due(key, now).is_some() {
        return Finding::not_ready(
            ROTATION_FAILED,
            format!(
                "The next key is due, and Secret {name:?} is immutable, so it cannot take another key. Delete the Secret; the operator then creates it with a new key."
            ),
        );
    }
    if let Some(unmet) = key.status.as_ref().and_then(|status| rotation::unmet_request(key, status, now)) {
        holds = format!("{holds} {unmet}");
    }
    let conflicts = secret.data_conflicts(key, WantedData::of(key, observed.authority));
    if !conflicts.is_empty() {
        return Finding::not_ready(
            DATA_KEY_CONFLICT,
            format!(
                "{holds} It has data keys that the operator did not write and that hold something else, so they are left alone: {}. Delete them from the Secret, or take them out of secret.aliases and secret.managementUrlKey.",
                quoted(conflicts)
            ),
        );
    }
    let data = data_drift(observed, secret);
    if secret.immutable && !data.is_empty() {
        return Finding::not_ready(
            SECRET_REFUSED,
            format!(
                "{holds} It is immutable, so these data keys of it cannot be put right: {}. Delete the Secret; the operator then creates it with a new key.",
                quoted(data.keys())
            ),
        );
    }
    let Some(drift) = drift(observed, secret, now) else { return Finding::ready(holds) };
    let names = drift.names().join(", ");
    if drift.is_cosmetic() {
        return Finding::ready(format!("{holds} The API server does not store the operator's value of its {names}."));
    }
    Finding::not_ready(
        METADATA_NOT_KEPT,
        format!(
            "{holds} The API server does not store these as they are sent, so an admission policy or webhook changes them: {names}. Change the policy, or what the spec asks for under secret."
        ),
    )
}

/// Whether the key admits peers, from the status that is about to be written.
pub(super) fn valid(key: &SetupKey, status: &SetupKeyStatus, now: DateTime<Utc>) -> Finding {
    if status.state == Some(State::Revoked)
        && let Some((reason, message)) = status.authority.as_ref().and_then(authority::revoked)
    {
        return Finding { holds: false, reason, message: message.to_owned() };
    }
    if status.state == Some(State::Revoked) && !key.spec.revoked && asks_for_revocation(&key.spec, status, now) {
        return unused(key);
    }
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
