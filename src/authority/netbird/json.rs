//! NetBird's JSON, field by field, for both directions: our calls to it, and our REST API's calls from its clients.
//!
//! A struct that is read has only the fields that are used, so that a new value in another field does not matter.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use crate::{
    api::{KeyType, State, Timestamp},
    key::KeyValue,
};

/// A setup key in an answer that is written. NetBird: openapi.yml, SetupKey and SetupKeyClear.
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
    pub key_type: KeyType,
    pub updated_at: Moment,
    pub usage_limit: i32,
    pub used_times: i64,
    pub valid: bool,
}

/// A setup key in an answer that is read. `K` is a [`ShownKey`], or, in the answer to a creation, a [`WholeKey`].
#[derive(Deserialize)]
pub struct SetupKeyRow<'a, K> {
    pub auto_groups: Vec<String>,
    pub expires: Moment,
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    pub key: K,
    pub last_used: Moment,
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    pub revoked: bool,
    /// 0 and less mean any number.
    pub usage_limit: i64,
    pub used_times: i64,
}

/// The name of a setup key, which says whose it is.
#[derive(Deserialize)]
pub struct SetupKeyName<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
}

/// The mask of a key: its first 5 characters and `****`. A server that shows more is not passed on.
pub struct ShownKey(pub String);

impl<'de> Deserialize<'de> for ShownKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(KeyText(|text: &str| Some(Self(text.chars().take(5).chain("****".chars()).collect()))))
    }
}

/// A key's value, which goes straight into memory that is wiped.
pub struct WholeKey(pub KeyValue);

impl<'de> Deserialize<'de> for WholeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyText(|text: &str| KeyValue::parse(text.as_bytes()).map(Self)))
    }
}

/// Reads the text of a key without a copy.
struct KeyText<F>(F);

impl<T, F: FnOnce(&str) -> Option<T>> Visitor<'_> for KeyText<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setup key")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        // The text is not quoted in the error.
        (self.0)(text).ok_or_else(|| E::custom("not a setup key"))
    }
}

/// A time, or never, which is written as the zero value of Go's `time.Time`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment(pub Option<Timestamp>);

const NEVER: &str = "0001-01-01T00:00:00Z";

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(moment) => moment.serialize(serializer),
            None => serializer.serialize_str(NEVER),
        }
    }
}

/// NetBird gives nanoseconds. They are dropped, so an expiry is the last whole second in which a key admits peers.
impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let moment = Timestamp::deserialize(deserializer)?;
        Ok(Self(Some(moment).filter(|moment| moment.to_string() != NEVER)))
    }
}

/// The body of a creation. A field that is absent or null has the zero value of its type. NetBird: CreateSetupKeyRequest.
#[derive(Debug, Default, Deserialize, Serialize)]
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
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct UpdateRequest {
    #[serde(default)]
    pub revoked: Option<bool>,
    #[serde(default)]
    pub auto_groups: Option<Vec<String>>,
}

/// The body of the creation of a group. NetBird: GroupRequest.
#[derive(Debug, Serialize)]
pub struct GroupRequest<'a> {
    pub name: &'a str,
}

/// A group. NetBird: Group.
#[derive(Debug, Deserialize)]
pub struct GroupRow {
    pub id: String,
    pub name: String,
}

/// A user. NetBird: User.
#[derive(Debug, Deserialize)]
pub struct UserRow {
    pub id: String,
    pub role: String,
    /// Whether it is the caller.
    #[serde(default)]
    pub is_current: bool,
    pub permissions: Option<Permissions>,
}

/// What a user may do. NetBird: UserPermissions.
#[derive(Debug, Deserialize)]
pub struct Permissions {
    pub modules: Modules,
}

/// What a user may do, by module.
#[derive(Debug, Deserialize)]
pub struct Modules {
    pub setup_keys: Option<Rights>,
}

/// What a user may do with the objects of a module. What is left out is not allowed.
#[derive(Debug, Deserialize)]
pub struct Rights {
    #[serde(default)]
    pub create: bool,
    #[serde(default)]
    pub update: bool,
    #[serde(default)]
    pub delete: bool,
}

/// A token. NetBird: PersonalAccessToken.
#[derive(Debug, Deserialize)]
pub struct TokenRow {
    pub expiration_date: Moment,
}

/// The body of an answer that says what is wrong. NetBird: util.go, ErrorResponse.
#[derive(Debug, Deserialize)]
pub struct Problem {
    pub message: String,
    pub code: u16,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use static_assertions::assert_not_impl_any;

    use super::*;

    assert_not_impl_any!(SetupKeyAnswer<'_>: fmt::Debug, Clone);
    assert_not_impl_any!(SetupKeyRow<'_, WholeKey>: fmt::Debug, Clone, Serialize);
    assert_not_impl_any!(WholeKey: fmt::Debug, Clone, Serialize);

    #[test]
    fn never_is_the_zero_of_go() {
        assert_eq!(serde_json::to_string(&Moment(None)).unwrap(), r#""0001-01-01T00:00:00Z""#);
        assert_eq!(serde_json::from_str::<Moment>(r#""0001-01-01T00:00:00Z""#).unwrap(), Moment(None));
        for text in ["null", "\"\"", "0", "\"never\""] {
            assert!(serde_json::from_str::<Moment>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_shown_in_full_is_masked() {
        for text in ["563A1****", "563A1F41-DB48-43E6-B871-0EF6B9304390"] {
            let ShownKey(mask) = serde_json::from_str(&format!("{text:?}")).unwrap();
            assert_eq!(mask, "563A1****");
        }
    }

    #[test]
    fn a_value_that_is_no_key_is_not_quoted() {
        for text in ["563A1****", "563a1f41-db48-43e6-b871-0ef6b9304390", ""] {
            let error = serde_json::from_str::<WholeKey>(&format!("{text:?}")).map(drop).unwrap_err().to_string();
            assert!(error.starts_with("not a setup key"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn nanoseconds_are_dropped(seconds in 0i64..4_000_000_000, nanoseconds in 0u32..1_000_000_000) {
            let exact = chrono::DateTime::from_timestamp(seconds, nanoseconds).unwrap();
            let text = serde_json::to_string(&exact.to_rfc3339()).unwrap();
            let Moment(read) = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.unwrap().moment().timestamp_nanos_opt(), Some(seconds * 1_000_000_000));
        }
    }
}
