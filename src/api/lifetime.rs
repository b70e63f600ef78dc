use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time in Go's syntax, such as `720h` or `36h30m`.
///
/// Read as Go's `time.ParseDuration` reads it; written in whole hours, minutes and seconds. The allowed range
/// stands in the rule of the field that uses it, so that the API server refuses what is out of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Lifetime(Duration);

impl Lifetime {
    /// A lifetime of so many hours.
    pub const fn hours(hours: u64) -> Self {
        Self(Duration::from_secs(hours * 60 * 60))
    }

    /// A lifetime of so many minutes.
    pub const fn minutes(minutes: u64) -> Self {
        Self(Duration::from_secs(minutes * 60))
    }

    /// A lifetime of so many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The lifetime as it is.
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// The lifetime in whole seconds; a fraction is dropped.
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.as_secs();
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        match (hours, minutes, seconds) {
            (_, 0, 0) => write!(f, "{hours}h"),
            (0, _, 0) => write!(f, "{minutes}m"),
            (_, _, 0) => write!(f, "{hours}h{minutes}m"),
            _ => write!(f, "{hours}h{minutes}m{seconds}s"),
        }
    }
}

impl Serialize for Lifetime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed: kube::core::Duration =
            text.parse().map_err(|error| format!("{text:?} is not a time such as 10m or 1h30m: {error}"))?;
        if parsed.is_negative() {
            return Err("a lifetime cannot be negative".to_owned());
        }
        Ok(Self(parsed.into()))
    }
}

impl JsonSchema for Lifetime {
    fn schema_name() -> Cow<'static, str> {
        "Lifetime".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Kubernetes' "duration" format is another syntax, so this is a plain string that a rule restricts.
        json_schema!({ "type": "string", "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Lifetime, serde_json::Error> {
        serde_json::from_value(text.into())
    }

    #[test]
    fn go_syntax_is_read() {
        for (text, seconds) in [("24h", 86_400), ("1h30m", 5_400), ("720h0m0s", 2_592_000), ("1.5h", 5_400)] {
            assert_eq!(parse(text).unwrap().as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn what_go_does_not_read_is_refused() {
        for text in ["30d", "abc", "24", "-24h"] {
            assert!(parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn it_is_written_as_a_person_would() {
        for (seconds, text) in [(86_400, "24h"), (5_400, "1h30m"), (600, "10m"), (3_601, "1h0m1s")] {
            assert_eq!(Lifetime(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
