//! The form of the bodies, which is NetBird's. What a field means is up to `translate`.

use axum::http::HeaderValue;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// The type of an answer that shows one key, unless the key is new. NetBird: setupkeys_handler.go, writeSuccess.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Parses a body, which must be a JSON object. Unknown fields are ignored. As with NetBird, the names of fields may have
/// capital letters.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // Through a map, because serde also accepts an array for a struct, with the fields in order.
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Refusal::NotJson)?;
    let count = fields.len();
    let fields: Map<_, _> = fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    // The map has lost the order of `name` and `Name`, by which NetBird decides.
    if fields.len() < count {
        return Err(Refusal::NotJson);
    }
    T::deserialize(Value::Object(fields)).map_err(|_| Refusal::NotJson)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::netbird::json::CreateRequest;

    #[test]
    fn what_is_no_request_is_not_read() {
        for body in ["", "{", "null", "[]", "[\"k\",\"reusable\"]", "7", "{\"expires_in\":\"86400\"}", "{\"name\":1}"] {
            assert!(matches!(read::<CreateRequest>(body.as_bytes()), Err(Refusal::NotJson)), "{body} was read");
        }
    }

    #[test]
    fn field_names_may_have_capital_letters_but_not_both_spellings() {
        let request: CreateRequest = read(br#"{"NAME":"k","Usage_Limit":3}"#).unwrap();
        assert_eq!((request.name.as_deref(), request.usage_limit), (Some("k"), Some(3)));
        assert!(matches!(read::<CreateRequest>(br#"{"name":"a","Name":"b"}"#), Err(Refusal::NotJson)));
    }

    #[test]
    fn of_a_field_that_comes_twice_the_last_counts() {
        let request: CreateRequest = read(br#"{"name":"first","name":"second"}"#).unwrap();
        assert_eq!(request.name.as_deref(), Some("second"));
    }

    #[test]
    fn unknown_fields_are_ignored_and_null_is_absent() {
        let request: CreateRequest = read(br#"{"name":"k","colour":"red","auto_groups":null,"type":null}"#).unwrap();
        assert_eq!(request.name.as_deref(), Some("k"));
        assert_eq!((request.auto_groups, request.key_type), (None, None));
    }
}
