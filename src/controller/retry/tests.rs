use futures::FutureExt;

use super::*;

fn key() -> ObjectName {
    ObjectName::new("n", "k")
}

fn seen(version: &str) -> Versions {
    (Some(version.to_owned()), None)
}

fn failed(version: &str, failure: Failure) -> Failed {
    Failed { seen: seen(version), failure, asked: None, deadline: None }
}

fn now() -> DateTime<Utc> {
    "2026-11-26T06:00:00Z".parse().unwrap()
}

fn retries() -> Arc<Retries> {
    Retries::new(Budget::new()).0
}

fn is_held(retries: &Retries, version: &str) -> bool {
    matches!(retries.gate(&key(), &seen(version), now()), Gate::Closed(_))
}

/// Ends the pause as time does.
fn pass_time(retries: &Retries) {
    let mut waiting = retries.waiting.lock();
    let waiting = waiting.get_mut(&key()).unwrap();
    assert!(matches!(waiting.state, State::Pausing(_)));
    waiting.state = State::Pausing(Instant::now());
}

#[test]
fn a_failed_key_waits_unless_something_changed() {
    let retries = retries();
    retries.failed(&key(), failed("1", Failure::Passing), now());
    assert!(is_held(&retries, "1"));
    assert!(!is_held(&retries, "2"));
    retries.forget(&key());
    assert!(!is_held(&retries, "1"));
}

#[test]
fn failures_are_counted_until_a_key_is_well() {
    let retries = retries();
    assert_eq!(retries.failures(&key()), 0);
    retries.failed(&key(), failed("1", Failure::Passing), now());
    retries.failed(&key(), failed("2", Failure::Stalled), now());
    assert_eq!(retries.failures(&key()), 2);
    retries.forget(&key());
    assert_eq!(retries.failures(&key()), 0);
}

#[test]
fn pauses_grow_from_seconds_to_minutes_and_begin_again_after_a_change() {
    let retries = retries();
    let pause = |failure| retries.failed(&key(), failed("1", failure), now()).unwrap();
    let seconds = |from: f64, to: f64| Duration::from_secs_f64(from)..=Duration::from_secs_f64(to);
    for (from, to) in [(1.5, 3.0), (3.0, 6.0), (6.0, 12.0), (12.0, 24.0)] {
        let pause = pause(Failure::Stalled);
        assert!(seconds(from, to).contains(&pause), "{pause:?} is not within {from} s and {to} s");
    }
    for _ in 0..20 {
        assert!(pause(Failure::Stalled) <= LONGEST);
    }
    assert!(pause(Failure::Stalled) >= LONGEST / 2);
    assert!(!is_held(&retries, "2"));
    assert!(pause(Failure::Stalled) <= FIRST * 2);
}

#[test]
fn what_may_pass_is_retried_quickly_at_first() {
    let retries = retries();
    let pause = || retries.failed(&key(), failed("1", Failure::Passing), now()).unwrap();
    let quick: Vec<_> = (0..QUICK_FAILURES).map(|_| pause()).collect();
    assert!(quick[0] <= QUICK.0 * 2 && quick.iter().all(|pause| *pause <= QUICK.1), "{quick:?}");
    let later: Vec<_> = (0..20).map(|_| pause()).collect();
    assert!(later[0] <= FIRST * 2 && later[19] >= LONGEST / 2, "{later:?}");
}

#[test]
fn the_api_server_is_left_alone_for_as_long_as_it_asks() {
    let retries = retries();
    let asked = Duration::from_secs(600);
    let failed = Failed { asked: Some(asked), ..failed("1", Failure::Passing) };
    assert_eq!(retries.failed(&key(), failed, now()), Some(asked));
}

#[test]
fn a_moment_of_the_clock_ends_a_pause() {
    let retries = retries();
    let (expiry, asked) = (now() + chrono::Duration::seconds(2), Some(Duration::from_secs(60)));
    let failed = Failed { asked, deadline: Some(expiry), ..failed("1", Failure::Stalled) };
    assert_eq!(retries.failed(&key(), failed, now()), Some(Duration::from_secs(2)));
    assert!(is_held(&retries, "1"));
    assert_eq!(retries.gate(&key(), &seen("1"), expiry), Gate::Open);
}

#[tokio::test]
async fn after_its_pause_a_key_waits_for_its_turn() {
    let budget = Budget::new();
    let (retries, turns) = Retries::new(budget.clone());
    let mut turns = std::pin::pin!(turns);
    retries.failed(&key(), failed("1", Failure::Stalled), now());
    pass_time(&retries);
    assert!(is_held(&retries, "1"), "it does not wait for its turn");
    assert!(turns.next().now_or_never().is_none());
    tokio::select! {
        () = budget.run() => unreachable!(),
        turn = turns.next() => assert_eq!(turn, Some(key())),
    }
    assert!(!is_held(&retries, "1"));
    retries.failed(&key(), failed("1", Failure::Stalled), now());
    assert!(is_held(&retries, "1"));
}

#[tokio::test]
async fn news_ends_a_pause_and_is_not_lost_during_a_pass() {
    let budget = Budget::new();
    let (retries, turns) = Retries::new(budget.clone());
    let mut turns = std::pin::pin!(turns);
    tokio::spawn(budget.run());
    retries.wake(&key()); // A key that does not wait needs none.
    retries.failed(&key(), failed("1", Failure::Stalled), now());
    retries.wake(&key());
    assert_eq!(turns.next().await, Some(key()));
    assert!(!is_held(&retries, "1"));
    retries.wake(&key());
    assert_eq!(retries.failed(&key(), failed("1", Failure::Stalled), now()), None);
    assert_eq!(turns.next().await, Some(key()));
}

#[tokio::test]
async fn a_key_that_is_well_or_gone_takes_no_turn_of_another() {
    let budget = Budget::new();
    let (retries, turns) = Retries::new(budget.clone());
    let mut turns = std::pin::pin!(turns);
    tokio::spawn(budget.run());
    for number in 0..100 {
        retries.failed(&key(), failed("1", Failure::Stalled), now());
        retries.wake(&key());
        if number % 2 == 0 {
            assert_eq!(turns.next().await, Some(key()));
            assert!(!is_held(&retries, "1"));
        }
        retries.forget(&key());
    }
    assert!(retries.waiting.lock().is_empty(), "it remembers what is over");
}
