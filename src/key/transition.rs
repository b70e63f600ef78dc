//! The notices about a change of status: one per transition, none for a status that stays.

use super::conditions::{DELETED_AT_AUTHORITY, READY, REVOKED_AT_AUTHORITY, UNREADY_REASONS, condition, reason_of};
use crate::api::{KeyStanding, KeyType, SetupKey, SetupKeyStatus, State};

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
pub fn notices(key: &SetupKey, after: &SetupKeyStatus, cause: Cause) -> Vec<Notice> {
    let fresh = SetupKeyStatus::default();
    let before = key.status.as_ref().unwrap_or(&fresh);
    [key_notice(key, before, after, cause), state_notice(key, before, after), unready_notice(before, after)]
        .into_iter()
        .flatten()
        .collect()
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
        }),
        (Some(_), Some(_)) if key.spec.authority_ref.is_some() && before.id.is_some() && before.id != after.id => {
            Some(Notice {
                severity: Severity::Warning,
                reason: "Reissued",
                action: "ReplaceKey",
                message: format!(
                    "Secret {secret:?} holds a new key with the remaining uses and the same expiry; the old key is deleted at the authority"
                ),
            })
        }
        (_, Some(_)) if cause == Cause::TakenFromAnother => Some(Notice {
            severity: Severity::Warning,
            reason: "KeyRegenerated",
            action: "ReplaceKey",
            message: format!(
                "Secret {secret:?} held a key that stands on record for another SetupKey; it holds a new key now, and the old one admits no peer through this SetupKey"
            ),
        }),
        (None, Some(_)) => Some(Notice {
            severity: Severity::Normal,
            reason: "Issued",
            action: "IssueKey",
            message: format!("The key is in Secret {secret:?}"),
        }),
        (Some(before), Some(after)) if before != after => Some(Notice {
            severity: Severity::Warning,
            reason: "KeyRegenerated",
            action: "ReplaceKey",
            message: format!(
                "Secret {secret:?} was deleted or its key was altered; it holds a new key with the same id, uses and expiry, and the old key admits no peer"
            ),
        }),
        _ => None,
    }
}

fn state_notice(key: &SetupKey, before: &SetupKeyStatus, after: &SetupKeyStatus) -> Option<Notice> {
    if before.state == after.state {
        return None;
    }
    let expected_end = if key.spec.key_type == KeyType::OneOff { Severity::Normal } else { Severity::Warning };
    let standing = |status: &SetupKeyStatus| status.authority.as_ref().map(|there| there.standing);
    let (severity, reason, message) = match (before.state, after.state?) {
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
    Some(Notice { severity, reason, action: "UpdateState", message: message.to_owned() })
}

/// The key is not ready, for another reason than before.
fn unready_notice(before: &SetupKeyStatus, after: &SetupKeyStatus) -> Option<Notice> {
    let ready = condition(after, READY).filter(|ready| ready.status == "False")?;
    if reason_of(before, READY) == Some(&ready.reason) {
        return None;
    }
    let reason = UNREADY_REASONS.into_iter().find(|reason| ready.reason == *reason)?;
    Some(Notice { severity: Severity::Warning, reason, action: "WriteSecret", message: ready.message.clone() })
}
