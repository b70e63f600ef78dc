//! What to measure, from the environment.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use crate::shared::settings::{parts, setting};

/// Each way has so many blocks. An even number, because the order alternates.
pub const BLOCKS: usize = 8;

/// A part that can be measured by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Part {
    OneAtATime,
    ManyKeys,
    Soak,
}

pub struct Settings {
    /// What to measure.
    pub parts: Vec<Part>,
    /// How many keys are created one at a time, by each way that is compared.
    pub one_at_a_time: usize,
    /// Numbers of keys. Each one is measured on a control plane of its own.
    pub sizes: Vec<usize>,
    /// How long to watch an operator that has nothing to do.
    pub idle: Duration,
    /// How many foreign Secrets to add.
    pub foreign: usize,
    /// How many thousand keys and Peers come and go in the soak.
    pub soak: usize,
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Self> {
        let mut sizes = Vec::new();
        for size in setting("BENCH_SIZES", "1000,10000".to_owned())?.split([',', ' ']).filter(|size| !size.is_empty()) {
            let keys = size.parse().ok().filter(|keys| (1..=99_999).contains(keys));
            sizes.push(keys.with_context(|| format!("BENCH_SIZES has {size:?}, not a number from 1 to 99999"))?);
        }
        sizes.sort_unstable();
        let one_at_a_time = setting("BENCH_ONE_AT_A_TIME", 200)?;
        ensure!(
            one_at_a_time >= BLOCKS && one_at_a_time.is_multiple_of(BLOCKS) && one_at_a_time <= 10_000,
            "BENCH_ONE_AT_A_TIME is {one_at_a_time}, not a multiple of {BLOCKS} up to 10000"
        );
        Ok(Self {
            parts: parts()?,
            one_at_a_time,
            sizes,
            idle: Duration::from_secs(setting("BENCH_IDLE_SECONDS", 60)?.max(1)),
            foreign: setting("BENCH_FOREIGN", 10_000)?,
            soak: setting("BENCH_SOAK", 20)?,
        })
    }

    /// Whether this part is measured.
    pub fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether the figures make a whole table.
    pub fn is_whole(&self) -> bool {
        Part::value_variants().iter().all(|part| self.has(*part)) && !self.sizes.is_empty()
    }
}
