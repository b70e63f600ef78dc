//! Reading the bodies of requests. Their fields are NetBird's, and what a field means is up to `translate`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// Parses a body, which must be a JSON object. Unknown fields are ignored.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // Through a map, because serde also accepts an array for a struct, with the fields in order.
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Refusal::NotJson)?;
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
    fn unknown_fields_are_ignored_and_null_is_absent() {
        let request: CreateRequest = read(br#"{"name":"k","colour":"red","auto_groups":null,"type":null}"#).unwrap();
        assert_eq!(request.name.as_deref(), Some("k"));
        assert_eq!((request.auto_groups, request.key_type), (None, None));
    }
}
