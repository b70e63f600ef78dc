//! When a key is replaced by another one, and what becomes of the replaced key.
//!
//! A `SetupKey` has revisions. A rotation begins a new one: another id and value, the whole lifetime and the whole limit. It
//! has one of two reasons, and each causes one rotation: the moment that `renewBefore` gives has come, or a person has asked
//! for it by an annotation. Both are compared with the record of the current revision, which the rotation replaces. So a
//! reason that was acted upon is gone, whatever crashes.

use chrono::{DateTime, Utc};

use super::{
    Facts, KeyId,
    conditions::{READY, condition},
    facts::{JUST_AFTER, asks_for_revocation, end_of, issued_at, unused_until},
};
use crate::api::{
    KeyType, Lifetime, PreviousKey, SetupKey, SetupKeySpec, SetupKeyStatus, State, Timestamp,
    metadata::ROTATE_ANNOTATION,
};

/// How many replaced keys may admit peers at a time.
pub const MOST_PREVIOUS: usize = 8;

/// A key is not replaced by schedule before it is so old. The clocks of the operator and of an authority may differ, and a
/// new key must not be due at once.
const YOUNGEST: Lifetime = Lifetime::hours(1);

/// What a person is told whose request waits.
const WAITS: &str = "The rotation that was requested waits until revoked is false.";

/// Why a key is replaced.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The moment has come that `renewBefore` gives.
    Schedule,
    /// A person has asked for it.
    Request,
}

impl Reason {
    /// The value of the label `reason` of the metric `setupkey_rotations`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Request => "request",
        }
    }
}

/// What is known of the rotations of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Rotations {
    /// When the current revision was issued.
    issued: Timestamp,
    /// When it is replaced by schedule, or `None` if it is not.
    scheduled: Option<Timestamp>,
    /// For when a rotation was requested that was not carried out yet.
    requested: Option<Timestamp>,
    /// Whether a scheduled rotation is skipped: the key is revoked, or one-off and used.
    skips_schedule: bool,
    /// Whether a requested rotation waits. NetBird has no key that is revoked from the beginning.
    skips_request: bool,
}

impl Rotations {
    /// `None` while no key is issued, or if nothing is to rotate it.
    fn of(key: &SetupKey, status: &SetupKeyStatus, now: DateTime<Utc>) -> Option<Self> {
        let spec = &key.spec;
        let before = spec.rotation.as_ref().and_then(|rotation| rotation.renew_before);
        let requested = requested(key).and_then(Result::ok);
        if before.is_none() && requested.is_none() {
            return None; // Most keys, at each look.
        }
        let (facts, issued) = (Facts::new(spec, status)?, issued_at(spec, status)?);
        let youngest = issued.plus_seconds(YOUNGEST.as_secs());
        Some(Self {
            issued,
            scheduled: before.map(|before| facts.expires.minus_seconds(before.as_secs()).max(youngest)),
            requested: requested.filter(|requested| *requested > issued),
            skips_schedule: is_revoked(&facts, spec, status, now)
                || spec.key_type == KeyType::OneOff && facts.used_times > 0,
            skips_request: spec.authority_ref.is_some() && spec.revoked,
        })
    }

    /// When the next rotation is due. A scheduled one that is skipped stays in sight until its moment, because the key may be
    /// brought back before that.
    fn next(&self, now: DateTime<Utc>) -> Option<Timestamp> {
        let scheduled = self.scheduled.filter(|moment| !self.skips_schedule || moment.moment() > now);
        let requested = self.requested.filter(|_| !self.skips_request);
        scheduled.into_iter().chain(requested).min()
    }

    fn due(&self, now: DateTime<Utc>) -> Option<Reason> {
        let has_come = |moment: Option<Timestamp>| moment.is_some_and(|moment| now >= moment.moment());
        if has_come(self.requested) && !self.skips_request {
            return Some(Reason::Request);
        }
        (has_come(self.scheduled) && !self.skips_schedule).then_some(Reason::Schedule)
    }
}

/// Whether the key is revoked, or is to be.
fn is_revoked(facts: &Facts, spec: &SetupKeySpec, status: &SetupKeyStatus, now: DateTime<Utc>) -> bool {
    facts.revoked || asks_for_revocation(spec, status, now)
}

/// Why the key is to be replaced now, if it is.
pub fn due(key: &SetupKey, now: DateTime<Utc>) -> Option<Reason> {
    due_by(key, key.status.as_ref()?, now)
}

/// The same by this status.
pub(super) fn due_by(key: &SetupKey, status: &SetupKeyStatus, now: DateTime<Utc>) -> Option<Reason> {
    Rotations::of(key, status, now)?.due(now)
}

/// When the next rotation of the key with this status is due, for the status.
pub(super) fn rotate_at(key: &SetupKey, status: &SetupKeyStatus, now: DateTime<Utc>) -> Option<Timestamp> {
    Rotations::of(key, status, now)?.next(now)
}

/// The moment for which a person has asked for a rotation. `Err` if it cannot be read.
fn requested(key: &SetupKey) -> Option<Result<Timestamp, &str>> {
    let text = key.metadata.annotations.as_ref()?.get(ROTATE_ANNOTATION)?;
    Some(text.parse().map_err(|_| text.as_str()))
}

/// What a person must know who has asked for a rotation that does not take place.
pub(super) fn unmet_request(key: &SetupKey, status: &SetupKeyStatus, now: DateTime<Utc>) -> Option<String> {
    let created = key.metadata.creation_timestamp.as_ref().map(Timestamp::from);
    match requested(key)? {
        Err(text) => Some(format!(
            "The annotation {ROTATE_ANNOTATION} is {:?}, which is no RFC 3339 time such as 2026-11-24T06:00:00Z, so it rotates nothing.",
            shown(text),
        )),
        Ok(moment) if created.is_some_and(|created| moment < created) => Some(format!(
            "The annotation {ROTATE_ANNOTATION} is {moment}, which was before this SetupKey was created, so it rotates nothing."
        )),
        Ok(_) => {
            let rotations = Rotations::of(key, status, now)?;
            let waits = rotations.skips_request && rotations.requested.is_some_and(|moment| now >= moment.moment());
            waits.then(|| WAITS.to_owned())
        }
    }
}

/// Whether the condition Ready says what a person must know about the request.
pub fn is_told(key: &SetupKey, now: DateTime<Utc>) -> bool {
    let Some(status) = &key.status else { return true };
    let said = condition(status, READY).map_or("", |ready| ready.message.as_str());
    match unmet_request(key, status, now) {
        Some(unmet) => said.contains(&unmet),
        None => !said.contains(ROTATE_ANNOTATION) && !said.contains(WAITS),
    }
}

/// The beginning of a text that a person wrote.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Why the status was rotated that comes after `before`: it was requested, unless that request was carried out before or is
/// still to come.
pub fn reason_of(key: &SetupKey, before: &SetupKeyStatus, after: &SetupKeyStatus) -> Reason {
    let is_new = |moment: &Timestamp| issued_at(&key.spec, before).is_some_and(|issued| *moment > issued);
    let is_met = |moment: &Timestamp| after.issued_at.is_some_and(|issued| *moment <= issued);
    let requested = requested(key).and_then(Result::ok).filter(|moment| is_new(moment) && is_met(moment));
    if requested.is_some() { Reason::Request } else { Reason::Schedule }
}

/// Begins the next revision in a status: the current key becomes a previous one, if it may still admit peers.
pub(super) fn begin(status: &mut SetupKeyStatus, key: &SetupKey, now: DateTime<Utc>) {
    let reason = Rotations::of(key, status, now).and_then(|rotations| rotations.due(now));
    let unused_since = status.unused_since.or_else(|| issued_at(&key.spec, status));
    if let Some(id) = &status.id {
        // Entries that do not name their key are of the key that is replaced.
        status.pending.iter_mut().filter(|entry| entry.key_id.is_empty()).for_each(|entry| entry.key_id.clone_from(id));
    }
    let replaced = replaced(status, key, now);
    status.previous.extend(replaced);
    let surplus = status.previous.len().saturating_sub(MOST_PREVIOUS);
    status.previous.drain(..surplus);
    status.revision = Some(status.revision.unwrap_or(1) + 1);
    // Never before the last one, or a request that was carried out would be later than it.
    status.issued_at = issued_at(&key.spec, status).max(Some(now.into()));
    status.unused_since = unused_since.filter(|_| reason == Some(Reason::Schedule));
    status.used_times = 0;
}

/// The current key of a status as a previous one. One that is revoked, or was by the last report, gets no overlap: its value
/// may be known to others.
fn replaced(status: &SetupKeyStatus, key: &SetupKey, now: DateTime<Utc>) -> Option<PreviousKey> {
    let facts = Facts::new(&key.spec, status)?;
    let was_revoked = is_revoked(&facts, &key.spec, status, now) || status.state == Some(State::Revoked);
    if was_revoked || !key.spec.overlaps() {
        return None;
    }
    let admits_until = Timestamp::from(now).plus_seconds(key.spec.overlap().as_secs()).min(facts.expires);
    (admits_until.moment() >= now).then(|| PreviousKey {
        id: facts.id.to_string(),
        digest: facts.digest.to_string(),
        key: status.key.clone().unwrap_or_default(),
        expires: facts.expires,
        admits_until,
        used_times: facts.used_times,
        usage_limit: facts.usage_limit,
    })
}

/// Whether a replaced key has ended: its overlap is over, or there is none any more.
pub(super) fn has_ended(previous: &PreviousKey, spec: &SetupKeySpec, now: DateTime<Utc>) -> bool {
    !spec.overlaps() || now > end_of(previous).moment()
}

/// The replaced keys at an authority that must go there: those that have ended, and all once the key is revoked or unused,
/// because NetBird never takes a revocation back.
pub(super) fn ended_there<'a>(key: &'a SetupKey, now: DateTime<Utc>) -> impl Iterator<Item = KeyId> + 'a {
    let is_revoked = key.status.as_ref().is_some_and(|status| asks_for_revocation(&key.spec, status, now));
    let is_over = move |previous: &&PreviousKey| is_revoked || has_ended(previous, &key.spec, now);
    key.previous().iter().filter(is_over).filter_map(|previous| KeyId::parse(&previous.id))
}

/// When the clock alone next changes something about the revisions of a key: a rotation is due, a replaced key ends, or the key
/// counts as unused.
pub(super) fn next_moment(key: &SetupKey, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let status = key.status.as_ref()?;
    let rotation = rotate_at(key, status, now).map(Timestamp::moment);
    let ends = status.previous.iter().map(end_of).chain(unused_until(&key.spec, status));
    ends.map(|end| end.moment() + JUST_AFTER).chain(rotation).filter(|moment| *moment > now).min()
}

#[cfg(test)]
mod tests;
