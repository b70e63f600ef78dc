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
