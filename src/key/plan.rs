//! What is to be done next about a key: one write to the API server, or waiting.
//!
//! The planner is asked again after each write, with what that write returned, until it says to wait. It remembers
//! nothing, so a process that dies between two writes loses nothing: whoever looks next sees how far it came.

use chrono::{DateTime, Duration, Utc};

use super::{
    KeyId,
    report::report,
    secret::{Metadata, MetadataPatch, Origin, OwnedSecret, SecretView, wanted_metadata},
};
use crate::api::{SetupKey, SetupKeyStatus, Timestamp};

/// The longest sleep. Timers run on a clock that does not follow steps of the wall clock, so each key looks at the
/// wall clock at least this often.
pub(crate) const LONGEST_SLEEP: Duration = Duration::hours(1);

/// A key is expired once its last moment has passed, so that is when to wake.
pub(super) const JUST_AFTER: Duration = Duration::milliseconds(1);

/// All that a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The resource, with the status as last written.
    pub key: &'a SetupKey,
    /// The Secret of the key's name.
    pub secret: &'a SecretView,
    /// Why the API server would not let the Secret be read or written, if it was just tried.
    pub refusal: Option<&'a str>,
    /// How many peers there are of the id that the Secret carries, if they were just counted.
    pub counted: Option<i64>,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Create the Secret with a new value.
    CreateSecret(Issue),
    /// Put a new value into our Secret, because what it holds is not the key on record.
    ReplaceKey {
        /// What to put there.
        issue: Issue,
        /// The version that was read; if the Secret has changed since, it must be looked at again.
        resource_version: String,
    },
    /// Put the labels and annotations of our Secret right, leaving its data alone.
    RestoreMetadata {
        /// The changes.
        patch: MetadataPatch,
        /// The version that was read.
        resource_version: String,
    },
    /// Count the peers of this id, whose ledger is lost. If they cannot be counted, nothing else may be done: a ledger that
    /// begins at zero would admit as many once more.
    CountPeers(KeyId),
    /// Write the status.
    WriteStatus(Box<SetupKeyStatus>),
    /// Nothing now.
    Wait(Until),
}

/// A key to be issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issue {
    /// The id to keep, or `None` for a new one.
    pub id: Option<KeyId>,
    /// When the key expires.
    pub expires: Timestamp,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Until {
    /// Until something changes.
    Change,
    /// Until this moment, or something changes.
    Moment(DateTime<Utc>),
    /// Until it is worth another try, or something changes.
    Retry,
}

/// Decides the next step.
pub fn plan(observed: Observed<'_>, now: DateTime<Utc>) -> Step {
    if observed.key.metadata.deletion_timestamp.is_some() {
        // Garbage collection takes the Secret; a write now could only get in its way.
        return Step::Wait(Until::Change);
    }
    if let Some(id) = lost_ledger(observed.key, observed.secret).filter(|_| observed.counted.is_none()) {
        return Step::CountPeers(id);
    }
    if observed.refusal.is_none()
        && let Some(step) = mend_secret(observed.key, observed.secret, now)
    {
        return step;
    }
    let status = report(observed, now);
    if observed.key.status.as_ref() != Some(&status) {
        return Step::WriteStatus(Box::new(status));
    }
    let out_of_reach = matches!(observed.secret, SecretView::Foreign | SecretView::Orphaned | SecretView::Unknown);
    if observed.refusal.is_some() || out_of_reach {
        return Step::Wait(Until::Retry);
    }
    let expiry = status.expires.map(|expires| expires.moment() + JUST_AFTER).filter(|moment| *moment > now);
    let latest = now + LONGEST_SLEEP;
    Step::Wait(Until::Moment(expiry.map_or(latest, |moment| moment.min(latest))))
}

/// The write that the Secret needs, if it needs one.
fn mend_secret(key: &SetupKey, secret: &SecretView, now: DateTime<Utc>) -> Option<Step> {
    match secret {
        SecretView::Absent => {
            let status = key.status.as_ref();
            let id = status.and_then(|status| KeyId::parse(status.id.as_deref()?));
            let expires = status.and_then(|status| status.expires).unwrap_or_else(|| expiry_if_issued(key, now));
            Some(Step::CreateSecret(Issue { id, expires }))
        }
        SecretView::Owned(secret) => {
            let resource_version = secret.resource_version.clone();
            let issue = on_record(key, secret, now);
            match wanted_of(key, &issue) {
                Some(wanted) if holds_the_key(key, secret) => {
                    let patch = secret.drift_from(&wanted);
                    (!patch.is_empty()).then_some(Step::RestoreMetadata { patch, resource_version })
                }
                _ => Some(Step::ReplaceKey { issue, resource_version }),
            }
        }
        SecretView::Unknown | SecretView::Foreign | SecretView::Orphaned | SecretView::AsRecorded => None,
    }
}

/// The id of a key that was issued, and of which the status knows nothing.
fn lost_ledger(key: &SetupKey, secret: &SecretView) -> Option<KeyId> {
    let SecretView::Owned(secret) = secret else { return None };
    let on_record = key.status.as_ref().is_some_and(|status| status.id.is_some());
    (!on_record && secret.origin == Origin::Found).then(|| secret.id()).flatten()
}

fn wanted_of(key: &SetupKey, issue: &Issue) -> Option<Metadata> {
    issue.id.as_ref().map(|id| wanted_metadata(key, id, issue.expires))
}

/// The id and the expiry of a key whose Secret exists: those in the status, or else those in the Secret's annotations.
///
/// A Secret can be edited by people who may not edit the status, so an annotation never gives a key a longer life than
/// one issued now would have.
pub(super) fn on_record(key: &SetupKey, secret: &OwnedSecret, now: DateTime<Utc>) -> Issue {
    let status = key.status.as_ref();
    let longest = expiry_if_issued(key, now);
    Issue {
        id: status.and_then(|status| KeyId::parse(status.id.as_deref()?)).or_else(|| secret.id()),
        expires: status
            .and_then(|status| status.expires)
            .or_else(|| Some(secret.expires()?.min(longest)))
            .unwrap_or_else(|| expiry_since_creation(key, now)),
    }
}

/// Whether our Secret holds the key on record, or the one that is about to go on record. Without a record, after a crash
/// or a lost status, it does when it says that it belongs to the id we know.
///
/// After a crash between a new value and its record, the record wins and the value is replaced once more: from here it
/// looks the same as a value that somebody else put there.
pub(super) fn holds_the_key(key: &SetupKey, secret: &OwnedSecret) -> bool {
    let Some(found) = &secret.holds else { return false };
    if secret.origin == Origin::Minted {
        return true;
    }
    let status = key.status.as_ref();
    match status.and_then(|status| status.digest.as_deref()) {
        Some(recorded) => recorded == found.digest.as_str(),
        None => match status.and_then(|status| status.id.as_deref()) {
            Some(id) => secret.id().is_some_and(|found| found.as_str() == id),
            None => secret.id().is_some(),
        },
    }
}

fn expiry_if_issued(key: &SetupKey, now: DateTime<Utc>) -> Timestamp {
    Timestamp::from(now).plus_seconds(key.spec.expires_in.as_secs())
}

/// The expiry of a key of which every record is lost: counted from the earliest moment it can have been issued.
fn expiry_since_creation(key: &SetupKey, now: DateTime<Utc>) -> Timestamp {
    let created = key.metadata.creation_timestamp.as_ref().map_or_else(|| now.into(), Timestamp::from);
    created.plus_seconds(key.spec.expires_in.as_secs())
}

#[cfg(test)]
mod tests;
