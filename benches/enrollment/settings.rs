//! What to measure, from the environment.

use std::time::Duration;

use crate::shared::settings::setting;

pub struct Settings {
    /// Machines that join in each run.
    pub machines: usize,
    /// Runs of the service next to runs of the raw client.
    pub pairs: usize,
    /// For how long machines come at a steady rate.
    pub steady: Duration,
    /// For how long machines are refused.
    pub refusals: Duration,
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            machines: setting("BENCH_MACHINES", 3000)?.max(1),
            pairs: setting("BENCH_PAIRS", 2)?.max(1),
            steady: Duration::from_secs(setting("BENCH_STEADY_SECONDS", 30)?.max(1)),
            refusals: Duration::from_secs(setting("BENCH_REFUSAL_SECONDS", 120)?.max(6)),
        })
    }
}
