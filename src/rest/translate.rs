//! A `SetupKey` as NetBird's clients see it, and their requests as a `SetupKey`: values in, values out.

use chrono::{DateTime, Utc};
use kube::{Resource, api::ObjectMeta};

use super::refusal::Refusal;
use crate::{
    api::{DeletionPolicy, KeyType, Lifetime, SetupKey, SetupKeySpec, State, Timestamp},
    authority::netbird::json::{CreateRequest, Moment, SetupKeyAnswer, UpdateRequest},
    key::Facts,
};

/// The range of `expires_in`. NetBird documents it but does not enforce it; the CRD does.
const LIFETIME_SECONDS: std::ops::RangeInclusive<i64> = 86_400..=31_536_000;

/// The API server makes a name of at most 63 characters from a prefix, and the last 5 are random.
const PREFIX_LENGTH: usize = 58;

/// Limits of the CRD.
const LONGEST_NAME: usize = 255;
const MOST_GROUPS: usize = 64;
const LONGEST_GROUP: usize = 63;
const LONGEST_GROUP_AT_AUTHORITY: usize = 255;

/// The fields that an update sets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    pub revoked: bool,
    pub auto_groups: Vec<String>,
}

/// The key as it is at this moment, or `None` while it has no id: clients know keys by their id.
pub fn answer(key: &SetupKey, now: DateTime<Utc>) -> Option<SetupKeyAnswer<'_>> {
    let status = key.status.as_ref()?;
    let id = status.id.as_deref()?;
    let state = state(key, now);
    Some(SetupKeyAnswer {
        allow_extra_dns_labels: key.spec.allow_extra_dns_labels,
        auto_groups: &key.spec.auto_groups,
        ephemeral: key.spec.ephemeral,
        expires: Moment(status.expires),
        id,
        key: status.key.as_deref().unwrap_or_default(),
        last_used: Moment(status.last_used),
        name: key.spec.name.as_deref().or(key.metadata.name.as_deref()).unwrap_or_default(),
        revoked: key.spec.revoked,
        state,
        key_type: key.spec.key_type,
        updated_at: Moment(Some(updated_at(key, now))),
        usage_limit: key.spec.effective_usage_limit().unwrap_or(0),
        used_times: status.used_times,
        valid: state == State::Valid,
    })
}

/// Which of NetBird's four states describes the key at this moment.
///
/// None of them fits a key that no Secret of its `SetupKey` holds (reason `SecretConflict`): it has an id, but admits no
/// peer. Once its time is over it is expired like any other. Until then it reads `revoked`, the one state that says "admits
/// no peer" and claims nothing about time or uses. The field `revoked` still shows the spec.
fn state(key: &SetupKey, now: DateTime<Utc>) -> State {
    let expires = key.status.as_ref().and_then(|status| status.expires);
    match Facts::of(key) {
        Some(facts) => facts.state(now),
        None if expires.is_some_and(|expires| now > expires.moment()) => State::Expired,
        None => State::Revoked,
    }
}

/// When the spec last changed: now, if the controller has not observed the change yet.
fn updated_at(key: &SetupKey, now: DateTime<Utc>) -> Timestamp {
    let status = key.status.as_ref();
    let noted = status.is_some_and(|status| status.observed_generation == key.metadata.generation);
    let created = || key.metadata.creation_timestamp.as_ref().map(Timestamp::from);
    if noted { status.and_then(|status| status.updated_at).or_else(created) } else { None }.unwrap_or(now.into())
}

/// The `SetupKey` that a request asks for. The name of the object begins with the name of the key.
///
/// The checks come in NetBird's order. The API server checks the rest.
pub fn created(request: CreateRequest) -> Result<SetupKey, Refusal> {
    let refuse = |sentence: String| Err(Refusal::Invalid(sentence));
    let name = request.name.unwrap_or_default();
    if name.is_empty() {
        return refuse("setup key name shouldn't be empty".to_owned());
    }
    // NetBird takes these. They would be printed in terminals, logs and tables.
    if name.chars().count() > LONGEST_NAME {
        return refuse(format!("setup key name must be at most {LONGEST_NAME} characters"));
    }
    if name.contains(char::is_control) {
        return refuse("setup key name may not contain control characters, such as line breaks and tabs".to_owned());
    }
    let key_type = match request.key_type.unwrap_or_default().as_str() {
        "reusable" => KeyType::Reusable,
        "one-off" => KeyType::OneOff,
        other => return refuse(format!("unknown setup key type {}", other.to_lowercase())),
    };
    let limit = request.usage_limit.unwrap_or(0);
    if key_type == KeyType::OneOff && limit > 1 {
        return refuse(format!(
            "usage_limit {limit} is not valid for a one-off setup key, which can be used once; use type reusable for a key that can be used more than once"
        ));
    }
    let seconds = request.expires_in.unwrap_or(0);
    if seconds < 0 {
        return refuse("expiresin can not be in the past".to_owned());
    }
    if !LIFETIME_SECONDS.contains(&seconds) {
        return refuse(format!(
            "expires_in must be from {} to {} seconds, which is one day to 365 days; a key that never expires is not offered",
            LIFETIME_SECONDS.start(),
            LIFETIME_SECONDS.end(),
        ));
    }
    let Ok(usage_limit) = u32::try_from(limit).and_then(i32::try_from) else {
        return refuse(format!("usage_limit must be from 0, which is any number, to {}", i32::MAX));
    };
    let auto_groups = without_repetition(request.auto_groups.unwrap_or_default());
    groups_fit(&auto_groups, Of::Cluster)?;
    let spec = SetupKeySpec {
        key_type,
        expires_in: Lifetime::seconds(seconds.unsigned_abs()),
        auto_groups,
        usage_limit,
        ephemeral: request.ephemeral.unwrap_or(false),
        allow_extra_dns_labels: request.allow_extra_dns_labels.unwrap_or(false),
        revoked: false,
        secret: None,
        name: Some(name),
        authority_ref: None,
        deletion_policy: DeletionPolicy::default(),
        rotation: None,
        revoke_unused_after: None,
    };
    let prefix = prefix(spec.name.as_deref().unwrap_or_default());
    let metadata = ObjectMeta { generate_name: Some(prefix), ..ObjectMeta::default() };
    let mut key = SetupKey::new("", spec);
    *key.meta_mut() = metadata;
    Ok(key)
}

/// The change that a request asks for. As with NetBird, `revoked` is false when it is left out.
pub fn changed(request: UpdateRequest) -> Result<Change, Refusal> {
    let auto_groups = request.auto_groups;
    let auto_groups =
        auto_groups.ok_or_else(|| Refusal::Invalid("setup key autogroups field is invalid".to_owned()))?;
    Ok(Change { revoked: request.revoked.unwrap_or(false), auto_groups: without_repetition(auto_groups) })
}

impl Change {
    /// Whether this key can be changed so.
    pub fn allowed_for(&self, key: &SetupKey) -> Result<(), Refusal> {
        let Some(_) = &key.spec.authority_ref else { return groups_fit(&self.auto_groups, Of::Cluster) };
        groups_fit(&self.auto_groups, Of::Authority)?;
        // NetBird never takes a revocation back. The SetupKey can be, but gets another key with another id, and this client
        // knows the key by its id.
        if key.spec.revoked && !self.revoked {
            return Err(Refusal::Invalid("can't un-revoke a revoked setup key".to_owned()));
        }
        Ok(())
    }
}

/// Where a key lives, which decides what its groups may be called.
#[derive(Clone, Copy)]
enum Of {
    Cluster,
    Authority,
}

/// The rules of the CRD for groups, so that a refusal speaks of groups and not of fields of the resource.
fn groups_fit(groups: &[String], of: Of) -> Result<(), Refusal> {
    let refuse = |sentence: String| Err(Refusal::Invalid(format!("invalid auto groups: {sentence}")));
    if groups.len() > MOST_GROUPS {
        return refuse(format!("a key can have at most {MOST_GROUPS} groups"));
    }
    let fits = |group: &str| match of {
        Of::Cluster => {
            let ends = [group.chars().next(), group.chars().last()];
            let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            group.len() <= LONGEST_GROUP
                && group.chars().all(inside)
                && ends.iter().all(|end| end.is_some_and(|c| c.is_ascii_alphanumeric()))
        }
        Of::Authority => {
            let length = group.chars().count();
            (1..=LONGEST_GROUP_AT_AUTHORITY).contains(&length)
                && group.trim() == group
                && !group.contains(char::is_control)
        }
    };
    let Some(unfit) = groups.iter().find(|group| !fits(group)) else { return Ok(()) };
    let shown: String = unfit.chars().take(LONGEST_GROUP).collect();
    refuse(match of {
        Of::Cluster => format!(
            "no group can be called {shown:?}; a group has a name of at most {LONGEST_GROUP} letters, digits, '-', '_' and '.', which begins and ends with a letter or digit"
        ),
        Of::Authority => format!(
            "no group can be called {shown:?}; a group has a name of at most {LONGEST_GROUP_AT_AUTHORITY} characters, without control characters and without blanks at its ends"
        ),
    })
}

/// NetBird keeps a group that is named twice, to no effect. In the resource, groups are a set.
fn without_repetition(groups: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(groups.len());
    for group in groups {
        if !kept.contains(&group) {
            kept.push(group);
        }
    }
    kept
}

/// The prefix of an object's name, made from free text. The API server adds the random end.
fn prefix(text: &str) -> String {
    let mut prefix = String::new();
    for character in text.chars().map(|character| character.to_ascii_lowercase()) {
        if character.is_ascii_alphanumeric() {
            prefix.push(character);
        } else if !prefix.is_empty() && !prefix.ends_with('-') {
            prefix.push('-');
        }
        if prefix.len() == PREFIX_LENGTH - 1 {
            break;
        }
    }
    let name = prefix.trim_end_matches('-');
    if name.is_empty() { "key-".to_owned() } else { format!("{name}-") }
}

#[cfg(test)]
mod tests;
