//! What to measure, from the environment.

use std::time::Duration;

use clap::ValueEnum;

use crate::shared::settings::{parts, setting};

/// A part that can be measured by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Part {
    ManyKeys,
    HotKey,
    Latency,
    Refusals,
}

pub struct Settings {
    /// Machines that join in each run.
    pub machines: usize,
    /// Machines that ask at the same time, where they join as fast as they are admitted.
    pub at_a_time: usize,
    /// Runs of the service next to runs of the raw client.
    pub pairs: usize,
    /// How long machines join at a steady rate.
    pub steady: Duration,
    /// How long machines are refused.
    pub refusals: Duration,
    /// What to measure.
    pub parts: Vec<Part>,
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            machines: setting("BENCH_MACHINES", 3000)?.max(1),
            at_a_time: setting("BENCH_AT_A_TIME", 1000)?.max(1),
            pairs: setting("BENCH_PAIRS", 2)?.max(1),
            steady: Duration::from_secs(setting("BENCH_STEADY_SECONDS", 30)?.max(1)),
            refusals: Duration::from_secs(setting("BENCH_REFUSAL_SECONDS", 120)?.max(6)),
            parts: parts()?,
        })
    }

    /// Whether all parts are measured.
    pub fn is_whole(&self) -> bool {
        self.parts == Part::value_variants()
    }
}
