//! The notices about a change of status: one per transition, none for a status that stays.

use chrono::{DateTime, Utc};

use super::{
    conditions::{
        DELETED_AT_AUTHORITY, READY, REVOKED_AT_AUTHORITY, ROTATION_FAILED, UNREADY_REASONS, UNUSED, VALID, condition,
        is_about_authority, reason_of,
    },
    rotation::{self, unmet_request},
};
use crate::api::{KeyStanding, KeyType, SetupKey, SetupKeyStatus, State, Timestamp};

/// Something worth an event and a line in the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// Whether a person should look.
    pub severity: Severity,
    /// The reason, as an identifier.
    pub reason: &'static str,
    /// What the operator was doing, as an identifier.
    pub action: &'static str,
    /// A sentence.
    pub message: String,
    /// The other object that it is about.
    pub related: Related,
}

/// What a notice is about besides the object that it belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Related {
    /// The Secret: that of the key, or that of the authority's token.
    Secret,
    /// The authority of the key.
    Authority,
}

impl Related {
    fn of_reason(reason: &str) -> Self {
        if is_about_authority(reason) { Self::Authority } else { Self::Secret }
    }
}

/// The type of a Kubernetes event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// As asked for.
    Normal,
    /// A person should look.
    Warning,
}

/// Why a record changes that stands in the status already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The Secret was deleted, or the key in it altered.
    SecretChanged,
    /// The Secret held the key of another `SetupKey`.
    TakenFromAnother,
    /// Another writer has changed the record.
    RecordAltered,
}

/// The notices about the change from the status that `key` carries to the one after it.
pub fn notices(key: &SetupKey, after: &SetupKeyStatus, cause: Cause, now: DateTime<Utc>) -> Vec<Notice> {
    let fresh = SetupKeyStatus::default();
    let before = key.status.as_ref().unwrap_or(&fresh);
    let notices = [
        key_notice(key, before, after, cause),
        state_notice(key, before, after),
        skipped_notice(key, before, after),
        unmet_notice(key, before, after, now),
        unready_notice(before, after, now),
        ended_notice(before, after),
    ];
    notices.into_iter().flatten().collect()
}

/// Whether the next revision begins with this change.
pub fn is_rotation(before: &SetupKeyStatus, after: &SetupKeyStatus) -> bool {
    before.id.is_some() && before.id != after.id && before.revision.unwrap_or(1) < after.revision.unwrap_or(1)
}

/// A key was issued, or replaced.
fn key_notice(key: &SetupKey, before: &SetupKeyStatus, after: &SetupKeyStatus, cause: Cause) -> Option<Notice> {
    let secret = key.secret_name();
    match (&before.digest, &after.digest) {
        _ if cause == Cause::RecordAltered => Some(Notice {
            severity: Severity::Warning,
            reason: "StatusRestored",
            action: "RestoreStatus",
            message: format!(
                "Another writer changed the id, digest or expiry in the status; the operator has restored them from Secret {secret:?}"
            ),
            related: Related::Secret,
        }),
        _ if is_rotation(before, after) => Some(rotated(key, before, after)),
        (Some(_), Some(_)) if key.spec.authority_ref.is_some() && before.id.is_some() && before.id != after.id => {
            Some(Notice {
                severity: Severity::Warning,
                reason: "Reissued",
                action: "ReplaceKey",
                message: format!(
                    "Secret {secret:?} holds a new key with the remaining uses and the same expiry; the old key is deleted at the authority"
                ),
                related: Related::Secret,
            })
        }
        (_, Some(_)) if cause == Cause::TakenFromAnother => Some(Notice {
            severity: Severity::Warning,
            reason: "KeyRegenerated",
            action: "ReplaceKey",
            message: format!(
                "Secret {secret:?} held a key that stands on record for another SetupKey; it holds a new key now, and the old one admits no peer through this SetupKey"
            ),
            related: Related::Secret,
        }),
        (None, Some(_)) => Some(Notice {
            severity: Severity::Normal,
            reason: "Issued",
            action: "IssueKey",
            message: format!("The key is in Secret {secret:?}"),
            related: Related::Secret,
        }),
        (Some(before), Some(after)) if before != after => Some(Notice {
            severity: Severity::Warning,
            reason: "KeyRegenerated",
            action: "ReplaceKey",
            message: format!(
                "Secret {secret:?} was deleted or its key was altered; it holds a new key with the same id, uses and expiry, and the old key admits no peer"
            ),
            related: Related::Secret,
        }),
        _ => None,
    }
}

/// The next revision has begun.
fn rotated(key: &SetupKey, before: &SetupKeyStatus, after: &SetupKeyStatus) -> Notice {
    let why = match rotation::reason_of(key, before, after) {
        rotation::Reason::Schedule => "by schedule",
        rotation::Reason::Request => "on request",
    };
    let replaced = after.previous.iter().find(|previous| Some(&previous.id) == before.id.as_ref());
    let replaced = match replaced {
        Some(replaced) => format!("the replaced key admits peers until {}", replaced.admits_until),
        None => "the replaced key admits no more peers".to_owned(),
    };
    let (secret, revision) = (key.secret_name(), after.revision.unwrap_or(1));
    Notice {
        severity: Severity::Normal,
        reason: "Rotated",
        action: "RotateKey",
        message: format!("Secret {secret:?} holds the key of revision {revision}, issued {why}; {replaced}"),
        related: Related::Secret,
    }
}

/// The replaced keys that have ended. One notice tells of all, because events of one reason about one version of an object
/// count as repetitions of the first.
fn ended_notice(before: &SetupKeyStatus, after: &SetupKeyStatus) -> Option<Notice> {
    let has_gone = |id: &str| !after.previous.iter().any(|previous| previous.id == id);
    let gone = before.previous.iter().filter(|previous| has_gone(&previous.id));
    let told = gone.map(|previous| {
        format!(
            "The replaced key {} with the id {} admits no more peers; {} joined with it",
            previous.key, previous.id, previous.used_times
        )
    });
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| Notice {
        severity: Severity::Normal,
        reason: "PreviousKeyEnded",
        action: "EndPreviousKey",
        message: told.join(". "),
        related: Related::Secret,
    })
}

/// A rotation was due by schedule, and the key is one that is not replaced.
fn skipped_notice(key: &SetupKey, before: &SetupKeyStatus, after: &SetupKeyStatus) -> Option<Notice> {
    let due =
        before.rotate_at.filter(|_| after.rotate_at.is_none() && before.id == after.id && after.digest.is_some())?;
    key.spec.rotation.as_ref()?.renew_before?;
    let why = if key.spec.key_type == KeyType::OneOff && after.used_times > 0 {
        "it is a one-off key and was used"
    } else if after.state == Some(State::Revoked) {
        "it is revoked"
    } else {
        return None;
    };
    Some(Notice {
        severity: Severity::Normal,
        reason: "RotationSkipped",
        action: "RotateKey",
        message: format!("The key was to be replaced at {due}, and is not, because {why}"),
        related: Related::Secret,
    })
}

/// A person has asked for a rotation that does not take place.
fn unmet_notice(key: &SetupKey, before: &SetupKeyStatus, after: &SetupKeyStatus, now: DateTime<Utc>) -> Option<Notice> {
    let unmet = unmet_request(key, after, now)?;
    let says = |status| condition(status, READY).is_some_and(|ready| ready.message.contains(&unmet));
    let message = unmet.trim_end_matches('.').to_owned();
    (says(after) && !says(before)).then_some(Notice {
        severity: Severity::Warning,
        reason: "RotationSkipped",
        action: "RotateKey",
        message,
        related: Related::Secret,
    })
}

fn state_notice(key: &SetupKey, before: &SetupKeyStatus, after: &SetupKeyStatus) -> Option<Notice> {
    if before.state == after.state {
        return None;
    }
    let expected_end = if key.spec.key_type == KeyType::OneOff { Severity::Normal } else { Severity::Warning };
    let standing = |status: &SetupKeyStatus| status.authority.as_ref().map(|there| there.standing);
    let (severity, reason, message) = match (before.state, after.state?) {
        (_, State::Valid) if is_rotation(before, after) => return None,
        (_, State::Revoked) if reason_of(after, VALID) == Some(UNUSED) => (
            Severity::Warning,
            UNUSED,
            "No peer has used the key for as long as revokeUnusedAfter allows; it admits no more peers",
        ),
        // The notice of the new key says it.
        (_, State::Revoked) if standing(after) == Some(KeyStanding::Replacing) => return None,
        (Some(State::Revoked), _) if standing(before) == Some(KeyStanding::Replacing) => return None,
        (_, State::Revoked) if standing(after) == Some(KeyStanding::RevokedAtAuthority) => {
            (Severity::Warning, REVOKED_AT_AUTHORITY, "The key was revoked at its authority and admits no more peers")
        }
        (_, State::Revoked) if standing(after) == Some(KeyStanding::DeletedAtAuthority) => {
            (Severity::Warning, DELETED_AT_AUTHORITY, "The key was deleted at its authority and admits no more peers")
        }
        (Some(State::Revoked), State::Valid | State::Overused) => {
            (Severity::Normal, "Unrevoked", "The key is no longer revoked")
        }
        (_, State::Valid) => return None,
        (_, State::Revoked) => (Severity::Normal, "Revoked", "The key is revoked and admits no more peers"),
        (_, State::Expired) => (Severity::Warning, "Expired", "The key has expired and admits no more peers"),
        (_, State::Overused) => (expected_end, "Overused", "The usage limit is reached; the key admits no more peers"),
    };
    let related = Related::of_reason(reason);
    Some(Notice { severity, reason, action: "UpdateState", message: message.to_owned(), related })
}

/// The key is not ready, for another reason than before.
fn unready_notice(before: &SetupKeyStatus, after: &SetupKeyStatus, now: DateTime<Utc>) -> Option<Notice> {
    let ready = condition(after, READY).filter(|ready| ready.status == "False")?;
    if reason_of(before, READY) == Some(&ready.reason) {
        return None;
    }
    let reason = UNREADY_REASONS.into_iter().find(|reason| ready.reason == *reason)?;
    let (severity, related) = (Severity::Warning, Related::of_reason(reason));
    if let Some(due) = after.rotate_at.filter(|due| *due <= Timestamp::from(now)) {
        let message = format!("The key was to be replaced at {due}, and is not yet: {}", ready.message);
        return Some(Notice { severity, reason: ROTATION_FAILED, action: "RotateKey", message, related });
    }
    Some(Notice { severity, reason, action: "WriteSecret", message: ready.message.clone(), related })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn replaced_keys_that_end_together_are_told_of_together() {
        let previous = |id: &str| {
            let moment = "2026-11-24T06:00:00Z";
            json!({ "id": id, "digest": "d", "key": "6121C****", "expires": moment, "admitsUntil": moment, "usedTimes": 2 })
        };
        let status = |previous: serde_json::Value| json!({ "id": "i", "revision": 4, "previous": previous });
        let key: SetupKey = serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": "office" }, "spec": {},
            "status": status(json!([previous("first"), previous("second"), previous("third")])),
        }))
        .unwrap();
        let after: SetupKeyStatus = serde_json::from_value(status(json!([previous("third")]))).unwrap();
        let told = notices(&key, &after, Cause::SecretChanged, Utc::now());
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].reason, told[0].related), ("PreviousKeyEnded", Related::Secret));
        for (id, is_told) in [("first", true), ("second", true), ("third", false)] {
            assert_eq!(told[0].message.contains(&format!("id {id} admits no more peers; 2 joined")), is_told, "{id}");
        }
    }
}
