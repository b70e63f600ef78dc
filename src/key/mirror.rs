//! The key at an authority, and what is reported of it.
//!
//! A `SetupKey` has one current key there: the one that its Secret holds, else the one on record. NetBird tells of a key its
//! first 5 characters and no more, so the whole value is compared with the digest on record.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{
    KeyId,
    facts::asks_for_revocation,
    groups::{GroupId, GroupTrouble, Groups},
    observed::{Observed, id_in_status},
    remote::{Reached, RemoteKey},
    rotation,
    secret::{OwnedSecret, SecretView, Written},
};
use crate::api::{AtAuthority, KeyStanding, SetupKey, SetupKeyStatus, Timestamp};

/// Why a key is to be issued at an authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Want {
    /// There is none yet.
    First,
    /// The last one is revoked there, and the spec does not ask for that any more.
    Unrevoked,
    /// No Secret holds the value of the last one.
    Lost,
    /// The next revision is due.
    Rotation,
}

/// Why a lost key is not issued again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    Revoked,
    RevokedThere,
    DeletedThere,
    Expired,
    UsedUp,
}

/// The id of the key that our Secret holds, if it is the key on record, or one that this operator has issued and not yet
/// recorded: a key with our mark, and with these first characters. Where no digest is on record, they are all that can be
/// compared.
pub(super) fn held(key: &SetupKey, reached: Option<&Reached>, secret: &OwnedSecret) -> Option<KeyId> {
    let (found, id) = (secret.holds.as_ref()?, secret.id()?);
    if let Written::Key(_) = &secret.written {
        return secret.sent_and_stored().map(|_| id);
    }
    if secret.belongs_to_another {
        return None;
    }
    let recorded = key.status.as_ref().and_then(|status| status.digest.as_deref());
    if id_in_status(key).as_ref() == Some(&id)
        && let Some(recorded) = recorded
    {
        return (recorded == found.digest.as_str()).then_some(id);
    }
    reached?.key(&id).filter(|there| there.mask == found.mask).map(|_| id)
}

/// The id of the current key.
///
/// Without a Secret and a record, it is a key with which peers have joined: its uses must not be given back. Of several, it is
/// the one of the latest revision.
pub(super) fn current_id(observed: Observed<'_>) -> Option<KeyId> {
    let held = match observed.secret {
        SecretView::Owned(secret) => held(observed.key, observed.authority.reached(), secret),
        _ => None,
    };
    let used = || {
        let used = observed.authority.reached()?.keys.iter().filter(|there| there.used_times > 0);
        used.max_by_key(|there| (there.revision, there.used_times)).map(|there| there.id.clone())
    };
    held.or_else(|| id_in_status(observed.key)).or_else(used)
}

/// The current key at the authority, if it is there.
pub(super) fn current<'a>(observed: Observed<'a>) -> Option<&'a RemoteKey> {
    observed.authority.reached()?.key(&current_id(observed)?)
}

/// Whether a key is to be issued, and why. `Err` if the value is lost and there is nothing to be issued instead.
pub(super) fn wanted(observed: Observed<'_>, now: DateTime<Utc>) -> Result<Option<Want>, Ended> {
    let key = observed.key;
    let holds = match observed.secret {
        SecretView::Owned(secret) => held(key, observed.authority.reached(), secret).is_some(),
        SecretView::Unchanged => true,
        SecretView::Absent => false,
        // It cannot be written.
        SecretView::Unread | SecretView::Foreign | SecretView::Orphaned => return Ok(None),
    };
    if current_id(observed).is_none() {
        return Ok(Some(Want::First));
    }
    let status = mirrored(observed, now);
    let standing = status.authority.as_ref().map_or(KeyStanding::Active, |there| there.standing);
    // A key that is being replaced for another reason comes first.
    if standing != KeyStanding::Replacing && rotation::due_by(key, &status, now).is_some() {
        return Ok(Some(Want::Rotation));
    }
    let is_revoked = asks_for_revocation(&key.spec, &status, now);
    let unrevoked = standing == KeyStanding::Revoked && !is_revoked;
    if holds && !unrevoked {
        return Ok(None);
    }
    let ended = match standing {
        KeyStanding::Revoked if !unrevoked => Some(Ended::Revoked),
        KeyStanding::RevokedAtAuthority => Some(Ended::RevokedThere),
        KeyStanding::DeletedAtAuthority => Some(Ended::DeletedThere),
        KeyStanding::Active if is_revoked => Some(Ended::Revoked),
        KeyStanding::Active | KeyStanding::Revoked | KeyStanding::Replacing => None,
    };
    let ended = ended
        .or_else(|| lifetime_left(key, &status, now).is_none().then_some(Ended::Expired))
        .or_else(|| (uses_left(key, &status) == Some(0)).then_some(Ended::UsedUp));
    match ended {
        Some(_) if holds => Ok(None),
        Some(ended) => Err(ended),
        None if unrevoked => Ok(Some(Want::Unrevoked)),
        None => Ok(Some(Want::Lost)),
    }
}

/// How many peers may still join, or `None` when there is no limit.
pub(super) fn uses_left(key: &SetupKey, status: &SetupKeyStatus) -> Option<i64> {
    let limit = key.spec.effective_usage_limit()?;
    Some((i64::from(limit) - status.used_times).max(0))
}

/// The seconds for which a key admits peers that is issued now: what is left of the lifetime on record, else all of it.
/// `None` if nothing is left.
pub(super) fn lifetime_left(key: &SetupKey, status: &SetupKeyStatus, now: DateTime<Utc>) -> Option<i64> {
    let whole = i64::try_from(key.spec.expires_in.as_secs()).unwrap_or(i64::MAX);
    let left = status.expires.map_or(whole, |expires| (expires.moment() - now).num_seconds());
    Some(left).filter(|seconds| *seconds >= 1)
}

/// The groups of the key at the authority, or why they cannot be used. `None` while the groups there are not listed.
pub fn groups(observed: Observed<'_>) -> Option<Result<BTreeSet<GroupId>, GroupTrouble>> {
    let reached = observed.authority.reached()?;
    let asked = &observed.key.spec.auto_groups;
    if asked.is_empty() {
        return Some(Ok(BTreeSet::new()));
    }
    let groups: &Groups = reached.groups.as_deref()?;
    Some(groups.resolve(asked, reached.allowed_groups.as_deref()))
}

/// The status with what the authority says of the current key.
pub(super) fn mirrored(observed: Observed<'_>, now: DateTime<Utc>) -> SetupKeyStatus {
    let mut status = observed.key.status.clone().unwrap_or_default();
    mirror(&mut status, observed, now);
    status
}

/// Copies what the authority says of the current key, and of the replaced ones. Where it was not reached, all stays as it is.
pub(super) fn mirror(status: &mut SetupKeyStatus, observed: Observed<'_>, now: DateTime<Utc>) {
    let Some(reached) = observed.authority.reached() else { return };
    let Some(id) = current_id(observed) else { return };
    let (key, there, recorded) = (observed.key, reached.key(&id), id_in_status(observed.key));
    let same = recorded.as_ref() == Some(&id);
    let known = status.authority.as_ref();
    let used_before = match (known, &recorded) {
        (Some(known), Some(_)) if same => known.used_before,
        // The last key was revoked before this one was issued, so it is not used any more.
        (Some(known), Some(recorded)) => {
            let last = reached.key(recorded).map(|last| known.used_before + last.used_times);
            last.unwrap_or_default().max(status.used_times)
        }
        _ => used_before(key, there),
    };
    let rotated = there.filter(|there| !same && recorded.is_some() && there.revision > status.revision.unwrap_or(1));
    let used_before = match rotated {
        Some(there) => {
            status.used_times = used_before;
            rotation::begin(status, key, now);
            status.revision = Some(there.revision);
            0
        }
        None => used_before,
    };
    if recorded.is_none() {
        // The clock there may differ from ours, and a request that was carried out must not be met again.
        status.issued_at.get_or_insert(now.into());
    }
    let before = status.authority.take().filter(|_| same).map_or(KeyStanding::Active, |before| before.standing);
    if let Some(there) = there {
        status.used_times = status.used_times.max(used_before + there.used_times);
        status.last_used = status.last_used.max(there.last_used);
        status.expires = there.expires;
        status.revision = status.revision.or(Some(there.revision));
    }
    let is_revoked = asks_for_revocation(&key.spec, status, now);
    let standing = standing_of(before, there, is_revoked);
    status.id = Some(id.to_string());
    status.authority = Some(AtAuthority { standing, used_before });
    status.previous.retain_mut(|previous| {
        let there = KeyId::parse(&previous.id).and_then(|id| reached.key(&id));
        previous.used_times = there.map_or(previous.used_times, |there| previous.used_times.max(there.used_times));
        there.is_some()
    });
}

/// How a key stands at the authority, from how it stood.
fn standing_of(before: KeyStanding, there: Option<&RemoteKey>, revoked: bool) -> KeyStanding {
    match there {
        Some(there) if !there.revoked => match before {
            KeyStanding::Replacing => KeyStanding::Replacing,
            _ => KeyStanding::Active,
        },
        _ if revoked => KeyStanding::Revoked,
        // Until another key is issued instead.
        _ if matches!(before, KeyStanding::Revoked | KeyStanding::Replacing) => before,
        Some(_) => KeyStanding::RevokedAtAuthority,
        None => KeyStanding::DeletedAtAuthority,
    }
}

/// The uses of earlier keys, where the status was lost: a key that is issued instead of another gets the uses that are left.
fn used_before(key: &SetupKey, there: Option<&RemoteKey>) -> i64 {
    let limits = key.spec.effective_usage_limit().zip(there.and_then(|there| there.usage_limit));
    limits.map_or(0, |(asked, there)| (i64::from(asked) - there).max(0))
}

/// The expiry of the current key, for the annotation of its Secret.
pub(super) fn expiry(observed: Observed<'_>) -> Option<Timestamp> {
    let recorded = || observed.key.status.as_ref()?.expires;
    current(observed).and_then(|there| there.expires).or_else(recorded)
}
