//! What is to be done next about a key: one request to the API server, or waiting.
//!
//! The planner is asked again after each step, with what that step returned, until it says to wait. It remembers nothing,
//! so a process that dies between two writes loses nothing: the next pass sees how far the last one came.
//!
//! Here are the checks of a key of the cluster itself. Those of a key at NetBird are in [`authority`].

pub mod authority;

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};

use super::{
    KeyId, conditions,
    facts::JUST_AFTER,
    ledger::{self, Swap},
    record::{Freshness, Issue, Rehearsal, drift, holds_the_key, is_reported_altered, lost_ledger},
    remote::{GroupId, NewKey},
    report::{partial_report, report},
    rotation,
    secret::{OwnedSecret, Restoration, SecretView, Written},
};
use crate::api::{SetupKey, SetupKeyStatus};
use authority::Release;

pub use super::record::Observed;

/// The longest sleep. Timers do not follow steps of the wall clock, so each key is compared with it at least this often.
pub(crate) const LONGEST_SLEEP: Duration = Duration::hours(1);

/// How long to leave a Secret alone when the API server stores something else than it is sent.
const METADATA_PAUSE: Duration = Duration::minutes(5);

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Read the `SetupKey` from the API server, because the next step must not rest on a cache.
    Confirm,
    /// Count the peers of this id, whose ledger is lost. Until they are counted nothing else is done: a ledger that begins
    /// at zero would admit as many peers again.
    CountPeers(KeyId),
    /// Create the Secret with a new value.
    CreateSecret(Issue),
    /// Try [`Step::ReplaceKey`] with a dry run, because the last value that was sent was not the one that was stored.
    RehearseReplacement(Issue),
    /// Put a new value into our Secret, because it does not hold the key on record.
    ReplaceKey(Issue),
    /// Change labels, annotations and data keys of our Secret. The key in it stays, and its aliases are copied from it.
    Restore(Restoration),
    /// Write the status.
    WriteStatus(Box<SetupKeyStatus>),
    /// Create the Peers of the abandoned entries.
    CreatePeers,
    /// Take the abandoned entries out of the ledger.
    ClearEntries(Box<Swap>),
    /// Put our finalizer on the `SetupKey`, before a key is created at its authority.
    AddFinalizer,
    /// Take our finalizer off.
    RemoveFinalizer(Release),
    /// List the groups of the authority.
    ListGroups,
    /// Create this group at the authority.
    CreateGroup(String),
    /// Read this key at the authority, because the next step must not rest on the last list.
    ConfirmThere(KeyId),
    /// Revoke this key at the authority, or change its groups.
    UpdateThere {
        /// Which one.
        id: KeyId,
        /// Whether it is revoked then.
        revoked: bool,
        /// Its groups then.
        groups: BTreeSet<GroupId>,
    },
    /// Delete this key at the authority.
    DeleteThere(KeyId),
    /// Try by a dry run whether a new value can be written to the Secret, because nothing must be issued that cannot be kept.
    RehearseSecret,
    /// Create a key at the authority and put its value into the Secret. If the Secret is refused, the key is deleted at once.
    IssueThere(NewKey),
    /// Nothing now.
    Wait(Until),
}

/// How long to wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Until {
    /// Until something changes.
    Change,
    /// Until this moment, or something changes.
    Moment(DateTime<Utc>),
    /// Until the back-off allows another try, or something changes.
    Retry,
    /// The same, but not before this much time has passed.
    RetryAfter(Duration),
}

/// A check finds something to do, or nothing.
type Check = fn(Observed<'_>, DateTime<Utc>) -> Option<Step>;

/// The checks, in their order: the first that finds something decides.
const CHECKS: [Check; 6] = [being_deleted, lost_uses, secret_value, rest_of_secret, status, abandoned_entries];

/// Decides the next step.
pub fn plan(observed: Observed<'_>, now: DateTime<Utc>) -> Step {
    if observed.key.spec.authority_ref.is_some() {
        return authority::plan(observed, now);
    }
    CHECKS.iter().find_map(|check| check(observed, now)).unwrap_or_else(|| Step::Wait(wait(observed, now)))
}

/// Garbage collection removes the Secret of a key that is being deleted, and a write could only get in its way. Machines
/// that were admitted still become Peers.
fn being_deleted(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    observed.key.metadata.deletion_timestamp.as_ref()?;
    Some(abandoned_entries(observed, now).unwrap_or(Step::Wait(Until::Change)))
}

fn lost_uses(observed: Observed<'_>, _: DateTime<Utc>) -> Option<Step> {
    if observed.counted.is_some() || observed.trouble.is_some() {
        return None;
    }
    lost_ledger(observed.key, observed.secret).map(Step::CountPeers)
}

/// The Secret must exist and hold the key on record.
fn secret_value(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    if observed.trouble.is_some() {
        return None;
    }
    match observed.secret {
        SecretView::Absent => Some(Step::CreateSecret(Issue::without_secret(observed.key, now))),
        SecretView::Owned(secret) => {
            let issue = to_be_written(observed, secret, now)?;
            match observed.rehearsal {
                None if is_reported_altered(observed.key) => Some(Step::RehearseReplacement(issue)),
                Some(Rehearsal::Altered) => None,
                // The old value stops working with this, so a cache is not enough to decide it.
                None | Some(Rehearsal::Kept) if observed.freshness == Freshness::Cached => Some(Step::Confirm),
                None | Some(Rehearsal::Kept) => Some(Step::ReplaceKey(issue)),
            }
        }
        SecretView::Unread | SecretView::Foreign | SecretView::Orphaned | SecretView::Unchanged => None,
    }
}

/// The key to be put into the Secret: the next revision if that is due, or another value if the Secret does not hold the key
/// on record. After a crash between a rotation and its record, a rotation is due still, and the record wins.
fn to_be_written(observed: Observed<'_>, secret: &OwnedSecret, now: DateTime<Utc>) -> Option<Issue> {
    if secret.immutable || secret.was_altered() {
        return None;
    }
    // What this pass has written comes on record first.
    let is_written = matches!(secret.written, Written::Key(_));
    if !is_written && rotation::due(observed.key, now).is_some() {
        return Some(Issue::rotation(observed.key, now));
    }
    (!holds_the_key(observed, secret)).then(|| Issue::of(observed, secret, now))
}

/// The Secret must carry the wanted labels, annotations and further data keys. What a write of this pass did not change is not
/// tried again.
fn rest_of_secret(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    let SecretView::Owned(secret) = observed.secret else { return None };
    if observed.trouble.is_some() || secret.written != Written::Nothing || !holds_the_key(observed, secret) {
        return None;
    }
    let changes = drift(observed, secret, now)?;
    // A change of state is not kept waiting behind labels.
    let urgent = partial_report(observed, now);
    match &observed.key.status {
        Some(status) if status.state.is_some() && status.state != urgent.state => {
            Some(Step::WriteStatus(Box::new(urgent)))
        }
        _ => Some(Step::Restore(changes)),
    }
}

/// The status must be true.
fn status(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    let status = match observed.trouble {
        Some(trouble) if trouble.is_passing() => partial_report(observed, now),
        _ => report(observed, now),
    };
    (observed.stored.status.as_ref() != Some(&status)).then(|| Step::WriteStatus(Box::new(status)))
}

/// Entries that their replica has abandoned must become Peers and leave the ledger, on a key that was just read: the Peer of
/// an entry that is no longer pending may have been deleted since.
fn abandoned_entries(observed: Observed<'_>, _: DateTime<Utc>) -> Option<Step> {
    let swap = ledger::clear(observed.key, observed.abandoned)?;
    Some(match observed.freshness {
        Freshness::Cached => Step::Confirm,
        Freshness::Confirmed if observed.peers_created => Step::ClearEntries(Box::new(swap)),
        Freshness::Confirmed => Step::CreatePeers,
    })
}

/// When the clock alone changes what is to be done about a key, or reported of it.
pub fn next_moment(key: &SetupKey, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let expires = key.status.as_ref()?.expires?.moment() + JUST_AFTER;
    rotation::next_moment(key, now).into_iter().chain(Some(expires).filter(|moment| *moment > now)).min()
}

/// Whether the next revision is due, and waits for nothing but another look.
fn is_due_at_once(observed: Observed<'_>, now: DateTime<Utc>) -> bool {
    let is_kept = match observed.secret {
        SecretView::Unchanged => true,
        SecretView::Owned(secret) => secret.sent_and_stored().is_some(),
        _ => false,
    };
    is_kept && observed.trouble.is_none() && rotation::due(observed.key, now).is_some()
}

fn wait(observed: Observed<'_>, now: DateTime<Utc>) -> Until {
    if is_due_at_once(observed, now) {
        return Until::Moment(now);
    }
    let expiry = next_moment(observed.key, now);
    let out_of_reach = match observed.secret {
        SecretView::Foreign | SecretView::Orphaned | SecretView::Unread | SecretView::Absent => true,
        SecretView::Owned(secret) => !holds_the_key(observed, secret),
        SecretView::Unchanged => false,
    };
    if observed.trouble.is_some() || out_of_reach {
        return Until::Retry;
    }
    let expected = expiry.map_or(LONGEST_SLEEP, |moment| moment - now);
    if conditions::is_ready(observed.key) {
        return Until::Moment(now + expected.min(LONGEST_SLEEP));
    }
    Until::RetryAfter(expected.min(METADATA_PAUSE))
}

#[cfg(test)]
mod data_keys_tests;
#[cfg(test)]
mod tests;
