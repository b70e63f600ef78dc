//! What a decision is made from, and what stands on record about a key.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{
    KeyId,
    conditions::{READY, SECRET_ALTERED, reason_of},
    ledger::Use,
    mirror,
    remote::AuthorityView,
    secret::{Metadata, MetadataPatch, OwnedSecret, SecretView, Written, wanted_metadata},
};
use crate::api::{SetupKey, Timestamp};

/// Everything that a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The resource, with the status as last written. Where another writer has altered the record in it, without that
    /// record ([`without_record`]).
    pub key: &'a SetupKey,
    /// The resource as it is stored. A report is compared with its status.
    pub stored: &'a SetupKey,
    /// Where `key` comes from.
    pub freshness: Freshness,
    /// The authority behind the key.
    pub authority: &'a AuthorityView,
    /// The Secret of the key's name.
    pub secret: &'a SecretView,
    /// What kept this pass from reading or writing, if something did.
    pub trouble: Option<&'a Trouble>,
    /// How a replacement of the key would end, if this pass has tried it with a dry run.
    pub rehearsal: Option<Rehearsal>,
    /// How many peers joined with the id that the Secret carries, if this pass has counted them.
    pub counted: Option<i64>,
    /// Pending entries whose replica has had its time. The controller completes them.
    pub abandoned: &'a BTreeSet<Use>,
    /// Whether this pass has created the Peers of these entries.
    pub peers_created: bool,
    /// Whether the last pass has failed.
    pub retried: bool,
}

/// What is known of the writer of a record, which is the id, the digest and the expiry in the status of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The operator wrote it, as far as is known.
    Kept,
    /// The same, but its digest stands on record for another key too. It must be compared with the Secret.
    Disputed,
    /// Another writer has changed it since the operator wrote it. It is worth nothing.
    Altered,
}

/// Where an object comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// From a cache, which may be behind.
    Cached,
    /// From the API server, in this pass.
    Confirmed,
}

/// What keeps a pass from reading or writing what it must.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// What could not be done.
    pub with: Subject,
    /// Whether trying again changes nothing.
    pub persistence: Persistence,
    /// The API server's message, or another sentence that says why.
    pub why: String,
}

/// The objects that a pass has trouble with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The Secret could not be read or written.
    Secret,
    /// The Peers of a lost ledger could not be counted.
    Peers,
    /// A call to the authority failed.
    Authority,
}

/// How long trouble lasts, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Persistence {
    /// The API server refuses, and will until a person has changed something: a right, a quota, a policy.
    Refused,
    /// Several tries in a row have failed.
    Lasting,
    /// The first tries have failed. The next may not.
    Passing,
}

impl Trouble {
    /// Whether it is too early to report it.
    pub fn is_passing(&self) -> bool {
        self.persistence == Persistence::Passing
    }
}

/// What a dry run of a replacement has shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rehearsal {
    /// The API server would store the key that is sent.
    Kept,
    /// It would store something else.
    Altered,
}

/// A key to be issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issue {
    /// The id to keep, or `None` for a new one.
    pub id: Option<KeyId>,
    /// When the key expires.
    pub expires: Timestamp,
}

impl Issue {
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
    if let Written::Key(sent) = &secret.written {
        return *sent == found.digest;
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

/// Whether the last report says that the API server stores something else than the key that is sent.
pub(super) fn is_reported_altered(key: &SetupKey) -> bool {
    key.status.as_ref().is_some_and(|status| reason_of(status, READY) == Some(SECRET_ALTERED))
}

/// The difference between the labels and annotations of our Secret and the wanted ones, if there is one.
pub(super) fn drift(observed: Observed<'_>, secret: &OwnedSecret, now: DateTime<Utc>) -> Option<MetadataPatch> {
    let wanted = Issue::of(observed, secret, now).wanted_metadata(observed.key)?;
    Some(secret.drift_from(&wanted)).filter(|patch| !patch.is_empty())
}

/// The id of a key that was issued, and that the status knows nothing about.
pub(super) fn lost_ledger(key: &SetupKey, secret: &SecretView) -> Option<KeyId> {
    let SecretView::Owned(secret) = secret else { return None };
    let known = key.status.as_ref().is_some_and(|status| status.id.is_some());
    let just_issued = matches!(secret.written, Written::Key(_));
    (!known && !just_issued && !secret.belongs_to_another).then(|| secret.id()).flatten()
}

/// The key as if its record were lost. The record is then made again from the Secret, as after a status was lost.
pub fn without_record(key: &SetupKey) -> SetupKey {
    let mut key = key.clone();
    if let Some(status) = &mut key.status {
        (status.id, status.digest, status.key) = (None, None, None);
        (status.expires, status.secret, status.authority) = (None, None, None);
    }
    key
}

pub(super) fn id_in_status(key: &SetupKey) -> Option<KeyId> {
    KeyId::parse(key.status.as_ref()?.id.as_deref()?)
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
