//! What to measure, from the environment.

use std::time::Duration;

use anyhow::Context as _;

use crate::shared::settings::setting;

pub struct Settings {
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
        Ok(Self {
            sizes,
            idle: Duration::from_secs(setting("BENCH_IDLE_SECONDS", 60)?.max(1)),
            foreign: setting("BENCH_FOREIGN", 10_000)?,
            soak: setting("BENCH_SOAK", 20)?,
        })
    }
}
