//! When a key that failed is tried again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kube::runtime::watcher::ExponentialBackoff;
use parking_lot::{Mutex, MutexGuard};

use crate::cluster::{ObjectName, backoff};

/// The first wait, doubled on each failure.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest wait: after a repair, all is well within this.
const LONGEST: Duration = Duration::from_secs(3);

/// What a pass saw: the versions of the `SetupKey` and of its Secret in the caches.
pub type Seen = (Option<String>, Option<String>);

/// The keys that wait for another try.
#[derive(Default)]
pub struct Retries {
    waiting: Mutex<HashMap<ObjectName, Waiting>>,
}

struct Waiting {
    backoff: ExponentialBackoff,
    seen: Seen,
    until: Instant,
}

impl Retries {
    /// How much longer this key waits, or `None` when it may be tried: its time has come, or something changed.
    ///
    /// Without this, the echo of a status that reports a failure would set off the next try at once.
    pub fn hold(&self, key: &ObjectName, seen: &Seen) -> Option<Duration> {
        let waiting = self.waiting();
        let waiting = waiting.get(key)?;
        let left = waiting.until.saturating_duration_since(Instant::now());
        (waiting.seen == *seen && !left.is_zero()).then_some(left)
    }

    /// Notes a failure and tells how long to wait: as long as the API server asked for at least, and with jitter, so that
    /// keys that failed together do not return together.
    pub fn failed(&self, key: ObjectName, seen: Seen, asked: Option<Duration>) -> Duration {
        let mut waiting = self.waiting();
        let waiting = waiting.entry(key).or_insert_with(|| Waiting {
            backoff: backoff(SHORTEST, LONGEST),
            seen: Seen::default(),
            until: Instant::now(),
        });
        let wait = waiting.backoff.next().unwrap_or(LONGEST).max(asked.unwrap_or_default());
        waiting.seen = seen;
        waiting.until = Instant::now() + wait;
        wait
    }

    /// Notes that a key is well, or gone.
    pub fn forget(&self, key: &ObjectName) {
        self.waiting().remove(key);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<ObjectName, Waiting>> {
        self.waiting.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ObjectName {
        ObjectName::new("n", "k")
    }

    fn seen(version: &str) -> Seen {
        (Some(version.to_owned()), None)
    }

    #[test]
    fn a_failed_key_waits_unless_something_changed() {
        let retries = Retries::default();
        retries.failed(key(), seen("1"), None);
        assert!(retries.hold(&key(), &seen("1")).is_some());
        assert!(retries.hold(&key(), &seen("2")).is_none());
        retries.forget(&key());
        assert!(retries.hold(&key(), &seen("1")).is_none());
    }

    #[test]
    fn the_api_server_is_left_alone_for_as_long_as_it_asks() {
        let retries = Retries::default();
        let asked = Duration::from_secs(60);
        assert_eq!(retries.failed(key(), seen("1"), Some(asked)), asked);
    }
}
