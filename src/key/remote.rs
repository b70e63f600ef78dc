//! Keys at NetBird: how they are seen, how they are recognised, and what is known of them.
//!
//! NetBird's names are free text, and the only place where a key can say whose it is. So the name of a key ends with a mark
//! that carries the UID of its `SetupKey`. A key without the mark of a `SetupKey` is never touched.

use std::sync::Arc;

pub use super::groups::{Group, GroupId};
use super::{KeyId, freshness::Freshness, groups::Groups};
use crate::api::{SetupKey, Timestamp};

/// A key at NetBird, as a list shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RemoteKey {
    /// Its id there.
    pub id: KeyId,
    /// The UID in its mark.
    pub owner: String,
    /// The revision in its mark.
    pub revision: i64,
    /// The first 5 characters of its value and `****`.
    pub mask: String,
    /// Whether it was revoked. NetBird never takes that back.
    pub revoked: bool,
    /// How many peers have joined with it.
    pub used_times: i64,
    /// How many peers may join with it, or `None` when there is no limit.
    pub usage_limit: Option<i64>,
    /// When a peer last joined with it.
    pub last_used: Option<Timestamp>,
    /// The last second in which it admits peers, or `None` if it never expires.
    pub expires: Option<Timestamp>,
    /// The groups of the peers that join.
    pub groups: Vec<GroupId>,
}

/// A key to be created at NetBird.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewKey {
    /// Its name, with the mark.
    pub name: String,
    /// Whether it can be used once only.
    pub one_off: bool,
    /// How long it admits peers, in seconds.
    pub expires_in: i64,
    /// The groups of the peers that join.
    pub groups: Vec<GroupId>,
    /// How many peers may join; 0 means any number.
    pub usage_limit: i64,
    /// Whether the peers that join are ephemeral.
    pub ephemeral: bool,
    /// Whether a peer may bring DNS labels of its own.
    pub allow_extra_dns_labels: bool,
}

/// What is known of the authority behind a key.
#[derive(Clone, Debug)]
pub enum AuthorityView {
    /// The key is one of the cluster itself.
    Cluster,
    /// The authority cannot be used now.
    OutOfReach(OutOfReach),
    /// The authority answers.
    Reached(Reached),
}

/// Why an authority cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OutOfReach {
    /// There is no such authority.
    NotFound,
    /// This operator uses no `ClusterAuthority`, because it works in some namespaces only.
    NotOffered,
    /// Nothing is known of it, or of the key, since the last call whose answer was lost. Its keys are about to be listed.
    NotListed,
    /// It cannot be used, for this reason, as a sentence.
    NotReady(String),
}

/// What is known of an authority that answers.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The keys there with the mark of this `SetupKey`: as they were last listed, with the calls of this process since.
    pub keys: Vec<RemoteKey>,
    /// Whether this pass has read the key on record there.
    pub freshness: Freshness,
    /// Whether the authority lets keys of this namespace use it.
    pub allows_namespace: bool,
    /// The groups there, if they were listed.
    pub groups: Option<Arc<Groups>>,
    /// Whether the groups were listed just now.
    pub groups_are_fresh: bool,
    /// The groups that keys may name, or `None` where they may name any.
    pub allowed_groups: Option<Arc<[String]>>,
    /// Whether a group that is missing is created.
    pub creates_groups: bool,
    /// The URL that agents join at, if it is known.
    pub agent_url: Option<Arc<str>>,
}

impl AuthorityView {
    /// The authority, if it answers.
    pub fn reached(&self) -> Option<&Reached> {
        match self {
            AuthorityView::Reached(reached) => Some(reached),
            AuthorityView::Cluster | AuthorityView::OutOfReach(_) => None,
        }
    }
}

impl Reached {
    /// The key of this id, if it is one of this `SetupKey`.
    pub fn key(&self, id: &KeyId) -> Option<&RemoteKey> {
        self.keys.iter().find(|key| key.id == *id)
    }
}

/// The name at NetBird of a key of a `SetupKey`: its display name and the mark, as in
/// `Office [network/office 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed]`, and `… r2]` for the second revision.
pub fn marked_name(key: &SetupKey, revision: i64) -> String {
    let (metadata, blank) = (&key.metadata, String::new());
    let name = metadata.name.as_ref().unwrap_or(&blank);
    let display = key.spec.name.as_ref().unwrap_or(name);
    let (namespace, uid) = (metadata.namespace.as_ref().unwrap_or(&blank), metadata.uid.as_ref().unwrap_or(&blank));
    let revision = if revision > 1 { format!(" r{revision}") } else { String::new() };
    format!("{display} [{namespace}/{name} {uid}{revision}]")
}

/// The mark at the end of a key's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark<'a> {
    /// The UID of its `SetupKey`.
    pub owner: &'a str,
    /// Its revision.
    pub revision: i64,
}

/// The mark at the end of a name, if there is one.
pub fn mark_of(name: &str) -> Option<Mark<'_>> {
    let (_, mark) = name.strip_suffix(']')?.rsplit_once('[')?;
    let mut words = mark.split(' ');
    let (object, uid, revision) = (words.next()?, words.next()?, words.next());
    let revision = match revision {
        None => 1,
        // As it is written, and no other spelling.
        Some(word) => {
            word.strip_prefix('r')?.parse().ok().filter(|number| *number > 1 && *word == format!("r{number}"))?
        }
    };
    let (namespace, object) = object.split_once('/')?;
    let is_dns_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    };
    let is_uid = uid.len() == uuid::fmt::Hyphenated::LENGTH && uuid::Uuid::try_parse(uid).is_ok();
    let is_mark = words.next().is_none() && is_dns_name(namespace) && is_dns_name(object) && is_uid;
    is_mark.then_some(Mark { owner: uid, revision })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";

    fn named(display: Option<&str>) -> String {
        let key: SetupKey = serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "namespace": "network", "name": "office", "uid": UID }, "spec": { "name": display },
        }))
        .unwrap();
        marked_name(&key, 1)
    }

    #[test]
    fn a_name_tells_people_where_the_key_comes_from_and_is_recognised() {
        assert_eq!(named(None), format!("office [network/office {UID}]"));
        assert_eq!(named(Some("Büro [2] ")), format!("Büro [2]  [network/office {UID}]"));
        for display in [None, Some("[a/b c]"), Some("]"), Some("ends with [")] {
            assert_eq!(mark_of(&named(display)), Some(Mark { owner: UID, revision: 1 }), "{display:?}");
        }
    }

    #[test]
    fn a_later_revision_stands_in_the_mark() {
        let name = named(None).replace(']', " r12]");
        assert_eq!(mark_of(&name), Some(Mark { owner: UID, revision: 12 }));
        for word in ["r1", "r0", "r-2", "r+2", "r02", "2", "r", "R2", "r2 r3", "r99999999999999999999"] {
            let name = named(None).replace(']', &format!(" {word}]"));
            assert_eq!(mark_of(&name), None, "{name:?}");
        }
    }

    #[test]
    fn a_name_without_a_whole_mark_is_no_key_of_ours() {
        for name in [
            "",
            "office",
            "office [network/office]",
            "office [network/office 1b9d6bcd]",
            "office [office 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed]",
            "office [network/office 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed] ",
            "office [Network/office 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed]",
            "office [network/office 1b9d6bcdbbfd4b2d9b5dab8dfbbd4bed]",
        ] {
            assert_eq!(mark_of(name), None, "{name:?}");
        }
    }
}
