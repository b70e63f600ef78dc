//! What goes over the wire, field by field as NetBird has it. Nothing here knows what a field means.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::api::{State, Timestamp};

/// A setup key as it is answered. NetBird: openapi.yml, SetupKey and SetupKeyClear.
#[derive(Debug, Serialize)]
pub struct SetupKeyAnswer {
    pub allow_extra_dns_labels: bool,
    pub auto_groups: Vec<String>,
    pub ephemeral: bool,
    pub expires: Moment,
    pub id: String,
    /// Masked, but in the answer to a creation.
    pub key: String,
    pub last_used: Moment,
    pub name: String,
    pub revoked: bool,
    pub state: State,
    #[serde(rename = "type")]
    pub key_type: crate::api::KeyType,
    pub updated_at: Moment,
    pub usage_limit: i32,
    pub used_times: i64,
    pub valid: bool,
}

/// A moment, or never, which is written as the zero of Go's `time.Time`.
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

/// The body of a creation. A field that is absent or null has the zero of its type. NetBird: CreateSetupKeyRequest.
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

/// Reads a body. Unknown fields are ignored; anything but an object is no request, `null` included.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // By way of a map: serde would read an array as a struct, its items in the order of the fields.
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Refusal::NotJson)?;
    T::deserialize(Value::Object(fields)).map_err(|_| Refusal::NotJson)
}

#[cfg(test)]
mod tests {
    use super::*;

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
