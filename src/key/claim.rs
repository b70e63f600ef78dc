//! Which of two `SetupKey`s a value belongs to when its digest stands on record for both.
//!
//! A digest is public, and every machine that joined knows the value. A tenant can copy the one into the status of a
//! `SetupKey` of its own, and the other into its Secret. Without a rule, the order in which objects arrive would decide
//! which of the two admits machines, and into which groups.

use std::cmp::Ordering;

use super::Digest;
use crate::api::{SetupKey, Timestamp};

/// Whether `other` keeps `key` from holding the value with this digest.
///
/// It does if the digest stands on record for `other`, and either not for `key`, or `other` is the older of the two. So a
/// value that is in use elsewhere is never taken up.
pub fn has_precedence(other: &SetupKey, key: &SetupKey, digest: &Digest) -> bool {
    other.metadata.uid != key.metadata.uid
        && has_on_record(other, digest)
        && (!has_on_record(key, digest) || by_age(other, key) == Ordering::Less)
}

/// Orders two `SetupKey`s by the moment of their creation, and then by UID, so that every process orders them alike.
pub fn by_age(one: &SetupKey, other: &SetupKey) -> Ordering {
    let created = |key: &SetupKey| key.metadata.creation_timestamp.as_ref().map(Timestamp::from);
    // Without a moment of creation, a key counts as the younger one.
    let age = |key: &SetupKey| (created(key).is_none(), created(key));
    age(one).cmp(&age(other)).then_with(|| one.metadata.uid.cmp(&other.metadata.uid))
}

fn has_on_record(key: &SetupKey, digest: &Digest) -> bool {
    digests(key).any(|on_record| on_record == digest.as_str())
}

/// The digests on record for a key: of the current key, and of the replaced ones.
pub fn digests(key: &SetupKey) -> impl Iterator<Item = &str> {
    let current = key.status.as_ref().and_then(|status| status.digest.as_deref());
    current.into_iter().chain(key.previous().iter().map(|previous| previous.digest.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(uid: &str, created: &str, value: Option<&str>) -> SetupKey {
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "name": "k", "uid": uid, "creationTimestamp": created },
            "spec": {}, "status": { "digest": value.map(|value| Digest::of(value).to_string()) },
        }))
        .unwrap()
    }

    #[test]
    fn a_value_on_record_elsewhere_is_never_taken_up_however_old_the_taker_is() {
        let owner = key("owner", "2026-11-24T06:00:00Z", Some("value"));
        let taker = key("taker", "2020-01-01T00:00:00Z", None);
        assert!(has_precedence(&owner, &taker, &Digest::of("value")));
        assert!(!has_precedence(&owner, &taker, &Digest::of("another value")));
        assert!(!has_precedence(&owner, &owner, &Digest::of("value")), "a key does not stand in its own way");
    }

    #[test]
    fn a_value_that_was_replaced_elsewhere_is_not_taken_up_while_it_admits_peers() {
        let mut owner = key("owner", "2026-11-24T06:00:00Z", Some("new"));
        let taker = key("taker", "2020-01-01T00:00:00Z", None);
        assert!(!has_precedence(&owner, &taker, &Digest::of("value")));
        let replaced = json!({
            "id": "a", "digest": Digest::of("value").to_string(), "key": "AAAAA****",
            "expires": "2026-12-24T06:00:00Z", "admitsUntil": "2026-11-25T06:00:00Z",
        });
        owner.status.as_mut().unwrap().previous.push(serde_json::from_value(replaced).unwrap());
        for value in ["value", "new"] {
            assert!(has_precedence(&owner, &taker, &Digest::of(value)), "{value}");
        }
        assert_eq!(digests(&owner).collect::<Vec<_>>(), [Digest::of("new").as_str(), Digest::of("value").as_str()]);
    }

    #[test]
    fn of_two_that_have_it_on_record_the_older_keeps_it_and_then_the_lower_uid() {
        let older = key("z", "2026-11-24T06:00:00Z", Some("value"));
        let younger = key("a", "2026-11-24T06:00:01Z", Some("value"));
        let twin = key("b", "2026-11-24T06:00:01Z", Some("value"));
        let digest = Digest::of("value");
        for (one, other) in [(&older, &younger), (&older, &twin), (&younger, &twin)] {
            assert!(has_precedence(one, other, &digest));
            assert!(!has_precedence(other, one, &digest));
        }
    }
}
