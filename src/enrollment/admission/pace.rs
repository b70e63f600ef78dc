//! When the next swap of a key is sent. Pure: the moment and the random numbers are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// How long entries wait to be cleared together with the entries of the next machines.
const CLEAR_AFTER: Duration = Duration::from_secs(1);

/// How long entries wait to be cleared while machines wait to be admitted, with this key or another.
const LATE: Duration = Duration::from_secs(4);

/// How long machines wait for the Peers of the machines before them. Then one swap admits the former and clears the latter.
const TOGETHER: Duration = Duration::from_secs(1);

/// How long machines wait when `pending` has too little room for them.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// So much room is worth a swap, if as many machines wait: each swap writes all of `pending`.
const WORTHWHILE: usize = 25;

/// The widest jitter window.
const WIDEST: Duration = Duration::from_secs(2);

/// The pause after a swap that failed, unless the API server asks for another.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Swaps that may fail in a row before the waiting machines are answered with 503.
const FAILURES: u32 = 3;

/// What there is to do for a key.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Machines that wait to be admitted.
    pub waiting: usize,
    /// Peers that are being created.
    pub creating: usize,
    /// Room in `pending`, including the entries that the next swap clears.
    pub places: usize,
    /// Since when the first clearable entry has been clearable.
    pub clearable_since: Option<Instant>,
    /// Whether machines wait for an answer, with this key or another.
    pub others_wait: bool,
    /// Whether the replica ends.
    pub ending: bool,
}

impl Load {
    /// From when a swap may be sent in addition to the usual number, because entries have waited too long. `None` if there
    /// is nothing to clear.
    pub fn late_from(&self) -> Option<Instant> {
        self.clearable_since.map(|since| if self.waiting == 0 { since } else { since + LATE })
    }
}

/// What to do after a swap that failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AfterFailure {
    /// Try again.
    Again,
    /// Answer the waiting machines with 503.
    GiveUp,
}

/// The history of a key's swaps, as far as it matters for the next one.
#[derive(Clone, Debug)]
pub struct Pace {
    /// When the latest successful swap was sent.
    last: Option<Instant>,
    /// No swap is sent before that.
    not_before: Instant,
    /// Jitter window for the next swap: doubled when one is lost to another replica, shrunk by a quarter when one succeeds.
    /// So the swaps of several replicas get out of each other's way, and more machines share one.
    window: Duration,
    /// Swaps that failed in a row, other than by being lost.
    failures: u32,
}

impl Pace {
    /// Nothing was sent yet.
    pub fn new(now: Instant) -> Self {
        Self { last: None, not_before: now, window: Duration::ZERO, failures: 0 }
    }

    /// When to send the next swap: now, at a later moment, or `None` while there is nothing to write.
    ///
    /// A later moment is when to ask again. The answer may have changed by then, and with each change of the load.
    pub fn next(&self, load: &Load, now: Instant) -> Option<Instant> {
        let next = match (load.waiting, load.clearable_since, self.last) {
            (0, None, _) => return None,
            (0, Some(_), _) if load.ending => now,
            (0, Some(since), _) if load.others_wait => put_off(since, now),
            (0, Some(since), _) => since + CLEAR_AFTER,
            (waiting, _, Some(last)) if load.places < waiting.min(WORTHWHILE) => last + FULL_PAUSE,
            (_, _, Some(last)) if load.creating > 0 => last + TOGETHER,
            (_, _, _) => now,
        };
        Some(next.max(self.not_before))
    }

    /// A swap succeeded. `random` is from 0 to 1.
    pub fn won(&mut self, sent: Instant, now: Instant, random: f64) {
        (self.last, self.failures) = (Some(sent), 0);
        self.window = self.window * 3 / 4;
        self.not_before = now + self.window.mul_f64(random);
    }

    /// A swap was lost to another writer. The window is at least twice the time that the swap took.
    pub fn lost(&mut self, sent: Instant, now: Instant, random: f64) {
        self.window = (2 * self.window.max(now - sent)).min(WIDEST);
        self.not_before = now + self.window.mul_f64(random);
    }

    /// A swap failed, and its outcome may be unknown. `asked` is the pause that the API server asks for.
    pub fn failed(&mut self, now: Instant, asked: Option<Duration>) -> AfterFailure {
        self.failures += 1;
        self.not_before = now + asked.unwrap_or(FAILURE_PAUSE);
        if self.failures < FAILURES {
            return AfterFailure::Again;
        }
        self.failures = 0;
        AfterFailure::GiveUp
    }

    /// A round failed before a swap was sent, or after several swaps failed.
    pub fn pause_after_failure(&mut self, now: Instant) {
        self.not_before = self.not_before.max(now + FAILURE_PAUSE);
    }

    /// There was no room in `pending` for a machine.
    pub fn full(&mut self, now: Instant) {
        self.not_before = now + FULL_PAUSE;
    }
}

/// Machines that wait come before entries that wait to be cleared, until these are late.
fn put_off(since: Instant, now: Instant) -> Instant {
    let mut next = since + CLEAR_AFTER;
    while next <= now && next < since + LATE {
        next += CLEAR_AFTER;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Each row: the load, when the latest swap was sent, and when the next is, all in milliseconds from the start. It is
    /// the 10th second.
    #[test]
    fn when_the_next_swap_is_sent() {
        let start = Instant::now();
        let now = 10_000;
        let load = |waiting, creating, places| Load { waiting, creating, places, ..Load::default() };
        let clear = |since| Load { clearable_since: Some(start + ms(since)), places: 200, ..Load::default() };
        let busy = |since| Load { others_wait: true, ..clear(since) };
        let rows = [
            ("there is nothing to do", load(0, 0, 200), Some(9_000), None),
            ("Peers are being created and no machine waits", load(0, 5, 200), Some(9_000), None),
            ("a machine comes, and nothing was ever sent", load(1, 0, 200), None, Some(now)),
            ("a machine comes, and all Peers are created", load(1, 0, 200), Some(9_990), Some(now)),
            ("a machine waits for the Peers of others", load(1, 5, 200), Some(9_500), Some(10_500)),
            ("it has waited for them long enough", load(1, 5, 200), Some(8_500), Some(9_500)),
            ("pending is full", load(1, 0, 0), Some(9_950), Some(10_050)),
            ("pending has less room than is worth a swap", load(60, 5, 24), Some(9_950), Some(10_050)),
            ("pending has room that is worth a swap", load(60, 0, 25), Some(9_950), Some(now)),
            ("pending has room for the few that wait", load(3, 0, 3), Some(9_950), Some(now)),
            ("pending is full, and nothing was ever sent here", load(1, 0, 0), None, Some(now)),
            ("an entry is clearable", clear(9_900), Some(9_000), Some(10_900)),
            ("an entry was clearable for long enough", clear(8_900), Some(8_000), Some(9_900)),
            ("others wait: an entry is put off by a second", busy(9_000), Some(9_000), Some(11_000)),
            ("others wait: by another second", busy(7_500), Some(7_000), Some(10_500)),
            ("others wait: until it is late", busy(6_000), Some(5_000), Some(10_000)),
            ("others wait: and no later", busy(2_000), Some(2_000), Some(6_000)),
            ("the replica ends", Load { ending: true, ..busy(9_900) }, Some(9_900), Some(now)),
            ("a machine waits, and an entry goes with it", Load { waiting: 1, ..clear(9_990) }, Some(9_900), Some(now)),
        ];
        for (row, load, last, next) in rows {
            let pace = Pace { last: last.map(|last| start + ms(last)), ..Pace::new(start) };
            let found = pace.next(&load, start + ms(now));
            assert_eq!(found.map(|next| next - start), next.map(ms), "{row}");
        }
    }

    #[test]
    fn no_swap_is_sent_before_its_time() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.full(now);
        let load = Load { waiting: 1, places: 200, ..Load::default() };
        assert_eq!(pace.next(&load, now), Some(now + FULL_PAUSE));
        assert_eq!(pace.next(&Load::default(), now), None);
    }

    #[test]
    fn an_additional_swap_is_for_entries_that_are_late() {
        let now = Instant::now();
        let load = |waiting, clearable_since| Load { waiting, clearable_since, ..Load::default() }.late_from();
        assert_eq!(load(1, None), None);
        assert_eq!(load(0, Some(now)), Some(now));
        assert_eq!(load(1, Some(now)), Some(now + LATE));
    }

    #[test]
    fn the_jitter_window_doubles_with_each_loss_and_shrinks_with_each_success() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let window = |pace: &Pace| pace.not_before - now;
        pace.lost(now - ms(50), now, 1.0);
        assert_eq!(window(&pace), ms(100), "twice what the swap took");
        pace.lost(now - ms(10), now, 1.0);
        assert_eq!(window(&pace), ms(200), "twice what it was");
        pace.won(now, now, 1.0);
        assert_eq!(window(&pace), ms(150));
        pace.won(now, now, 0.0);
        assert_eq!(window(&pace), ms(0), "the swap is sent at a random moment of the window");
        for _ in 0..20 {
            pace.lost(now, now, 1.0);
        }
        assert_eq!(window(&pace), WIDEST);
    }

    #[test]
    fn machines_are_sent_away_after_three_failures_in_a_row() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let failed = |pace: &mut Pace| pace.failed(now, None);
        assert_eq!([failed(&mut pace), failed(&mut pace)], [AfterFailure::Again; 2]);
        pace.won(now, now, 0.0);
        assert_eq!([failed(&mut pace), failed(&mut pace)], [AfterFailure::Again; 2]);
        assert_eq!(failed(&mut pace), AfterFailure::GiveUp);
        assert_eq!(failed(&mut pace), AfterFailure::Again);
        assert_eq!(pace.not_before, now + FAILURE_PAUSE);
        let _ = pace.failed(now, Some(ms(3_000)));
        assert_eq!(pace.not_before, now + ms(3_000), "the API server asked for it");
    }
}
