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
        remote::{Group, GroupId, Mark, RemoteKey, mark_of},
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
            let row = row.get().as_bytes();
            match key(row) {
                Some(key) => keys.extend(key),
                None if is_marked(row) => return Err(A::Error::custom("a setup key cannot be read")),
                None => {}
            }
        }
        Ok(keys)
    }
}

fn is_marked(row: &[u8]) -> bool {
    serde_json::from_slice(row).is_ok_and(|SetupKeyName { name }| mark_of(&name).is_some())
}

/// One key, or `Some(None)` if it has no mark.
pub fn key(body: &[u8]) -> Option<Option<RemoteKey>> {
    let row: SetupKeyRow<'_, ShownKey> = serde_json::from_slice(body).ok()?;
    match mark_of(&row.name) {
        Some(mark) => remote(&row, mark, row.key.0.clone()).map(Some),
        None => Some(None),
    }
}

/// A key that was just created, and its value.
pub fn created(body: &[u8]) -> Option<(RemoteKey, KeyValue)> {
    let row: SetupKeyRow<'_, WholeKey> = serde_json::from_slice(body).ok()?;
    let key = remote(&row, mark_of(&row.name)?, row.key.0.fingerprint().mask)?;
    Some((key, row.key.0))
}

fn remote<K>(row: &SetupKeyRow<'_, K>, mark: Mark<'_>, mask: String) -> Option<RemoteKey> {
    Some(RemoteKey {
        id: KeyId::parse(&row.id)?,
        owner: mark.owner.to_owned(),
        revision: mark.revision,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";

    fn row(name: &str, key: &str) -> Value {
        json!({
            "allow_extra_dns_labels": true, "auto_groups": ["g1", "g2"], "ephemeral": true,
            "expires": "2026-11-25T00:42:03.109347002Z", "id": "dc2dqmtqmd2tbgsp86m0", "key": key,
            "last_used": "0001-01-01T00:00:00Z", "name": name, "revoked": false, "state": "a new one",
            "type": "reusable", "updated_at": "2026-11-24T00:42:03.109350517Z", "usage_limit": 3,
            "used_times": 2, "valid": true, "something": { "new": [] },
        })
    }

    fn ours(key: &str) -> Value {
        row(&format!("Büro \"a\" [network/office {UID}]"), key)
    }

    fn office() -> RemoteKey {
        RemoteKey {
            id: KeyId::parse("dc2dqmtqmd2tbgsp86m0").unwrap(),
            owner: UID.to_owned(),
            revision: 1,
            mask: "563A1****".to_owned(),
            revoked: false,
            used_times: 2,
            usage_limit: Some(3),
            last_used: None,
            expires: Some("2026-11-25T00:42:03Z".parse().unwrap()),
            groups: vec![GroupId("g1".to_owned()), GroupId("g2".to_owned())],
        }
    }

    fn read_keys(list: &Value) -> Option<Vec<RemoteKey>> {
        keys(list.to_string().as_bytes())
    }

    #[test]
    fn only_keys_with_a_mark_are_kept() {
        let list = json!([row("office", "563A1****"), ours("563A1****"), { "name": null }, {}, [], null, 7]);
        assert_eq!(read_keys(&list), Some(vec![office()]));
        assert_eq!(read_keys(&json!([])), Some(vec![]));
    }

    #[test]
    fn a_key_of_ours_that_cannot_be_read_is_not_left_out() {
        for (field, value) in [
            ("id", json!("../users")),
            ("id", json!(null)),
            ("revoked", json!("no")),
            ("used_times", json!(-1.5)),
            ("expires", json!(null)),
            ("auto_groups", json!(null)),
        ] {
            let mut key = ours("563A1****");
            key[field] = value;
            assert_eq!(read_keys(&json!([ours("563A1****"), key])), None, "{field}");
        }
    }

    #[test]
    fn what_is_no_list_is_not_an_empty_one() {
        for list in [json!({}), json!(null), json!(""), json!({ "keys": [] })] {
            assert_eq!(read_keys(&list), None, "{list}");
        }
        assert_eq!(keys(b"[]]"), None);
        assert_eq!(keys(b""), None);
    }

    #[test]
    fn no_limit_is_zero_or_less() {
        for limit in [0, -5] {
            let mut key = ours("563A1****");
            key["usage_limit"] = limit.into();
            assert_eq!(read_keys(&json!([key])).unwrap()[0].usage_limit, None);
        }
    }

    #[test]
    fn a_key_without_a_mark_is_none_of_ours() {
        assert_eq!(key(row("office", "563A1****").to_string().as_bytes()), Some(None));
        assert_eq!(key(ours("563A1****").to_string().as_bytes()), Some(Some(office())));
    }

    #[test]
    fn a_creation_shows_the_whole_key_once() {
        let value = "563A1F41-DB48-43E6-B871-0EF6B9304390";
        let (key, read) = created(ours(value).to_string().as_bytes()).unwrap();
        assert_eq!(key, office());
        assert!(read.expose() == value);
        for wrong in ["563A1****", "563a1f41-db48-43e6-b871-0ef6b9304390", ""] {
            assert!(created(ours(wrong).to_string().as_bytes()).is_none(), "{wrong}");
        }
        assert!(created(row("office", value).to_string().as_bytes()).is_none());
    }

    #[test]
    fn a_token_among_several_may_be_any_of_them() {
        let token = json!({ "id": "a", "name": "t", "expiration_date": "2026-12-26T18:20:18.528Z" });
        let read = |list: Value| expiry_of_the_only_token(list.to_string().as_bytes());
        assert_eq!(read(json!([token])), Some(Some("2026-12-26T18:20:18Z".parse().unwrap())));
        assert_eq!(read(json!([token, token])), Some(None));
        assert_eq!(read(json!([])), Some(None));
        assert_eq!(read(json!({})), None);
    }

    #[test]
    fn the_caller_is_found_among_the_service_users() {
        let user = |id, current| json!({ "id": id, "role": "admin", "is_current": current, "email": "" });
        let body = json!([user("a", false), user("b", true)]).to_string();
        assert_eq!(current_user(body.as_bytes()).unwrap().unwrap().id, "b");
        assert!(current_user(json!([user("a", false)]).to_string().as_bytes()).unwrap().is_none());
    }
}
