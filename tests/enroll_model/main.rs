//! Every order of events in small worlds. The ledger's protocol keeps its promises in all of them. Each mutant leaves a
//! step out, and breaks a promise.

mod follow;
mod model;

use std::collections::BTreeSet;

use model::{
    ANSWERED_HAS_PEER, Change, ENDED_IS_ENDED, Enrollment, Forgotten, GONE_IS_GONE, LIMIT, Mutant, NEVER_DOWN,
    ONE_USE_PER_PEER, PENDING_EMPTIES, REVOKED_IS_REVOKED, SIGHTS, USES_DIFFER,
};
use stateright::{Checker, HasDiscoveries, Model, Path};

const PROMISES: [&str; 9] = [
    LIMIT,
    ONE_USE_PER_PEER,
    NEVER_DOWN,
    USES_DIFFER,
    REVOKED_IS_REVOKED,
    ENDED_IS_ENDED,
    GONE_IS_GONE,
    ANSWERED_HAS_PEER,
    PENDING_EMPTIES,
];

/// Two machines, one use, and no faults.
const CALM: Enrollment = Enrollment {
    replicas: 2,
    limit: 1,
    asks: &[1, 1],
    crashes: 0,
    losses: 0,
    removals: 0,
    changes: &[],
    looks_again: true,
    follows: false,
    interruptions: 0,
    compactions: 0,
    rotates: false,
    mutant: None,
};

/// One machine that asks twice with the same token, and all faults.
const RETRY: Enrollment = Enrollment { asks: &[2], limit: 2, crashes: 1, losses: 1, removals: 1, ..CALM };

/// One machine that asks twice, at replicas that follow keys and Peers.
const FOLLOWED: Enrollment = Enrollment { asks: &[2], limit: 2, follows: true, ..CALM };

/// Two machines, two replicas, and a key that is rotated meanwhile.
const ROTATED: Enrollment = Enrollment { rotates: true, ..CALM };

const REVOKED: &[Change] = &[Change::Revoke];
const REVOKED_AND_BACK: &[Change] = &[Change::Revoke, Change::Unrevoke];
const DELETED: &[Change] = &[Change::Delete];
const REVOKED_AND_DELETED: &[Change] = &[Change::Revoke, Change::Delete];

fn steps(path: Path<model::World, model::Step>) -> String {
    path.into_actions().iter().map(|step| format!("  {step:?}\n")).collect()
}

/// Explores every state of a world, and returns the sights in it.
fn explore(name: &str, world: Enrollment) -> Vec<&'static str> {
    let checker = world.checker().threads(2).spawn_bfs().join();
    assert!(checker.is_done());
    println!("enroll_model: {name}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    let found = checker.discoveries();
    for promise in PROMISES {
        if let Some(path) = found.get(promise) {
            panic!("{name} breaks {promise:?}:\n{}", steps(path.clone()));
        }
    }
    found.into_keys().collect()
}

/// Looks for an order of events in which a mutant breaks a promise.
fn breaks(world: Enrollment, promise: &'static str) {
    let mutant = world.mutant.expect("a mutant");
    let found = HasDiscoveries::AnyOf([promise].into());
    let checker = world.checker().threads(1).finish_when(found).spawn_bfs().join();
    let path = checker
        .discovery(promise)
        .unwrap_or_else(|| panic!("{mutant:?} keeps {promise:?} in all of {} states", checker.unique_state_count()));
    println!("enroll_model: {mutant:?} breaks {promise:?}:\n{}", steps(path));
}

#[test]
fn every_promise_holds_in_every_world() {
    let worlds = [
        (
            "one machine asks at three replicas, two processes die",
            Enrollment { replicas: 3, asks: &[3], limit: 3, crashes: 2, ..RETRY },
        ),
        ("two machines for one use", Enrollment { asks: &[2, 1], crashes: 1, losses: 1, ..CALM }),
        ("two machines, one is sent away", Enrollment { asks: &[2, 1], limit: 2, removals: 1, ..CALM }),
        ("three machines at three replicas", Enrollment { replicas: 3, asks: &[2, 1, 1], ..CALM }),
        ("four machines for one use", Enrollment { asks: &[1, 1, 1, 1], ..CALM }),
        ("revoked and back", Enrollment { changes: REVOKED_AND_BACK, asks: &[2, 1], losses: 1, ..CALM }),
        ("deleted", Enrollment { changes: DELETED, asks: &[2, 1], losses: 1, removals: 1, ..CALM }),
        ("revoked and deleted", Enrollment { changes: REVOKED_AND_DELETED, removals: 2, ..RETRY }),
        ("no second look", Enrollment { looks_again: false, losses: 2, removals: 2, changes: DELETED, ..RETRY }),
    ];
    let followed = [
        ("followed: two machines for one use", Enrollment { asks: &[2, 1], limit: 1, losses: 1, ..FOLLOWED }),
        ("followed: two machines, one is sent away", Enrollment { asks: &[2, 1], removals: 1, ..FOLLOWED }),
        ("followed: a process dies, a reply is lost", Enrollment { follows: true, ..RETRY }),
        (
            "followed: a process dies, a watch is interrupted",
            Enrollment { crashes: 1, interruptions: 1, removals: 1, ..FOLLOWED },
        ),
        ("followed: watches are interrupted", Enrollment { interruptions: 2, removals: 1, ..FOLLOWED }),
        (
            "followed: two machines for one use, a watch is interrupted",
            Enrollment { asks: &[2, 1], limit: 1, interruptions: 1, ..FOLLOWED },
        ),
        (
            "followed: one machine asks at three replicas, a watch is interrupted",
            Enrollment { replicas: 3, asks: &[3], limit: 3, interruptions: 1, ..FOLLOWED },
        ),
        (
            "followed: one machine asks three times, is sent away, and a watch is interrupted",
            Enrollment { asks: &[3], limit: 3, removals: 1, interruptions: 1, ..FOLLOWED },
        ),
    ];
    let rotated = [
        ("rotated: two machines for one use of each key", ROTATED),
        ("rotated: one machine asks twice, a process dies", Enrollment { asks: &[2], crashes: 1, ..ROTATED }),
        ("rotated: one machine asks twice, a reply is lost", Enrollment { asks: &[2], losses: 1, ..ROTATED }),
        ("rotated: one machine is sent away and joins again", Enrollment { asks: &[2], removals: 1, ..ROTATED }),
        ("rotated: both keys are revoked", Enrollment { changes: REVOKED, ..ROTATED }),
        ("rotated: revoked, back and lost", Enrollment { asks: &[1], losses: 1, changes: REVOKED_AND_BACK, ..ROTATED }),
        (
            "rotated and followed: a watch is interrupted",
            Enrollment { asks: &[2], interruptions: 1, follows: true, ..ROTATED },
        ),
    ];
    let worlds = worlds.into_iter().chain(followed).chain(rotated);
    let seen: BTreeSet<_> = worlds.flat_map(|(name, world)| explore(name, world)).collect();
    // Without these sights, the promises would hold only because nothing happens.
    assert_eq!(seen, SIGHTS.into());
}

#[test]
fn every_mutant_breaks_a_promise() {
    let deleted = Enrollment { asks: &[1], changes: DELETED, ..RETRY };
    let revoked = Enrollment { changes: REVOKED, ..RETRY };
    let rotated_and_revoked = Enrollment { changes: REVOKED, ..ROTATED };
    let two_for_one = Enrollment { losses: 1, ..CALM };
    let interrupted = Enrollment { interruptions: 1, ..FOLLOWED };
    let joins_again = Enrollment { asks: &[3], limit: 3, removals: 1, ..FOLLOWED };
    let forgotten = Enrollment { compactions: 1, ..RETRY };
    let sent_away_twice = Enrollment { losses: 0, removals: 2, ..RETRY };
    for (mutant, world, promises) in [
        (Mutant::Refund, RETRY, [NEVER_DOWN, ONE_USE_PER_PEER].as_slice()),
        (Mutant::NoCompareAndSwap, RETRY, &[NEVER_DOWN, GONE_IS_GONE]),
        (Mutant::NoCompareAndSwap, revoked, &[REVOKED_IS_REVOKED]),
        (Mutant::NoCompareAndSwap, two_for_one, &[ONE_USE_PER_PEER]),
        (Mutant::NoFinalizer, RETRY, &[GONE_IS_GONE]),
        (Mutant::History(Forgotten::Creates), forgotten, &[GONE_IS_GONE]),
        (Mutant::History(Forgotten::Clears), forgotten, &[ONE_USE_PER_PEER]),
        (Mutant::History(Forgotten::Leaves), forgotten, &[PENDING_EMPTIES]),
        (Mutant::PeersBeforeKey, RETRY, &[ONE_USE_PER_PEER]),
        (Mutant::OwnerWithoutLimit, two_for_one, &[LIMIT]),
        (Mutant::OwnerWithoutEnd, RETRY, &[GONE_IS_GONE]),
        (Mutant::ClearWithoutEnd, RETRY, &[GONE_IS_GONE]),
        (Mutant::ReleasedWithTheKey, deleted, &[GONE_IS_GONE]),
        (Mutant::ClearByName, RETRY, &[ONE_USE_PER_PEER]),
        (Mutant::ReleaseByName, sent_away_twice, &[GONE_IS_GONE]),
        (Mutant::AnswerWithTheSwap, two_for_one, &[ANSWERED_HAS_PEER]),
        (Mutant::NothingRollsForward, RETRY, &[PENDING_EMPTIES]),
        (Mutant::NothingExpected, FOLLOWED, &[ONE_USE_PER_PEER]),
        (Mutant::MetByAnyEvent, joins_again, &[ONE_USE_PER_PEER]),
        (Mutant::TrustedAfterInterruption, interrupted, &[ONE_USE_PER_PEER]),
        (Mutant::ListBegunBefore, interrupted, &[ONE_USE_PER_PEER]),
        (Mutant::PendingMetByList, interrupted, &[ONE_USE_PER_PEER]),
        (Mutant::ViewWithoutFollowing, interrupted, &[ONE_USE_PER_PEER]),
        (Mutant::NoCompareAndSwap, ROTATED, &[NEVER_DOWN, USES_DIFFER]),
        (Mutant::NumberWithoutId, ROTATED, &[ONE_USE_PER_PEER]),
        (Mutant::ReplacedNotCounted, ROTATED, &[ONE_USE_PER_PEER, LIMIT, USES_DIFFER]),
        (Mutant::ReplacedCountedOnCurrent, ROTATED, &[ONE_USE_PER_PEER, LIMIT]),
        (Mutant::ReplacedWithoutEnd, ROTATED, &[ENDED_IS_ENDED]),
        (Mutant::ReplacedOutlivesRevocation, rotated_and_revoked, &[REVOKED_IS_REVOKED]),
    ] {
        for promise in promises {
            breaks(Enrollment { mutant: Some(mutant), ..world }, promise);
        }
    }
}
