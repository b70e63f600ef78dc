//! The pauses of objects whose last pass failed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kube::runtime::watcher::ExponentialBackoff;
use parking_lot::Mutex;

use crate::cluster::{ObjectName, backoff};

/// The first pause, doubled on each failure.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest pause: a repair shows within this much time.
const LONGEST: Duration = Duration::from_secs(3);

/// The versions that a pass saw: of the object, and of the Secret that belongs to it.
pub type Versions = (Option<String>, Option<String>);

/// The objects that wait for another try.
#[derive(Default)]
pub struct Retries {
    waiting: Mutex<HashMap<ObjectName, Waiting>>,
}

struct Waiting {
    backoff: ExponentialBackoff,
    failures: u32,
    seen: Versions,
    until: Instant,
}

impl Retries {
    /// How much longer this object waits, or `None` when it may be tried: its time has come, or it has changed.
    ///
    /// Without this, the watch event of a status that reports a failure would start the next try at once.
    pub fn hold(&self, object: &ObjectName, seen: &Versions) -> Option<Duration> {
        let waiting = self.waiting.lock();
        let waiting = waiting.get(object)?;
        let left = waiting.until.saturating_duration_since(Instant::now());
        (waiting.seen == *seen && !left.is_zero()).then_some(left)
    }

    /// How many passes over this object have failed in a row.
    pub fn failures(&self, object: &ObjectName) -> u32 {
        self.waiting.lock().get(object).map_or(0, |waiting| waiting.failures)
    }

    /// Notes a failure and returns the pause: at least what was `asked` for, and with jitter, so that objects that failed
    /// together do not return together.
    pub fn failed(&self, object: &ObjectName, seen: Versions, asked: Option<Duration>) -> Duration {
        let mut waiting = self.waiting.lock();
        let waiting = waiting.entry(object.clone()).or_insert_with(|| Waiting {
            backoff: backoff(SHORTEST, LONGEST),
            failures: 0,
            seen: Versions::default(),
            until: Instant::now(),
        });
        let pause = waiting.backoff.next().unwrap_or(LONGEST).max(asked.unwrap_or_default());
        waiting.failures = waiting.failures.saturating_add(1);
        waiting.seen = seen;
        waiting.until = Instant::now() + pause;
        pause
    }

    /// Notes that an object is well, or gone.
    pub fn forget(&self, object: &ObjectName) {
        self.waiting.lock().remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ObjectName {
        ObjectName::new("n", "k")
    }

    fn seen(version: &str) -> Versions {
        (Some(version.to_owned()), None)
    }

    #[test]
    fn a_failed_key_waits_unless_something_changed() {
        let retries = Retries::default();
        retries.failed(&key(), seen("1"), None);
        assert!(retries.hold(&key(), &seen("1")).is_some());
        assert!(retries.hold(&key(), &seen("2")).is_none());
        retries.forget(&key());
        assert!(retries.hold(&key(), &seen("1")).is_none());
    }

    #[test]
    fn failures_are_counted_until_a_key_is_well() {
        let retries = Retries::default();
        assert_eq!(retries.failures(&key()), 0);
        retries.failed(&key(), seen("1"), None);
        retries.failed(&key(), seen("2"), None);
        assert_eq!(retries.failures(&key()), 2);
        retries.forget(&key());
        assert_eq!(retries.failures(&key()), 0);
    }

    #[test]
    fn the_api_server_is_left_alone_for_as_long_as_it_asks() {
        let retries = Retries::default();
        let asked = Duration::from_secs(60);
        assert_eq!(retries.failed(&key(), seen("1"), Some(asked)), asked);
    }
}
