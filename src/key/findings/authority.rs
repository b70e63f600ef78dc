//! What the conditions say of a key at an authority.

use chrono::{DateTime, Utc};

use super::quoted;
use crate::{
    api::{AtAuthority, KeyStanding, SetupKey},
    key::{
        conditions::{
            AUTHORITY_FAILED, AUTHORITY_NOT_ALLOWED, AUTHORITY_NOT_FOUND, AUTHORITY_NOT_READY, AUTHORITY_REFUSED,
            DELETED_AT_AUTHORITY, DELETION_PENDING, Finding, GROUP_AMBIGUOUS, GROUP_NOT_ALLOWED, GROUP_NOT_FOUND,
            REPLACING, REVOKED_AT_AUTHORITY,
        },
        groups::GroupTrouble,
        mirror::{self, Ended, groups},
        record::{Observed, Persistence},
        remote::{AuthorityView, OutOfReach},
        secret::SecretView,
    },
};

/// What keeps the key from being as the spec says, as far as the authority is concerned; or that nothing does, where no
/// Secret is to hold it. `None` if the rest decides.
pub(super) fn ready(observed: Observed<'_>, now: DateTime<Utc>) -> Option<Finding> {
    let key = observed.key;
    let authority = reference(key);
    let reached = match observed.authority {
        AuthorityView::Cluster | AuthorityView::OutOfReach(OutOfReach::NotListed) => return None,
        AuthorityView::OutOfReach(OutOfReach::NotFound) => {
            return Some(Finding::not_ready(
                AUTHORITY_NOT_FOUND,
                format!("There is no {authority}. Create it; the operator then goes on with this key."),
            ));
        }
        AuthorityView::OutOfReach(OutOfReach::NotOffered) => {
            return Some(Finding::not_ready(
                AUTHORITY_NOT_ALLOWED,
                "This operator works in some namespaces only and uses no ClusterAuthority. Create another SetupKey that names an Authority of this namespace.".to_owned(),
            ));
        }
        AuthorityView::OutOfReach(OutOfReach::NotReady(why)) if key.metadata.deletion_timestamp.is_some() => {
            return Some(Finding::not_ready(
                DELETION_PENDING,
                format!(
                    "The key at {authority} is not deleted yet: {why} The operator keeps retrying. To delete this SetupKey and leave its key there, set deletionPolicy to Retain."
                ),
            ));
        }
        AuthorityView::OutOfReach(OutOfReach::NotReady(why)) => {
            return Some(Finding::not_ready(
                AUTHORITY_NOT_READY,
                format!("{authority} cannot be used now: {why} The operator keeps retrying."),
            ));
        }
        AuthorityView::Reached(reached) => reached,
    };
    if !reached.allows_namespace {
        return Some(Finding::not_ready(
            AUTHORITY_NOT_ALLOWED,
            format!(
                "The namespaceSelector of {authority} does not select this namespace. Its owner must allow the namespace; a key that was issued before stays at the authority as it is."
            ),
        ));
    }
    if matches!(observed.secret, SecretView::Foreign | SecretView::Orphaned | SecretView::Unread) {
        return None;
    }
    match groups(observed)? {
        Err(trouble) => Some(in_group_trouble(&trouble, &authority)),
        Ok(_) => mirror::wanted(observed, now).err().map(|ended| without_secret(key, ended)),
    }
}

fn in_group_trouble(trouble: &GroupTrouble, authority: &str) -> Finding {
    match trouble {
        GroupTrouble::NotAllowed(groups) => Finding::not_ready(
            GROUP_NOT_ALLOWED,
            format!(
                "{authority} does not allow keys to name these groups: {}. Take them out of autoGroups, or have them added to allowedGroups.",
                quoted(groups)
            ),
        ),
        GroupTrouble::NotFound(groups) => Finding::not_ready(
            GROUP_NOT_FOUND,
            format!(
                "{authority} has no group of these names or ids: {}. Create them at NetBird, or set createGroups; the operator looks again at each interval.",
                quoted(groups)
            ),
        ),
        GroupTrouble::Ambiguous(name, ids) => {
            let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Finding::not_ready(
                GROUP_AMBIGUOUS,
                format!(
                    "{authority} has several groups with the name {name:?}. Put the id of the one you mean into autoGroups: {ids}."
                ),
            )
        }
    }
}

fn without_secret(key: &SetupKey, ended: Ended) -> Finding {
    let why = match ended {
        Ended::Revoked => "the key is revoked; set revoked to false for a new one",
        Ended::RevokedThere => {
            "the key was revoked at its authority; for a new one, set revoked to true and then to false"
        }
        Ended::DeletedThere => {
            "the key was deleted at its authority; for a new one, set revoked to true and then to false"
        }
        Ended::Expired => "the key has expired; create another SetupKey for a new one",
        Ended::UsedUp => "the key is used up; create another SetupKey for a new one",
    };
    Finding::ready(format!(
        "Secret {:?} does not hold the key, and nothing is issued instead: {why}.",
        key.secret_name()
    ))
}

/// A call to the authority about this key has failed.
pub(super) fn in_trouble(key: &SetupKey, why: &str, persistence: Persistence) -> Finding {
    let authority = reference(key);
    match persistence {
        Persistence::Refused => Finding::not_ready(
            AUTHORITY_REFUSED,
            format!("{authority} refuses the key: {why}. Change the SetupKey, or what stands in the way at NetBird."),
        ),
        Persistence::Lasting | Persistence::Passing => Finding::not_ready(
            AUTHORITY_FAILED,
            format!("Calls to {authority} about this key keep failing: {why}. The operator keeps retrying."),
        ),
    }
}

/// Why a key reads revoked though the spec does not say so.
pub(super) fn revoked(there: &AtAuthority) -> Option<(&'static str, &'static str)> {
    match there.standing {
        KeyStanding::Active | KeyStanding::Revoked => None,
        KeyStanding::RevokedAtAuthority => Some((
            REVOKED_AT_AUTHORITY,
            "The key was revoked at its authority. For a new key with the remaining uses, set revoked to true and then to false.",
        )),
        KeyStanding::DeletedAtAuthority => Some((
            DELETED_AT_AUTHORITY,
            "The key was deleted at its authority. For a new key with the remaining uses, set revoked to true and then to false.",
        )),
        KeyStanding::Replacing => Some((REPLACING, "The value of the key is lost, and another key is being issued.")),
    }
}

fn reference(key: &SetupKey) -> String {
    key.spec
        .authority_ref
        .as_ref()
        .map(|authority| format!("{:?} {:?}", authority.kind, authority.name))
        .unwrap_or_default()
}
