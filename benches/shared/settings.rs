//! Settings come from the environment.

use std::{env, fmt::Display, str::FromStr};

/// The value of a variable, or the default.
pub fn setting<T: FromStr<Err: Display>>(name: &str, default: T) -> anyhow::Result<T> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|error| anyhow::anyhow!("{name} is {text:?}: {error}")),
        Err(_) => Ok(default),
    }
}
