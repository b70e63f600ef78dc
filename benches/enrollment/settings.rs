//! What to measure, from the environment.

use std::time::Duration;

use crate::shared::settings::setting;

pub struct Settings {
    /// Machines that join in each run.
    pub machines: usize,
    /// Machines that ask at the same time, where they come as fast as they are let in.
    pub at_a_time: usize,
    /// Runs of the service next to runs of the raw client.
    pub pairs: usize,
    /// For how long machines come at a steady rate.
    pub steady: Duration,
    /// For how long machines are refused.
    pub refusals: Duration,
    /// The names of what to measure, with commas between them; none is all.
    parts: String,
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            machines: setting("BENCH_MACHINES", 3000)?.max(1),
            at_a_time: setting("BENCH_AT_A_TIME", 1024)?.max(1),
            pairs: setting("BENCH_PAIRS", 2)?.max(1),
            steady: Duration::from_secs(setting("BENCH_STEADY_SECONDS", 30)?.max(1)),
            refusals: Duration::from_secs(setting("BENCH_REFUSAL_SECONDS", 120)?.max(6)),
            parts: std::env::var("BENCH_PARTS").unwrap_or_default(),
        })
    }

    /// Whether everything is to be measured.
    pub fn is_whole(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether this part is to be measured.
    pub fn wants(&self, part: &str) -> bool {
        self.is_whole() || self.parts.split(',').any(|wanted| wanted == part)
    }
}
