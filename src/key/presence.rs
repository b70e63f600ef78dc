//! What is to be done about a peer that has gone quiet.
//!
//! `lastSeen` is written at most once per third of the lifetime, so a peer may have been seen that much later than it says.
//! Only a `lastSeen` that is older than both together proves that the peer was not seen for a lifetime.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::api::Timestamp;

/// A peer, as far as a decision is made from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Presence {
    /// When it joined.
    pub created: Timestamp,
    /// When it was last seen, if ever since.
    pub last_seen: Option<Timestamp>,
    /// Whether its status says that it is connected.
    pub connected: bool,
    /// Whether it is removed once it has not been seen for a lifetime.
    pub ephemeral: bool,
    /// Whether it is being deleted already.
    pub leaving: bool,
}

/// What to do next about a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerStep {
    /// Delete it, with its version as the precondition.
    Remove,
    /// Write that it is not connected.
    Disconnect,
    /// Nothing until this moment, or until something changes.
    WaitUntil(DateTime<Utc>),
    /// Nothing until something changes.
    Wait,
}

/// Decides the next step.
pub fn peer_plan(peer: Presence, lifetime: Duration, now: DateTime<Utc>) -> PeerStep {
    if peer.leaving || !(peer.ephemeral || peer.connected) {
        return PeerStep::Wait;
    }
    let seen = peer.last_seen.map_or(peer.created, |seen| seen.max(peer.created)).moment();
    let gone =
        chrono::Duration::from_std(lifetime + lifetime / 3).ok().and_then(|after| seen.checked_add_signed(after));
    match gone {
        Some(gone) if now > gone && peer.ephemeral => PeerStep::Remove,
        Some(gone) if now > gone => PeerStep::Disconnect,
        Some(gone) => PeerStep::WaitUntil(gone + super::facts::JUST_AFTER),
        None => PeerStep::Wait,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_500_000 + seconds, 0).unwrap()
    }

    /// Joined at 0.
    fn peer(ephemeral: bool, connected: bool, last_seen: Option<i64>) -> Presence {
        let last_seen = last_seen.map(|seconds| at(seconds).into());
        Presence { created: at(0).into(), last_seen, connected, ephemeral, leaving: false }
    }

    #[test]
    fn an_ephemeral_peer_is_removed_a_lifetime_and_a_third_after_it_was_last_seen() {
        for (last_seen, gone) in [(None, 800), (Some(100), 900), (Some(-100), 800)] {
            for connected in [true, false] {
                let peer = peer(true, connected, last_seen);
                let wake = at(gone) + chrono::Duration::milliseconds(1);
                assert_eq!(peer_plan(peer, LIFETIME, at(gone)), PeerStep::WaitUntil(wake));
                assert_eq!(peer_plan(peer, LIFETIME, wake), PeerStep::Remove);
            }
        }
    }

    #[test]
    fn another_peer_is_only_said_to_be_gone_and_only_once() {
        let seen = peer(false, true, Some(100));
        assert_eq!(peer_plan(seen, LIFETIME, at(901)), PeerStep::Disconnect);
        assert_eq!(peer_plan(peer(false, false, Some(100)), LIFETIME, at(901)), PeerStep::Wait);
        assert_eq!(peer_plan(peer(false, false, None), LIFETIME, at(0)), PeerStep::Wait);
    }

    #[test]
    fn what_is_being_deleted_is_left_alone() {
        let leaving = Presence { leaving: true, ..peer(true, true, None) };
        assert_eq!(peer_plan(leaving, LIFETIME, at(9000)), PeerStep::Wait);
    }

    proptest! {
        /// Its heartbeats are written at most once per third of the lifetime, so that much may be missing.
        #[test]
        fn a_peer_that_was_seen_within_a_lifetime_is_never_removed(
            lifetime in 60..100_000u64, really_seen in 0..1_000_000i64, unwritten in 0.0..1.0f64, ago in 0.0..1.0f64,
            ephemeral: bool, connected: bool,
        ) {
            let third = lifetime as f64 / 3.0;
            let written = really_seen - (third * unwritten) as i64;
            let now = really_seen + (lifetime as f64 * ago) as i64;
            let peer = peer(ephemeral, connected, Some(written));
            let step = peer_plan(peer, Duration::from_secs(lifetime), at(now));
            prop_assert!(matches!(step, PeerStep::WaitUntil(_) | PeerStep::Wait), "{:?}", step);
        }

        /// At the moment that is waited for, there is something to do.
        #[test]
        fn no_wait_is_in_vain(ephemeral: bool, connected: bool, last_seen in prop::option::of(0..9000i64), now in 0..9000i64) {
            let peer = peer(ephemeral, connected, last_seen);
            if let PeerStep::WaitUntil(moment) = peer_plan(peer, LIFETIME, at(now)) {
                prop_assert!(moment > at(now));
                prop_assert!(matches!(peer_plan(peer, LIFETIME, moment), PeerStep::Remove | PeerStep::Disconnect));
            }
        }
    }
}
