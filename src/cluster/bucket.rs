use std::time::{Duration, Instant};

/// A token bucket: a burst of tokens at once after a quiet time, and then one in each period.
///
/// The moment is an argument, so a test of what it paces needs no time.
#[derive(Debug)]
pub struct Bucket {
    burst: u32,
    period: Duration,
    /// When the bucket would be full, if no more tokens were taken.
    full: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(burst: u32, period: Duration, now: Instant) -> Self {
        Self { burst, period, full: now }
    }

    /// When there is a token: `now`, or later.
    pub fn next(&self, now: Instant) -> Instant {
        let full_after = self.full.max(now) + self.period;
        full_after.checked_sub(self.period * self.burst).map_or(now, |next| next.max(now))
    }

    /// Takes a token, and returns when it may be used.
    pub fn take(&mut self, now: Instant) -> Instant {
        let next = self.next(now);
        self.full = self.full.max(now) + self.period;
        next
    }

    /// Puts a token back.
    pub fn put_back(&mut self) {
        self.full = self.full.checked_sub(self.period).unwrap_or(self.full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(50);

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_a_steady_pace() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut bucket = Bucket::new(100, PERIOD, start);
        let times: Vec<_> = (0..103).map(|_| bucket.take(start) - start).collect();
        assert!(times[..100].iter().all(Duration::is_zero), "{times:?}");
        assert_eq!(times[100..], [PERIOD, PERIOD * 2, PERIOD * 3]);
        // After a quiet time there may be another burst.
        let later = start + PERIOD * 200;
        assert_eq!(bucket.take(later), later);
    }

    #[test]
    fn a_token_that_was_put_back_can_be_taken_again() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut bucket = Bucket::new(1, PERIOD, start);
        bucket.take(start);
        assert_eq!(bucket.next(start), start + PERIOD);
        bucket.put_back();
        assert_eq!(bucket.take(start), start);
    }
}
