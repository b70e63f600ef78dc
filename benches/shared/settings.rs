//! Settings come from the environment.

use std::{env, fmt::Display, str::FromStr};

use clap::ValueEnum;

/// The value of a variable, or the default.
pub fn setting<T: FromStr<Err: Display>>(name: &str, default: T) -> anyhow::Result<T> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|error| anyhow::anyhow!("{name} is {text:?}: {error}")),
        Err(_) => Ok(default),
    }
}

/// The parts of a benchmark that BENCH_PARTS names, separated by commas. No name means all parts.
pub fn parts<P: ValueEnum>() -> anyhow::Result<Vec<P>> {
    let names = setting("BENCH_PARTS", String::new())?;
    if names.is_empty() {
        return Ok(P::value_variants().to_vec());
    }
    let part = |name| P::from_str(name, false).map_err(|error| anyhow::anyhow!("BENCH_PARTS is {names:?}: {error}"));
    names.split(',').map(part).collect()
}
