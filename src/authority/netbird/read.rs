//! The bodies of answers as values of ours. `None` is what NetBird never answers.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::json::{GroupRow, SetupKeyName, SetupKeyRow, ShownKey, TokenRow, UserRow, WholeKey};
use crate::{
    api::Timestamp,
    key::{
        KeyId, KeyValue,
        remote::{Group, GroupId, RemoteKey, owner_of},
    },
};

/// The keys of a list that have a mark.
///
/// The rows of others are dropped one by one, also those that cannot be read. A row with a mark must be read.
pub fn keys(body: &[u8]) -> Option<Vec<RemoteKey>> {
    serde_json::from_slice(body).ok().map(|Marked(keys)| keys)
}

struct Marked(Vec<RemoteKey>);

impl<'de> Deserialize<'de> for Marked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Rows).map(Self)
    }
}

struct Rows;

impl<'de> Visitor<'de> for Rows {
    type Value = Vec<RemoteKey>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of setup keys")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Self::Value, A::Error> {
        let mut keys = Vec::new();
        while let Some(row) = rows.next_element::<&RawValue>()? {
            let name = serde_json::from_str(row.get()).map(|SetupKeyName { name }| name);
            if name.is_ok_and(|name| owner_of(&name).is_some()) {
                let key = key(row.get().as_bytes()).flatten();
                keys.push(key.ok_or_else(|| A::Error::custom("a setup key cannot be read"))?);
            }
        }
        Ok(keys)
    }
}

/// One key, or `Some(None)` if it has no mark.
pub fn key(body: &[u8]) -> Option<Option<RemoteKey>> {
    let row: SetupKeyRow<'_, ShownKey> = serde_json::from_slice(body).ok()?;
    match owner_of(&row.name) {
        Some(owner) => remote(&row, owner, row.key.0.clone()).map(Some),
        None => Some(None),
    }
}

/// A key that was just created, and its value.
pub fn created(body: &[u8]) -> Option<(RemoteKey, KeyValue)> {
    let row: SetupKeyRow<'_, WholeKey> = serde_json::from_slice(body).ok()?;
    let key = remote(&row, owner_of(&row.name)?, row.key.0.fingerprint().mask)?;
    Some((key, row.key.0))
}

fn remote<K>(row: &SetupKeyRow<'_, K>, owner: &str, mask: String) -> Option<RemoteKey> {
    Some(RemoteKey {
        id: KeyId::parse(&row.id)?,
        owner: owner.to_owned(),
        mask,
        revoked: row.revoked,
        used_times: row.used_times,
        usage_limit: Some(row.usage_limit).filter(|limit| *limit > 0),
        last_used: row.last_used.0,
        expires: row.expires.0,
        groups: row.auto_groups.iter().cloned().map(GroupId).collect(),
    })
}

/// Groups, with their names.
pub fn groups(body: &[u8]) -> Option<Vec<Group>> {
    let rows: Vec<GroupRow> = serde_json::from_slice(body).ok()?;
    Some(rows.into_iter().map(Group::from).collect())
}

/// A group.
pub fn group(body: &[u8]) -> Option<Group> {
    serde_json::from_slice(body).ok().map(|row: GroupRow| row.into())
}

impl From<GroupRow> for Group {
    fn from(GroupRow { id, name }: GroupRow) -> Self {
        Self { id: GroupId(id), name }
    }
}

/// A user.
pub fn user(body: &[u8]) -> Option<UserRow> {
    serde_json::from_slice(body).ok()
}

/// The user among others that makes the call, if it is among them.
pub fn current_user(body: &[u8]) -> Option<Option<UserRow>> {
    let rows: Vec<UserRow> = serde_json::from_slice(body).ok()?;
    Some(rows.into_iter().find(|row| row.is_current))
}

/// When the only token of a user expires. One of several may be any of them.
pub fn expiry_of_the_only_token(body: &[u8]) -> Option<Option<Timestamp>> {
    let rows: Vec<TokenRow> = serde_json::from_slice(body).ok()?;
    match rows.as_slice() {
        [token] => Some(token.expiration_date.0),
        _ => Some(None),
    }
}

/// An object in which nothing is of interest.
pub fn nothing(body: &[u8]) -> Option<()> {
    serde_json::from_slice::<Map<String, Value>>(body).ok().map(drop)
}
