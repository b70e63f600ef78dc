use chrono::{DateTime, Duration, Utc};

use super::{Digest, KeyId};
use crate::api::{KeyStanding, PreviousKey, SetupKey, SetupKeySpec, SetupKeyStatus, State, Timestamp};

/// A key is expired once its last moment has passed, so that is when to wake.
pub(super) const JUST_AFTER: Duration = Duration::milliseconds(1);

/// What decides whether one issued key admits peers.
///
/// The controller, enrollment, the REST API and the metrics all read a key through this type, so "is it issued?" and "what
/// is its state?" have one answer each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// The public id of the key.
    pub id: KeyId,
    /// The digest that a presented key must have.
    pub digest: Digest,
    /// The last second in which the key admits peers.
    pub expires: Timestamp,
    /// Distinct peers ever admitted.
    pub used_times: i64,
    /// How many peers may ever join, or `None` when there is no limit.
    pub usage_limit: Option<i32>,
    /// Whether the key is revoked: as the spec says, or, for a key at an authority, as the authority says.
    pub revoked: bool,
    /// The last second in which the key admits peers if none uses it, where there is such a bound. A key at an authority is
    /// revoked there instead.
    pub unused_until: Option<Timestamp>,
}

impl Facts {
    /// The facts of the key that this `SetupKey` has issued, or `None` while no Secret of ours holds a key.
    pub fn of(key: &SetupKey) -> Option<Self> {
        Self::new(&key.spec, key.status.as_ref()?)
    }

    /// The same, where the status is not in the resource yet.
    pub(super) fn new(spec: &SetupKeySpec, status: &SetupKeyStatus) -> Option<Self> {
        Some(Self {
            id: KeyId::parse(status.id.as_deref()?)?,
            digest: Digest::from_base64(status.digest.as_deref()?),
            expires: status.expires?,
            used_times: status.used_times,
            usage_limit: spec.effective_usage_limit(),
            revoked: is_revoked(spec, status),
            unused_until: unused_until(spec, status).filter(|_| spec.authority_ref.is_none()),
        })
    }

    /// The facts of the keys that were replaced and may still admit peers.
    pub fn previous(key: &SetupKey) -> impl Iterator<Item = Self> {
        let spec = &key.spec;
        // Otherwise, a use of a replaced key could bring back the current one.
        let unused_until =
            Self::of(key).filter(|current| !current.is_used_up()).and_then(|current| current.unused_until);
        key.previous().iter().filter(|_| spec.overlaps()).filter_map(move |previous| {
            Some(Self {
                id: KeyId::parse(&previous.id)?,
                digest: Digest::from_base64(&previous.digest),
                expires: end_of(previous),
                used_times: previous.used_times,
                usage_limit: previous.usage_limit,
                revoked: spec.revoked,
                unused_until,
            })
        })
    }

    /// The facts of the current key, or of a replaced one, by the digest of the key that was presented.
    pub fn presented(key: &SetupKey, digest: &Digest) -> Option<Self> {
        let is_it = |facts: &Self| facts.digest == *digest;
        Self::of(key).filter(is_it).or_else(|| Self::previous(key).find(is_it))
    }

    /// Whether the key admits peers at this moment, and why not.
    ///
    /// Expired before revoked before overused before valid; expired only once the moment has passed. NetBird:
    /// setupkey.go, IsExpired and IsOverUsed; the order is that of its REST handler.
    pub fn state(&self, now: DateTime<Utc>) -> State {
        if now > self.expires.moment() {
            State::Expired
        } else if self.is_revoked(now) {
            State::Revoked
        } else if self.is_used_up() {
            State::Overused
        } else {
            State::Valid
        }
    }

    /// Whether the key is revoked, or was not used for so long that it counts as revoked.
    pub fn is_revoked(&self, now: DateTime<Utc>) -> bool {
        self.revoked || self.is_unused(now)
    }

    /// Whether the key was not used for longer than the spec allows. One that is used up was used.
    pub fn is_unused(&self, now: DateTime<Utc>) -> bool {
        !self.is_used_up() && self.unused_until.is_some_and(|until| now > until.moment())
    }

    fn is_used_up(&self) -> bool {
        is_used_up(self.usage_limit, self.used_times)
    }
}

fn is_used_up(limit: Option<i32>, used_times: i64) -> bool {
    limit.is_some_and(|limit| used_times >= limit.into())
}

/// The last second in which a replaced key admits peers.
pub(super) fn end_of(previous: &PreviousKey) -> Timestamp {
    previous.admits_until.min(previous.expires)
}

/// Whether the current key is to be revoked: the spec says so, or it was not used for too long.
pub(super) fn asks_for_revocation(spec: &SetupKeySpec, status: &SetupKeyStatus, now: DateTime<Utc>) -> bool {
    let is_unused = || unused_until(spec, status).is_some_and(|until| now > until.moment());
    spec.revoked || is_unused() && !is_used_up(spec.effective_usage_limit(), status.used_times)
}

/// When the current key was issued. Where that is not on record, it follows from the expiry.
pub fn issued_at(spec: &SetupKeySpec, status: &SetupKeyStatus) -> Option<Timestamp> {
    let computed = || Some(status.expires?.minus_seconds(spec.expires_in.as_secs()));
    status.issued_at.or_else(computed)
}

/// The last second in which the current key may go without a use, where the spec bounds that.
pub(super) fn unused_until(spec: &SetupKeySpec, status: &SetupKeyStatus) -> Option<Timestamp> {
    let after = spec.revoke_unused_after?;
    let issued = status.unused_since.or_else(|| issued_at(spec, status))?;
    Some(status.last_used.map_or(issued, |used| used.max(issued)).plus_seconds(after.as_secs()))
}

/// A key at an authority is revoked once that is so there.
fn is_revoked(spec: &SetupKeySpec, status: &SetupKeyStatus) -> bool {
    let standing = status.authority.as_ref().map(|there| there.standing);
    match (&spec.authority_ref, standing) {
        (None, _) => spec.revoked,
        (Some(_), None | Some(KeyStanding::Active)) => false,
        // With no uses left, none is issued instead, and that is what people must know.
        (Some(_), Some(KeyStanding::Revoked)) => {
            spec.revoked || !is_used_up(spec.effective_usage_limit(), status.used_times)
        }
        (Some(_), Some(KeyStanding::RevokedAtAuthority | KeyStanding::DeletedAtAuthority | KeyStanding::Replacing)) => {
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn expires() -> Timestamp {
        "2026-11-24T06:00:00Z".parse().unwrap()
    }

    fn at(milliseconds: i64) -> DateTime<Utc> {
        expires().moment() + Duration::milliseconds(milliseconds)
    }

    fn facts(usage_limit: Option<i32>, revoked: bool, used_times: i64) -> Facts {
        Facts {
            id: KeyId::from_random_bytes([1; 20]),
            digest: Digest::of("a key"),
            expires: expires(),
            used_times,
            usage_limit,
            revoked,
            unused_until: None,
        }
    }

    /// A key of this spec with everything in its status that an issued key has, but for `without`.
    fn key(spec: serde_json::Value, without: &str) -> SetupKey {
        let mut status = json!({
            "id": KeyId::from_random_bytes([1; 20]).to_string(), "digest": Digest::of("a key").to_string(),
            "expires": expires(), "usedTimes": 1,
        });
        status.as_object_mut().unwrap().remove(without);
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": "k" },
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_key_is_issued_once_its_id_digest_and_expiry_stand_in_the_status() {
        assert!(Facts::of(&key(json!({}), "nothing")).is_some());
        for missing in ["id", "digest", "expires"] {
            assert_eq!(Facts::of(&key(json!({}), missing)), None, "without {missing}");
        }
        assert_eq!(Facts::of(&SetupKey { status: None, ..key(json!({}), "nothing") }), None);
    }

    #[test]
    fn a_one_off_key_is_used_up_by_one_whatever_its_limit_says() {
        for limit in [0, 1] {
            let facts = Facts::of(&key(json!({ "type": "one-off", "usageLimit": limit }), "nothing")).unwrap();
            assert_eq!(facts.state(at(0)), State::Overused);
            assert_eq!(Facts { used_times: 0, ..facts }.state(at(0)), State::Valid);
        }
    }

    #[test]
    fn expired_wins_over_revoked_wins_over_overused() {
        let facts = facts(Some(3), true, 3);
        assert_eq!(facts.state(at(1)), State::Expired);
        assert_eq!(facts.state(at(0)), State::Revoked);
        assert_eq!(Facts { revoked: false, ..facts }.state(at(0)), State::Overused);
    }

    #[test]
    fn a_key_is_valid_up_to_and_including_its_last_moment() {
        assert_eq!(facts(None, false, 0).state(at(0)), State::Valid);
        assert_eq!(facts(None, false, 0).state(at(1)), State::Expired);
    }

    #[test]
    fn zero_is_no_limit() {
        let facts = Facts::of(&key(json!({ "usageLimit": 0 }), "nothing")).unwrap();
        assert_eq!(Facts { used_times: 1_000_000, ..facts }.state(at(0)), State::Valid);
    }

    /// The last second of this many hours before the expiry.
    fn hours_before(hours: i64) -> Timestamp {
        (expires().moment() - Duration::hours(hours)).into()
    }

    /// When a key of 720h that may go unused for 48h counts as unused, with this in its status.
    fn unused_until_with(status: serde_json::Value) -> Option<Timestamp> {
        let mut key = serde_json::to_value(key(json!({ "revokeUnusedAfter": "48h" }), "nothing")).unwrap();
        json_patch::merge(&mut key["status"], &status);
        Facts::of(&serde_json::from_value(key).unwrap()).unwrap().unused_until
    }

    #[test]
    fn a_key_is_unused_from_its_last_use_or_its_issue_on() {
        for (status, since) in [
            (json!({}), 720),
            (json!({ "issuedAt": hours_before(700) }), 700),
            (json!({ "issuedAt": hours_before(700), "unusedSince": hours_before(710) }), 710),
            (json!({ "issuedAt": hours_before(700), "lastUsed": hours_before(690) }), 690),
            (json!({ "unusedSince": hours_before(710), "lastUsed": hours_before(705) }), 705),
            // A use of a revision that was replaced on request.
            (json!({ "issuedAt": hours_before(700), "lastUsed": hours_before(800) }), 700),
        ] {
            assert_eq!(unused_until_with(status.clone()), Some(hours_before(since - 48)), "{status}");
        }
        let never = Facts::of(&key(json!({}), "nothing")).unwrap();
        assert_eq!(never.unused_until, None);
        let there = json!({ "revokeUnusedAfter": "48h", "authorityRef": { "name": "vpn" } });
        assert_eq!(Facts::of(&key(there, "nothing")).unwrap().unused_until, None, "it is revoked there instead");
    }

    #[test]
    fn an_unused_key_is_revoked_to_the_second_and_can_be_brought_back() {
        let unused =
            Facts { unused_until: Some(expires()), expires: expires().plus_seconds(100), ..facts(Some(3), false, 1) };
        assert_eq!((unused.state(at(0)), unused.is_unused(at(0))), (State::Valid, false));
        assert_eq!((unused.state(at(1)), unused.is_unused(at(1))), (State::Revoked, true));
        let raised = Facts { unused_until: Some(expires().plus_seconds(50)), ..unused.clone() };
        assert_eq!(raised.state(at(1)), State::Valid);
        let removed = Facts { unused_until: None, ..unused };
        assert_eq!(removed.state(at(1)), State::Valid);
    }

    #[test]
    fn a_key_that_is_used_up_is_overused_and_not_unused_and_an_expired_one_expired() {
        let used_up = Facts { unused_until: Some(hours_before(1)), ..facts(Some(3), false, 3) };
        assert_eq!((used_up.state(at(0)), used_up.is_unused(at(0))), (State::Overused, false));
        let unused = Facts { used_times: 2, ..used_up };
        assert_eq!(unused.state(at(0)), State::Revoked);
        assert_eq!(unused.state(at(1)), State::Expired);
    }

    /// A key of this spec that has replaced another one, which may still admit one peer.
    fn rotated(spec: serde_json::Value) -> SetupKey {
        let mut key = key(spec, "nothing");
        let replaced = json!({
            "id": KeyId::from_random_bytes([2; 20]).to_string(), "digest": Digest::of("replaced").to_string(),
            "key": "AAAAA****", "expires": hours_before(2), "admitsUntil": hours_before(3), "usedTimes": 6, "usageLimit": 7,
        });
        key.status.as_mut().unwrap().previous.push(serde_json::from_value(replaced).unwrap());
        key
    }

    #[test]
    fn a_replaced_key_has_its_own_end_and_limit_and_the_revocation_of_all() {
        let hours = |before: i64| hours_before(before).moment();
        let key = rotated(json!({ "usageLimit": 1 }));
        let facts = Facts::presented(&key, &Digest::of("replaced")).unwrap();
        assert_eq!(facts.state(hours(3)), State::Valid);
        assert_eq!(facts.state(hours(3) + Duration::seconds(1)), State::Expired);
        assert_eq!(Facts { used_times: 7, ..facts }.state(hours(3)), State::Overused);
        let current = Facts::presented(&key, &Digest::of("a key"));
        assert_eq!(
            (current.as_ref(), current.as_ref().unwrap().state(hours(3))),
            (Facts::of(&key).as_ref(), State::Overused)
        );
        assert_eq!(Facts::presented(&key, &Digest::of("another")), None);

        let revoked = rotated(json!({ "revoked": true }));
        assert_eq!(Facts::presented(&revoked, &Digest::of("replaced")).unwrap().state(hours(3)), State::Revoked);
        for (limit, state) in [(2, State::Revoked), (1, State::Valid)] {
            let unused = rotated(json!({ "revokeUnusedAfter": "24h", "usageLimit": limit }));
            let facts = Facts::presented(&unused, &Digest::of("replaced")).unwrap();
            assert_eq!(facts.state(hours(3)), state, "with the limit {limit}, the current key has one use");
        }
        let overlap = |overlap: &str| rotated(json!({ "rotation": { "overlap": overlap } }));
        assert_eq!(Facts::previous(&overlap("0s")).count(), 0);
        assert_eq!(Facts::previous(&overlap("1s")).count(), 1);
    }

    proptest! {
        #[test]
        fn an_expired_key_never_becomes_valid_again(
            limit in prop::option::of(0..5), revoked: bool, used in 0..9i64, later in 1..10_000_000i64, more in 0..10_000_000i64,
        ) {
            let facts = facts(limit, revoked, used);
            prop_assert_eq!(facts.state(at(later)), State::Expired);
            prop_assert_eq!(facts.state(at(later + more)), State::Expired);
        }

        #[test]
        fn more_uses_never_make_a_key_valid(
            limit in prop::option::of(0..5), used in 0..9i64, more in 0..9i64, moment in -9..9i64,
        ) {
            let before = facts(limit, false, used).state(at(moment));
            let after = facts(limit, false, used + more).state(at(moment));
            prop_assert!(before == State::Valid || after != State::Valid);
        }

        #[test]
        fn exactly_the_unexpired_unrevoked_and_unspent_are_valid(
            limit in prop::option::of(1..5), revoked: bool, used in 0..9i64, moment in -9..9i64,
        ) {
            let admits = moment <= 0 && !revoked && limit.is_none_or(|limit| used < i64::from(limit));
            prop_assert_eq!(facts(limit, revoked, used).state(at(moment)) == State::Valid, admits);
        }
    }
}
