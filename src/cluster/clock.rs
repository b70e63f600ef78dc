//! The wall clock, and its steps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{Stream, stream};

/// How often the wall clock is compared with the machine's steady one.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// A smaller difference is the clock being disciplined.
const STEP: chrono::Duration = chrono::Duration::milliseconds(500);

/// The wall clock. The one thing that tests replace: a key cannot be made to live less than a day.
pub trait Clock: Send + Sync {
    /// The moment.
    fn now(&self) -> DateTime<Utc>;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// An item each time the wall clock has jumped: it was set, or the machine slept. Timers do not follow such jumps, so a task
/// that waits for a moment must compute its timer again.
pub fn steps(clock: Arc<dyn Clock>) -> impl Stream<Item = ()> + Send {
    stream::unfold(Reading::take(&*clock), move |mut last| {
        let clock = Arc::clone(&clock);
        async move {
            loop {
                tokio::time::sleep(CHECK_PERIOD).await;
                let reading = Reading::take(&*clock);
                let passed = chrono::Duration::from_std(reading.steady - last.steady).unwrap_or_default();
                let step = (reading.wall - last.wall) - passed;
                last = reading;
                if step.abs() > STEP {
                    tracing::info!(milliseconds = step.num_milliseconds(), "the wall clock was moved");
                    return Some(((), last));
                }
            }
        }
    })
}

/// Both clocks at one moment.
struct Reading {
    wall: DateTime<Utc>,
    steady: Instant,
}

impl Reading {
    fn take(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), steady: Instant::now() }
    }
}
