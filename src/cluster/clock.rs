//! The wall clock, and a stream of its jumps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{Stream, stream};

/// How often the wall clock is compared with the monotonic clock.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// Smaller differences are NTP adjusting the clock.
const STEP: chrono::Duration = chrono::Duration::milliseconds(500);

/// The wall clock. Tests replace it, because a key lives at least a day.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// An item after each jump of the wall clock: it was set, or the machine was suspended. Timers do not follow such jumps, so
/// code that waits for a point in time must compute its wait again.
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
