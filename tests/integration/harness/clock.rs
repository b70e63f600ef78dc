//! The clock of a controller or a replica under test.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, Utc};
use setupkey_operator::cluster::Clock;

/// The wall clock, shifted.
#[derive(Clone, Default)]
pub struct TestClock {
    ahead_milliseconds: Arc<AtomicI64>,
}

impl TestClock {
    /// Steps the clock while it runs.
    pub fn step(&self, by: chrono::Duration) {
        self.ahead_milliseconds.fetch_add(by.num_milliseconds(), Ordering::Relaxed);
    }

    /// A clock that reads `moment` now.
    pub fn reading(moment: DateTime<Utc>) -> Self {
        let ahead = (moment - Utc::now()).num_milliseconds();
        Self { ahead_milliseconds: Arc::new(AtomicI64::new(ahead)) }
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::milliseconds(self.ahead_milliseconds.load(Ordering::Relaxed))
    }
}
