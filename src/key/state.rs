use chrono::{DateTime, Utc};

use crate::api::{SetupKeySpec, State, Timestamp};

/// What was counted and fixed for a key since it was issued.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// The last second in which the key admits peers.
    pub expires: Timestamp,
    /// Distinct peers ever admitted.
    pub used_times: i64,
}

/// Whether a key admits peers at this moment, and why not. The one answer for every part of the product.
///
/// Expired before revoked before overused before valid; expired only once the moment has passed. NetBird:
/// setupkey.go, IsExpired and IsOverUsed; the order is that of its REST handler.
pub fn state(spec: &SetupKeySpec, ledger: Ledger, now: DateTime<Utc>) -> State {
    let used_up = spec.effective_usage_limit().is_some_and(|limit| ledger.used_times >= limit.into());
    if now > ledger.expires.instant() {
        State::Expired
    } else if spec.revoked {
        State::Revoked
    } else if used_up {
        State::Overused
    } else {
        State::Valid
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use proptest::prelude::*;

    use super::*;
    use crate::api::{KeyType, SetupKeySpec};

    fn spec(key_type: KeyType, usage_limit: i32, revoked: bool) -> SetupKeySpec {
        SetupKeySpec { key_type, usage_limit, revoked, ..serde_json::from_str("{}").unwrap() }
    }

    fn expires() -> Timestamp {
        "2026-11-24T06:00:00Z".parse().unwrap()
    }

    fn at(milliseconds: i64) -> DateTime<Utc> {
        expires().instant() + Duration::milliseconds(milliseconds)
    }

    fn ledger(used_times: i64) -> Ledger {
        Ledger { expires: expires(), used_times }
    }

    #[test]
    fn expired_wins_over_revoked_wins_over_overused() {
        let key = spec(KeyType::Reusable, 3, true);
        assert_eq!(state(&key, ledger(3), at(1)), State::Expired);
        assert_eq!(state(&key, ledger(3), at(0)), State::Revoked);
        assert_eq!(state(&SetupKeySpec { revoked: false, ..key }, ledger(3), at(0)), State::Overused);
    }

    #[test]
    fn a_key_is_valid_up_to_and_including_its_last_moment() {
        let key = spec(KeyType::Reusable, 0, false);
        assert_eq!(state(&key, ledger(0), at(0)), State::Valid);
        assert_eq!(state(&key, ledger(0), at(1)), State::Expired);
    }

    #[test]
    fn zero_is_no_limit() {
        assert_eq!(state(&spec(KeyType::Reusable, 0, false), ledger(1_000_000), at(0)), State::Valid);
    }

    #[test]
    fn a_one_off_key_is_used_up_by_one_whatever_its_limit_says() {
        for limit in [0, 1] {
            let key = spec(KeyType::OneOff, limit, false);
            assert_eq!(state(&key, ledger(0), at(0)), State::Valid);
            assert_eq!(state(&key, ledger(1), at(0)), State::Overused);
        }
    }

    proptest! {
        #[test]
        fn an_expired_key_never_becomes_valid_again(
            limit in 0..5, revoked: bool, used in 0..9i64, later in 1..10_000_000i64, more in 0..10_000_000i64,
        ) {
            let key = spec(KeyType::Reusable, limit, revoked);
            prop_assert_eq!(state(&key, ledger(used), at(later)), State::Expired);
            prop_assert_eq!(state(&key, ledger(used), at(later + more)), State::Expired);
        }

        #[test]
        fn more_uses_never_make_a_key_valid(limit in 0..5, used in 0..9i64, more in 0..9i64, moment in -9..9i64) {
            let key = spec(KeyType::Reusable, limit, false);
            let (before, after) = (state(&key, ledger(used), at(moment)), state(&key, ledger(used + more), at(moment)));
            prop_assert!(before == State::Valid || after != State::Valid);
        }

        #[test]
        fn exactly_the_unexpired_unrevoked_and_unspent_are_valid(
            limit in 0..5, revoked: bool, used in 0..9i64, moment in -9..9i64,
        ) {
            let admits = moment <= 0 && !revoked && (limit == 0 || used < i64::from(limit));
            let key = spec(KeyType::Reusable, limit, revoked);
            prop_assert_eq!(state(&key, ledger(used), at(moment)) == State::Valid, admits);
        }
    }
}
