//! The status of an authority.

use chrono::{DateTime, Utc};

use super::{
    link::{Connection, TOKEN_MISSING},
    object::AuthorityObject,
};
use crate::{
    api::{AuthorityStatus, Timestamp},
    key::{
        conditions::{Finding, READY, STALLED, set_condition},
        transition::{Notice, Related, Severity},
    },
};

/// The reasons that end without a change by a person: the server answers again.
const PASSING: [&str; 2] = ["Unreachable", "RateLimited"];

/// The status that is true now. `keys` is `None` where they were not counted.
pub fn status(
    object: &AuthorityObject,
    connection: &Connection,
    keys: Option<i64>,
    token_expires: Option<Timestamp>,
    now: DateTime<Utc>,
) -> AuthorityStatus {
    let mut status = object.status.clone();
    let generation = object.metadata.generation;
    status.observed_generation = generation;
    status.authority_type = Some("NetBird".to_owned());
    status.keys = keys.or(status.keys);
    let ready = match connection {
        Connection::Up => {
            status.token_expires = token_expires;
            let message = format!("The setup keys at {} can be listed and changed.", object.netbird.url);
            Finding { holds: true, reason: "Connected", message }
        }
        Connection::Down { reason, why } => {
            Finding { holds: false, reason, message: format!("{why} The operator keeps retrying.") }
        }
        Connection::New => return status,
    };
    let stalls = !ready.holds && !PASSING.contains(&ready.reason);
    let stalled = stalls.then(|| Finding { holds: true, ..ready.clone() });
    set_condition(&mut status.conditions, READY, Some(ready), generation, now);
    set_condition(&mut status.conditions, STALLED, stalled, generation, now);
    status
}

/// The notice about a change of status, if its reason has changed.
pub fn notice(before: &AuthorityStatus, after: &AuthorityStatus) -> Option<Notice> {
    let reason = |status: &AuthorityStatus| {
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY)?;
        Some((ready.reason.clone(), ready.message.clone()))
    };
    let (reason_now, message) = reason(after)?;
    if reason(before).is_some_and(|(before, _)| before == reason_now) {
        return None;
    }
    let (severity, reason) = REASONS.into_iter().find(|(_, reason)| *reason == reason_now)?;
    Some(Notice { severity, reason, action: "ListKeys", message, related: Related::Secret })
}

const REASONS: [(Severity, &str); 8] = [
    (Severity::Normal, "Connected"),
    (Severity::Warning, TOKEN_MISSING),
    (Severity::Warning, "TokenRefused"),
    (Severity::Warning, "RoleTooLow"),
    (Severity::Warning, "Unreachable"),
    (Severity::Warning, "CertificateInvalid"),
    (Severity::Warning, "HostRefused"),
    (Severity::Warning, "RateLimited"),
];
