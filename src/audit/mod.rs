//! What is unwise about a key, and what to do about it: values in, values out.
//!
//! A finding is advice. It never says that a key is broken: that is in the conditions of the `SetupKey`.

mod readers;
mod rules;

use chrono::{DateTime, Utc};
pub use readers::{How, Reader, Readers, names};
pub use rules::{Evidence, Finding, RULES, Rule, findings};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::{Lifetime, SetupKey, State},
    key::Facts,
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something could be better.
    Info,
    /// Something can go wrong, or a key that leaks does much harm.
    Warn,
}

impl Severity {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warn => "warn",
        }
    }
}

/// The times that decide what is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thresholds {
    /// The longest lifetime that is advised.
    pub max_age: Lifetime,
    /// How long a key may stay without its first use.
    pub unused: Lifetime,
    /// How long a key may stay without a use after the last one.
    pub idle: Lifetime,
    /// How long before its end a key in use should have a successor in sight.
    pub soon: Lifetime,
}

/// One day, in hours.
const DAY: u64 = 24;

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_age: Lifetime::hours(90 * DAY),
            unused: Lifetime::hours(30 * DAY),
            idle: Lifetime::hours(90 * DAY),
            soon: Lifetime::hours(7 * DAY),
        }
    }
}

/// Whether machines join with this key, and it ends within `soon` without a rotation before that.
pub fn ends_soon(key: &SetupKey, soon: Lifetime, now: DateTime<Utc>) -> bool {
    let Some(facts) = Facts::of(key).filter(|facts| facts.state(now) == State::Valid) else { return false };
    let rotates = key.status.as_ref().is_some_and(|status| status.rotate_at.is_some());
    facts.used_times > 0 && !rotates && facts.expires.minus_seconds(soon.as_secs()).moment() <= now
}
