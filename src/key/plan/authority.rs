//! The checks of a key whose authority is NetBird.
//!
//! A creation there cannot be repeated safely: names are not unique, and the value is shown once. So a finalizer is put on the
//! `SetupKey` first, then the key is created, then its value goes into the Secret, then its id into the status. Whatever a
//! crash leaves in between carries our mark, is known to no Secret and no status, and is deleted.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{Check, METADATA_PAUSE, Step, Until, is_due_at_once, next_moment, rest_of_secret, status};
use crate::{
    api::{DeletionPolicy, KeyStanding, KeyType, SetupKey, metadata::AUTHORITY_FINALIZER},
    key::{
        KeyId,
        conditions::{READY, SECRET_ALTERED, SECRET_CONFLICT, SECRET_FAILED, SECRET_REFUSED, is_ready, reason_of},
        facts::asks_for_revocation,
        groups::{GroupId, GroupTrouble},
        mirror::{Want, current, current_id, groups, lifetime_left, mirrored, uses_left, wanted},
        record::{Freshness, Observed, Rehearsal, Subject, holds_the_key, id_in_status},
        remote::{AuthorityView, NewKey, OutOfReach, Reached, marked_name},
        report::{partial_report, report},
        rotation,
        secret::SecretView,
    },
};

/// Why the finalizer is taken off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// No key of the `SetupKey` is left at the authority.
    Deleted,
    /// The deletion policy leaves it there.
    Retained,
    /// There is no authority any more at which it could be deleted.
    LeftBehind,
}

/// The checks, in their order: the first that finds something decides.
const CHECKS: [Check; 10] =
    [deletion, revocation, reach, replaced, finalizer, surplus, value, rest_of_secret, changed_groups, status];

/// Decides the next step.
pub(super) fn plan(observed: Observed<'_>, now: DateTime<Utc>) -> Step {
    CHECKS.iter().find_map(|check| check(observed, now)).unwrap_or_else(|| Step::Wait(wait(observed, now)))
}

/// Whether our finalizer is on the `SetupKey`.
pub fn has_finalizer(key: &SetupKey) -> bool {
    key.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == AUTHORITY_FINALIZER)
}

/// The key at the authority goes before the `SetupKey` does, unless it is to stay there.
fn deletion(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    let key = observed.key;
    key.metadata.deletion_timestamp.as_ref()?;
    if !has_finalizer(key) {
        return Some(Step::Wait(Until::Change));
    }
    if key.spec.deletion_policy == DeletionPolicy::Retain {
        return Some(Step::RemoveFinalizer(Release::Retained));
    }
    if observed.trouble.is_some() {
        return Some(status(observed, now).unwrap_or(Step::Wait(Until::Retry)));
    }
    Some(match observed.authority {
        AuthorityView::Cluster | AuthorityView::OutOfReach(OutOfReach::NotFound) => {
            Step::RemoveFinalizer(Release::LeftBehind)
        }
        AuthorityView::OutOfReach(OutOfReach::NotListed) => Step::Wait(Until::Change),
        AuthorityView::OutOfReach(OutOfReach::NotReady(_) | OutOfReach::NotOffered) => {
            status(observed, now).unwrap_or(Step::Wait(Until::Change))
        }
        AuthorityView::Reached(Reached { keys, .. }) => match keys.first() {
            None => Step::RemoveFinalizer(Release::Deleted),
            // The deletion policy may have changed.
            Some(_) if observed.freshness == Freshness::Cached => Step::Confirm,
            Some(there) => Step::DeleteThere(there.id.clone()),
        },
    })
}

/// A revocation does not wait for anything else.
fn revocation(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    let refused = observed.trouble.is_some_and(|trouble| trouble.with == Subject::Authority);
    let spec = &observed.key.spec;
    let may_be_unused = spec.revoke_unused_after.is_some();
    let is_asked_for = spec.revoked || may_be_unused && asks_for_revocation(spec, &mirrored(observed, now), now);
    if refused || !is_asked_for {
        return None;
    }
    let there = current(observed).filter(|there| !there.revoked)?;
    let is_listed = observed.authority.reached().is_some_and(|reached| reached.freshness == Freshness::Cached);
    if !spec.revoked && is_listed {
        // It may have been used since it was listed.
        return Some(Step::ConfirmThere(there.id.clone()));
    }
    Some(Step::UpdateThere { id: there.id.clone(), revoked: true, groups: there.groups.iter().cloned().collect() })
}

/// Without its authority, nothing is done about a key, and a settled one stays as it is reported: the status of the
/// authority says that it is out of reach.
fn reach(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    let reported = match observed.authority {
        AuthorityView::Reached(reached) if reached.allows_namespace => return None,
        AuthorityView::OutOfReach(OutOfReach::NotListed) => false,
        AuthorityView::OutOfReach(OutOfReach::NotReady(_)) => !is_settled(observed, now),
        AuthorityView::Reached(_)
        | AuthorityView::Cluster
        | AuthorityView::OutOfReach(OutOfReach::NotFound | OutOfReach::NotOffered) => true,
    };
    let step = if reported { status(observed, now) } else { clock(observed, now) };
    let pause = if observed.trouble.is_some() { Until::Retry } else { at_expiry(observed.key, now) };
    Some(step.unwrap_or(Step::Wait(pause)))
}

fn is_settled(observed: Observed<'_>, now: DateTime<Utc>) -> bool {
    let Observed { key, secret, .. } = observed;
    let generation = key.status.as_ref().and_then(|status| status.observed_generation);
    is_ready(key)
        && generation == key.metadata.generation
        && matches!(secret, SecretView::Unchanged)
        && rotation::due(key, now).is_none()
}

/// The state follows the clock.
fn clock(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    let status = partial_report(observed, now);
    (observed.stored.status.as_ref() != Some(&status)).then(|| Step::WriteStatus(Box::new(status)))
}

/// A replaced key goes when its overlap is over, and all of them when the key is revoked.
fn replaced(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    if observed.trouble.is_some() {
        return None;
    }
    let reached = observed.authority.reached()?;
    let ended = rotation::ended_there(observed.key, now).find(|id| reached.key(id).is_some())?;
    Some(match observed.freshness {
        Freshness::Cached => Step::Confirm,
        Freshness::Confirmed => Step::DeleteThere(ended),
    })
}

fn finalizer(observed: Observed<'_>, _: DateTime<Utc>) -> Option<Step> {
    let writable = matches!(observed.secret, SecretView::Absent | SecretView::Owned(_) | SecretView::Unchanged);
    (observed.trouble.is_none() && writable && !has_finalizer(observed.key)).then_some(Step::AddFinalizer)
}

/// Keys with our mark that neither the Secret nor the status knows are left over, from a crash or from a key that another one
/// was issued instead of.
fn surplus(observed: Observed<'_>, _: DateTime<Utc>) -> Option<Step> {
    if observed.trouble.is_some() || matches!(observed.secret, SecretView::Unread) {
        return None;
    }
    let (current, recorded) = (current_id(observed), id_in_status(observed.key));
    let is_replaced = |id: &KeyId| observed.key.previous().iter().any(|previous| previous.id == id.as_str());
    let is_known = |id: &KeyId| Some(id) == current.as_ref() || Some(id) == recorded.as_ref() || is_replaced(id);
    let unknown = observed.authority.reached()?.keys.iter().find(|there| !is_known(&there.id))?;
    Some(match observed.freshness {
        Freshness::Cached => Step::Confirm,
        Freshness::Confirmed => Step::DeleteThere(unknown.id.clone()),
    })
}

/// The Secret must hold the current key, or a key is issued.
fn value(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Step> {
    let want = wanted(observed, now).ok().flatten()?;
    let is_unread = want == Want::Rotation && matches!(observed.secret, SecretView::Unchanged);
    if observed.trouble.is_some() || !can_be_written(observed) || is_unread {
        return None;
    }
    let groups = match resolved(observed) {
        Ok(groups) => groups,
        Err(step) => return step,
    };
    let there = current(observed);
    match observed.freshness {
        Freshness::Cached => return Some(Step::Confirm),
        Freshness::Confirmed => {}
    }
    // A key that was revoked or used there since it was listed must not get its uses back.
    if let (Want::Lost, Some(there), Some(reached)) = (want, there, observed.authority.reached())
        && reached.freshness == Freshness::Cached
    {
        return Some(Step::ConfirmThere(there.id.clone()));
    }
    match observed.rehearsal {
        None if matches!(want, Want::Lost | Want::Unrevoked)
            || observed.retried
            || is_reported_unwritable(observed.key) =>
        {
            return Some(Step::RehearseSecret);
        }
        Some(Rehearsal::Altered) => return None,
        None | Some(Rehearsal::Kept) => {}
    }
    if want == Want::Lost {
        let mut intent = report(observed, now);
        if let SecretView::Owned(_) = observed.secret {
            // Which data keys are ours must be known when the next key is written.
            intent.secret = observed.key.status.as_ref().and_then(|status| status.secret.clone());
        }
        if let Some(authority) = &mut intent.authority
            && authority.standing != KeyStanding::Replacing
        {
            authority.standing = KeyStanding::Replacing;
            return Some(Step::WriteStatus(Box::new(intent)));
        }
        // Once the last key is revoked, no machine joins with it, and its uses are final.
        if let Some(there) = there.filter(|there| !there.revoked) {
            let groups = there.groups.iter().cloned().collect();
            return Some(Step::UpdateThere { id: there.id.clone(), revoked: true, groups });
        }
    }
    Some(Step::IssueThere(new_key(observed, want, groups, now)?))
}

/// A Secret that cannot take another value, or in which another value is stored than the one that is sent, is left alone.
fn can_be_written(observed: Observed<'_>) -> bool {
    match observed.secret {
        SecretView::Owned(secret) => !secret.immutable && !secret.was_altered(),
        _ => true,
    }
}

fn is_reported_unwritable(key: &SetupKey) -> bool {
    let reason = key.status.as_ref().and_then(|status| reason_of(status, READY));
    reason.is_some_and(|reason| [SECRET_REFUSED, SECRET_FAILED, SECRET_ALTERED, SECRET_CONFLICT].contains(&reason))
}

fn new_key(observed: Observed<'_>, want: Want, groups: BTreeSet<GroupId>, now: DateTime<Utc>) -> Option<NewKey> {
    let (key, status) = (observed.key, mirrored(observed, now));
    let spec = &key.spec;
    let revision = status.revision.unwrap_or(1) + i64::from(want == Want::Rotation);
    let (expires_in, uses) = match want {
        Want::First | Want::Rotation => {
            (i64::try_from(spec.expires_in.as_secs()).ok()?, spec.effective_usage_limit().map(i64::from))
        }
        Want::Unrevoked | Want::Lost => (lifetime_left(key, &status, now)?, uses_left(key, &status)),
    };
    Some(NewKey {
        name: marked_name(key, revision),
        one_off: spec.key_type == KeyType::OneOff,
        expires_in,
        groups: groups.into_iter().collect(),
        usage_limit: uses.unwrap_or_default(),
        ephemeral: spec.ephemeral,
        allow_extra_dns_labels: spec.allow_extra_dns_labels,
    })
}

/// Peers that join from now on must get the groups of the spec.
fn changed_groups(observed: Observed<'_>, _: DateTime<Utc>) -> Option<Step> {
    if observed.trouble.is_some() {
        return None;
    }
    let there = current(observed)?;
    match resolved(observed) {
        Ok(groups) if there.groups.iter().cloned().collect::<BTreeSet<_>>() != groups => {
            Some(Step::UpdateThere { id: there.id.clone(), revoked: there.revoked, groups })
        }
        Ok(_) => None,
        Err(step) => step,
    }
}

/// The ids of the groups, or the step that may find them, if there is one.
fn resolved(observed: Observed<'_>) -> Result<BTreeSet<GroupId>, Option<Step>> {
    let reached = observed.authority.reached().ok_or(None)?;
    match groups(observed) {
        Some(Ok(ids)) => Ok(ids),
        None => Err(Some(Step::ListGroups)),
        Some(Err(GroupTrouble::NotFound(_))) if !reached.groups_are_fresh => Err(Some(Step::ListGroups)),
        Some(Err(GroupTrouble::NotFound(missing))) if reached.creates_groups => {
            Err(missing.into_iter().next().map(Step::CreateGroup))
        }
        Some(Err(_)) => Err(None),
    }
}

fn at_expiry(key: &SetupKey, now: DateTime<Utc>) -> Until {
    next_moment(key, now).map_or(Until::Change, Until::Moment)
}

/// What waits for the authority, or for a group there, is woken by a list that shows it.
fn wait(observed: Observed<'_>, now: DateTime<Utc>) -> Until {
    if is_due_at_once(observed, now) {
        return Until::Moment(now);
    }
    let lost = match observed.secret {
        SecretView::Foreign | SecretView::Orphaned | SecretView::Unread => true,
        SecretView::Owned(secret) => !holds_the_key(observed, secret) && wanted(observed, now).is_ok(),
        SecretView::Absent | SecretView::Unchanged => false,
    };
    if observed.trouble.is_some() || lost {
        return Until::Retry;
    }
    let waits_for_groups = matches!(groups(observed), Some(Err(_)));
    if waits_for_groups || is_ready(observed.key) {
        return at_expiry(observed.key, now);
    }
    Until::RetryAfter(METADATA_PAUSE)
}

#[cfg(test)]
mod tests;
