//! The JSON of requests and answers, field by field as NetBird has it. What a field means is up to `translate`.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::api::{State, Timestamp};

/// A setup key in an answer. NetBird: openapi.yml, SetupKey and SetupKeyClear.
///
/// In the answer to a creation it holds the key. So it borrows the key instead of copying it, and has no Debug.
#[derive(Serialize)]
pub struct SetupKeyAnswer<'a> {
    pub allow_extra_dns_labels: bool,
    pub auto_groups: &'a [String],
    pub ephemeral: bool,
    pub expires: Moment,
    pub id: &'a str,
    /// The whole key in the answer to a creation, its mask in every other.
    pub key: &'a str,
    pub last_used: Moment,
    pub name: &'a str,
    pub revoked: bool,
    pub state: State,
    #[serde(rename = "type")]
    pub key_type: crate::api::KeyType,
    pub updated_at: Moment,
    pub usage_limit: i32,
    pub used_times: i64,
    pub valid: bool,
}

/// A time, or never, which is written as the zero value of Go's `time.Time`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment(pub Option<Timestamp>);

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(moment) => moment.serialize(serializer),
            None => serializer.serialize_str("0001-01-01T00:00:00Z"),
        }
    }
}

/// The body of a creation. A field that is absent or null has the zero value of its type. NetBird: CreateSetupKeyRequest.
#[derive(Debug, Default, Deserialize)]
pub struct CreateRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, rename = "type")]
    pub key_type: Option<String>,
    /// Seconds.
    #[serde(default)]
    pub expires_in: Option<i64>,
    #[serde(default)]
    pub auto_groups: Option<Vec<String>>,
    #[serde(default)]
    pub usage_limit: Option<i64>,
    #[serde(default)]
    pub ephemeral: Option<bool>,
    #[serde(default)]
    pub allow_extra_dns_labels: Option<bool>,
}

/// The body of an update. NetBird: SetupKeyRequest.
#[derive(Debug, Default, Deserialize)]
pub struct UpdateRequest {
    #[serde(default)]
    pub revoked: Option<bool>,
    #[serde(default)]
    pub auto_groups: Option<Vec<String>>,
}

/// Parses a body, which must be a JSON object. Unknown fields are ignored.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // Through a map, because serde also accepts an array for a struct, with the fields in order.
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Refusal::NotJson)?;
    T::deserialize(Value::Object(fields)).map_err(|_| Refusal::NotJson)
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(SetupKeyAnswer<'_>: std::fmt::Debug, Clone);

    #[test]
    fn what_is_no_request_is_not_read() {
        for body in ["", "{", "null", "[]", "[\"k\",\"reusable\"]", "7", "{\"expires_in\":\"86400\"}", "{\"name\":1}"] {
            assert!(matches!(read::<CreateRequest>(body.as_bytes()), Err(Refusal::NotJson)), "{body} was read");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_null_is_absent() {
        let request: CreateRequest = read(br#"{"name":"k","colour":"red","auto_groups":null,"type":null}"#).unwrap();
        assert_eq!(request.name.as_deref(), Some("k"));
        assert_eq!((request.auto_groups, request.key_type), (None, None));
    }

    #[test]
    fn never_is_the_zero_of_go() {
        assert_eq!(serde_json::to_string(&Moment(None)).unwrap(), r#""0001-01-01T00:00:00Z""#);
    }
}
