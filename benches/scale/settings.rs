//! What to measure, from the environment.

use std::time::Duration;

use anyhow::ensure;

use crate::shared::settings::setting;

/// Settled keys. Their names have five digits, so there cannot be more.
const KEYS: usize = 100_000;

pub struct Settings {
    pub keys: usize,
    /// How long to watch an operator that has nothing to do.
    pub idle: Duration,
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Self> {
        let keys = setting("BENCH_SCALE_KEYS", KEYS)?;
        ensure!((1..=KEYS).contains(&keys), "BENCH_SCALE_KEYS is {keys}, not a number from 1 to {KEYS}");
        Ok(Self { keys, idle: Duration::from_secs(setting("BENCH_IDLE_SECONDS", 60)?.max(1)) })
    }

    /// Whether the goals are about this many keys.
    pub fn is_whole(&self) -> bool {
        self.keys == KEYS
    }
}
