//! What stands on record about a key, and what follows from it.

use chrono::{DateTime, Utc};

pub(super) use super::observed::id_in_status;
use super::{
    KeyId,
    conditions::{READY, SECRET_ALTERED, reason_of},
    data_keys::WantedData,
    mirror, rotation,
    secret::{DataPatch, Metadata, OwnedSecret, Restoration, SecretView, SentKey, Written, wanted_metadata},
};
pub use super::{
    freshness::Freshness,
    observed::{Observed, Persistence, Rehearsal, Standing, Subject, Trouble},
};
use crate::api::{PreviousKey, SetupKey, Timestamp};

/// A key to be issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issue {
    /// The id to keep, or `None` for a new one.
    pub id: Option<KeyId>,
    /// When the key expires.
    pub expires: Timestamp,
}

impl Issue {
    /// The next revision: a new id, and all of the lifetime.
    pub(super) fn rotation(key: &SetupKey, now: DateTime<Utc>) -> Self {
        Self { id: None, expires: expiry_if_issued(key, now) }
    }

    /// A key without a Secret: the id and expiry on record, or those of a key issued now.
    pub(super) fn without_secret(key: &SetupKey, now: DateTime<Utc>) -> Self {
        Self { id: id_in_status(key), expires: expiry_in_status(key).unwrap_or_else(|| expiry_if_issued(key, now)) }
    }

    /// The id and expiry of a key whose Secret exists: those in the status, else those in the Secret's annotations.
    ///
    /// People who may not edit the status may be able to edit the Secret, so an annotation never gives a key a longer life
    /// than one issued now would have.
    pub(super) fn of(observed: Observed<'_>, secret: &OwnedSecret, now: DateTime<Utc>) -> Self {
        let key = observed.key;
        if key.spec.authority_ref.is_some() {
            let expires = mirror::expiry(observed).unwrap_or_else(|| expiry_if_issued(key, now));
            return Self { id: mirror::current_id(observed), expires };
        }
        if let Some(sent) = secret.sent_and_stored() {
            return Self { id: Some(sent.id.clone()), expires: sent.expires };
        }
        let longest = expiry_if_issued(key, now);
        let annotated = || Some(secret.expires()?.min(longest));
        Self {
            // With the value of another key, the id of that key may have come too.
            id: id_in_status(key).or_else(|| secret.id().filter(|_| !secret.belongs_to_another)),
            expires: expiry_in_status(key).or_else(annotated).unwrap_or_else(|| expiry_since_creation(key, now)),
        }
    }

    /// The labels and annotations that the Secret of this key should carry. `None` while it has no id.
    pub(super) fn wanted_metadata(&self, key: &SetupKey) -> Option<Metadata> {
        self.id.as_ref().map(|id| wanted_metadata(key, id, self.expires))
    }
}

/// Whether our Secret holds the key on record, or the one that this pass has just put there.
///
/// Without a digest on record (after a crash, or a lost status) it does if the Secret carries the id that is known. After
/// a crash between a new value and its record, the record wins, and the value is replaced once more: from here it looks
/// like a value that was put there by someone else.
pub(super) fn holds_the_key(observed: Observed<'_>, secret: &OwnedSecret) -> bool {
    let key = observed.key;
    if key.spec.authority_ref.is_some() {
        return mirror::held(key, observed.authority.reached(), secret).is_some();
    }
    let Some(found) = &secret.holds else { return false };
    if let Written::Key(_) = &secret.written {
        return secret.sent_and_stored().is_some();
    }
    if secret.belongs_to_another {
        return false;
    }
    let status = key.status.as_ref();
    match status.and_then(|status| status.digest.as_deref()) {
        Some(recorded) => recorded == found.digest.as_str(),
        // What was stored in the place of our key is not adopted for lack of a better one.
        None if is_reported_altered(key) => false,
        None => match status.and_then(|status| status.id.as_deref()) {
            Some(id) => secret.id().is_some_and(|found| found.as_str() == id),
            None => secret.id().is_some(),
        },
    }
}

/// Whether a key that was sent may come on record for this `SetupKey`: as the first one, in place of a lost value of the key on
/// record, or as the next revision, if that is due. A key that was decided on an older version may be none of these.
pub fn fits_the_record(key: &SetupKey, sent: &SentKey, now: DateTime<Utc>) -> bool {
    id_in_status(key).is_none_or(|recorded| recorded == sent.id) || rotation::due(key, now).is_some()
}

/// Whether the last report says that the API server stores something else than the key that is sent.
pub(super) fn is_reported_altered(key: &SetupKey) -> bool {
    key.status.as_ref().is_some_and(|status| reason_of(status, READY) == Some(SECRET_ALTERED))
}

/// The difference between our Secret and the wanted one, the key in it aside, if there is one and it can be put right. The
/// data of an immutable Secret cannot.
pub(super) fn drift(observed: Observed<'_>, secret: &OwnedSecret, now: DateTime<Utc>) -> Option<Restoration> {
    let wanted = Issue::of(observed, secret, now).wanted_metadata(observed.key)?;
    let data = if secret.immutable { DataPatch::new() } else { data_drift(observed, secret) };
    Some(Restoration { metadata: secret.drift_from(&wanted), data }).filter(|changes| !changes.is_empty())
}

/// The changes that put the data keys beside the primary right.
pub(super) fn data_drift(observed: Observed<'_>, secret: &OwnedSecret) -> DataPatch {
    secret.data_drift(observed.key, WantedData::of(observed.key, observed.authority))
}

/// The id of a key that was issued, and that the status knows nothing about.
pub(super) fn lost_ledger(key: &SetupKey, secret: &SecretView) -> Option<KeyId> {
    let SecretView::Owned(secret) = secret else { return None };
    let known = key.status.as_ref().is_some_and(|status| status.id.is_some());
    let just_issued = matches!(secret.written, Written::Key(_));
    (!known && !just_issued && !secret.belongs_to_another).then(|| secret.id()).flatten()
}

/// The key as if its record were lost, but for the replaced keys that are known from an earlier one. The record is then made
/// again from the Secret, as after a status was lost.
pub fn without_record(key: &SetupKey, is_known: impl Fn(&PreviousKey) -> bool) -> SetupKey {
    let mut key = key.clone();
    if let Some(status) = &mut key.status {
        (status.id, status.digest, status.key) = (None, None, None);
        (status.expires, status.secret, status.authority) = (None, None, None);
        status.previous.retain(is_known);
    }
    key
}

fn expiry_in_status(key: &SetupKey) -> Option<Timestamp> {
    key.status.as_ref()?.expires
}

fn expiry_if_issued(key: &SetupKey, now: DateTime<Utc>) -> Timestamp {
    Timestamp::from(now).plus_seconds(key.spec.expires_in.as_secs())
}

/// The expiry of a key whose every record is lost: counted from the earliest moment at which it can have been issued.
fn expiry_since_creation(key: &SetupKey, now: DateTime<Utc>) -> Timestamp {
    let created = key.metadata.creation_timestamp.as_ref().map_or_else(|| now.into(), Timestamp::from);
    created.plus_seconds(key.spec.expires_in.as_secs())
}
