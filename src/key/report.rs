//! The status that is true of what was observed. Everything in it is computed anew on every pass, but for what was
//! fixed at issue and what the ledger counts.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    Facts,
    plan::{Observed, holds_the_key, on_record},
    secret::SecretView,
};
use crate::api::{SecretReference, SetupKey, SetupKeyStatus, State, Timestamp};

/// The cluster matches the spec.
pub const READY: &str = "Ready";
/// The key admits peers.
pub const VALID: &str = "Valid";
/// A person must act.
pub const STALLED: &str = "Stalled";

/// Reason of `Ready`: there is nothing left to do.
pub const RECONCILED: &str = "Reconciled";
/// Reason of `Ready` and `Stalled`: the Secret belongs to somebody else.
pub const SECRET_CONFLICT: &str = "SecretConflict";
/// Reason of `Ready` and `Stalled`: the API server does not let us read or write the Secret.
pub const SECRET_REFUSED: &str = "SecretRefused";
/// Reason of `Valid`: no Secret of ours holds a key.
pub const NOT_ISSUED: &str = "NotIssued";

/// The status to be written for what was observed.
pub fn report(observed: Observed<'_>, now: DateTime<Utc>) -> SetupKeyStatus {
    let Observed { key, secret, counted, .. } = observed;
    let mut status = key.status.clone().unwrap_or_default();
    let generation = key.metadata.generation;
    if status.observed_generation != generation {
        status.observed_generation = generation;
        status.updated_at = Some(now.into());
    }
    // Peers are counted only where the ledger is lost, and uses never go down.
    status.used_times = status.used_times.max(counted.filter(|_| status.id.is_none()).unwrap_or_default());
    status.usage_limit = key.spec.effective_usage_limit();
    record_secret(&mut status, key, secret, now);

    status.state = Facts::of(&SetupKey { status: Some(status.clone()), ..key.clone() }).map(|facts| facts.state(now));
    status.valid = Some(status.state == Some(State::Valid));

    let ready = ready(observed);
    let stalled = (!ready.holds).then(|| Finding { holds: true, ..ready.clone() });
    let valid = valid(&status);
    set_condition(&mut status.conditions, READY, Some(ready), generation, now);
    set_condition(&mut status.conditions, VALID, Some(valid), generation, now);
    set_condition(&mut status.conditions, STALLED, stalled, generation, now);
    status
}

/// Takes over what the Secret says, so that `digest` is there exactly while a Secret of ours holds that key.
fn record_secret(status: &mut SetupKeyStatus, key: &SetupKey, secret: &SecretView, now: DateTime<Utc>) {
    match secret {
        SecretView::Unknown | SecretView::AsRecorded => {}
        SecretView::Owned(secret) if holds_the_key(key, secret) => {
            let issue = on_record(key, secret, now);
            status.id = issue.id.map(|id| id.to_string());
            status.expires = Some(issue.expires);
            status.digest = secret.holds.as_ref().map(|found| found.digest.to_string());
            status.key = secret.holds.as_ref().map(|found| found.mask.clone());
            status.secret = Some(SecretReference {
                name: key.secret_name().to_owned(),
                key: key.secret_key().to_owned(),
                resource_version: secret.resource_version.clone(),
            });
        }
        SecretView::Absent | SecretView::Foreign | SecretView::Orphaned | SecretView::Owned(_) => {
            status.digest = None;
            status.key = None;
            status.secret = None;
        }
    }
}

/// What a condition says.
#[derive(Clone)]
struct Finding {
    holds: bool,
    reason: &'static str,
    message: String,
}

fn ready(observed: Observed<'_>) -> Finding {
    let name = observed.key.secret_name();
    if let Some(refusal) = observed.refusal {
        let message =
            format!("The API server refuses access to Secret {name:?}: {refusal}. It is tried again until it works.");
        return Finding { holds: false, reason: SECRET_REFUSED, message };
    }
    match observed.secret {
        SecretView::Foreign => Finding {
            holds: false,
            reason: SECRET_CONFLICT,
            message: format!(
                "Secret {name:?} exists and is not owned by this SetupKey, so it is left alone. Delete that Secret, or create a SetupKey with another secret.name."
            ),
        },
        SecretView::Orphaned => Finding {
            holds: false,
            reason: SECRET_CONFLICT,
            message: format!(
                "Secret {name:?} holds a key and has lost its owner, as after a restore, so it is left alone. To keep its key, give it an owner reference to this SetupKey, uid {}; for a new key, delete it.",
                observed.key.metadata.uid.as_deref().unwrap_or_default()
            ),
        },
        _ => Finding {
            holds: true,
            reason: RECONCILED,
            message: format!("Secret {name:?} holds the key under {:?}.", observed.key.secret_key()),
        },
    }
}

fn valid(status: &SetupKeyStatus) -> Finding {
    let expires = status.expires.map(|expires| expires.to_string()).unwrap_or_default();
    let (reason, message) = match status.state {
        None => (NOT_ISSUED, "No Secret of this SetupKey holds a key.".to_owned()),
        Some(State::Valid) => ("Valid", format!("The key admits peers until {expires}.")),
        Some(State::Expired) => ("Expired", format!("The key expired at {expires}.")),
        Some(State::Revoked) => {
            ("Revoked", "The key is revoked; set revoked to false to let it admit peers again.".to_owned())
        }
        Some(State::Overused) => {
            let limit = status.usage_limit.unwrap_or_default();
            ("Overused", format!("As many peers as allowed have joined: {limit}."))
        }
    };
    Finding { holds: status.state == Some(State::Valid), reason, message }
}

/// Sets or removes a condition. Its transition time moves only when its status does.
fn set_condition(
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
