//! What to measure, from the environment.

use crate::shared::settings::setting;

/// Keys of one comparison.
const KEYS: usize = 1000;
/// Keys that are settled.
const SETTLED: usize = 10_000;

pub struct Settings {
    pub keys: usize,
    /// Comparisons with the raw client.
    pub pairs: usize,
    pub settled: usize,
    /// For how many intervals the settled keys are observed.
    pub intervals: u32,
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            keys: setting("BENCH_KEYS", KEYS)?.clamp(1, 99_999),
            pairs: setting("BENCH_PAIRS", 4)?.max(1),
            settled: setting("BENCH_SETTLED", SETTLED)?.min(99_999),
            intervals: setting("BENCH_INTERVALS", 4)?.max(1),
        })
    }

    /// Whether the goals are about this many keys.
    pub fn is_whole(&self) -> bool {
        (self.keys, self.settled) == (KEYS, SETTLED)
    }
}
