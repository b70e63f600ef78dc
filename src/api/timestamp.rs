use std::{borrow::Cow, fmt};

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in whole seconds, UTC, written as RFC 3339: `2026-11-24T06:00:00Z`.
///
/// The API server keeps times in whole seconds. Dropping the fraction here, on the way in, is what makes a status that
/// was computed equal to the same status read back.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// The moment `seconds` after this one.
    pub fn plus_seconds(self, seconds: u64) -> Self {
        let seconds = chrono::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000));
        Self(self.0.checked_add_signed(seconds).unwrap_or(DateTime::<Utc>::MAX_UTC.trunc_subsecs(0)))
    }

    /// The moment `seconds` before this one.
    pub fn minus_seconds(self, seconds: u64) -> Self {
        let seconds = chrono::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000));
        Self(self.0.checked_sub_signed(seconds).unwrap_or(DateTime::<Utc>::MIN_UTC))
    }

    /// The moment as a clock reading, with nothing behind the second.
    pub fn moment(self) -> DateTime<Utc> {
        self.0
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(moment: DateTime<Utc>) -> Self {
        Self(moment.trunc_subsecs(0))
    }
}

/// The one place where our clock becomes Kubernetes' time.
impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Time(jiff::Timestamp::from_second(timestamp.0.timestamp()).unwrap_or(jiff::Timestamp::MAX))
    }
}

/// The one place where Kubernetes' time becomes our clock.
impl From<&Time> for Timestamp {
    fn from(time: &Time) -> Self {
        Self(DateTime::from_timestamp(time.0.as_second(), 0).unwrap_or_default())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DateTime::parse_from_rfc3339(text).map(|moment| moment.to_utc().into())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        DateTime::<Utc>::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        DateTime::<Utc>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_dropped_and_the_text_reads_back_equal() {
        let timestamp: Timestamp = "2026-11-24T06:00:00.987654321Z".parse().unwrap();
        assert_eq!(timestamp.to_string(), "2026-11-24T06:00:00Z");
        assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
    }

    #[test]
    fn kubernetes_time_and_back_is_the_same_moment() {
        let timestamp: Timestamp = "2026-11-24T06:00:00Z".parse().unwrap();
        assert_eq!(Timestamp::from(&Time::from(timestamp)), timestamp);
    }
}
