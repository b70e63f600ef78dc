//! All that is known about one key, as scripts read it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::api::events::v1::Event;
use schemars::JsonSchema;
use serde::Serialize;
use setupkey_operator::{
    api::{AuthorityKind, KeyType, Lifetime, Peer, PreviousKey, SetupKey, SetupKeyStatus, State, Timestamp},
    audit::{Evidence, Finding, RULES, Reader, Thresholds, findings},
    key::{
        Facts,
        conditions::{READY, VALID, condition, is_ready, stalled},
        issued_at,
    },
};

use super::around::{Around, Part};
use crate::events;

/// How many events are reported: the latest.
const MOST_EVENTS: usize = 10;

/// All that is known about one key.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Status")]
pub struct Report {
    /// The namespace of the SetupKey.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// reusable or one-off.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Whether the key admits machines, and why not; null until it is issued.
    pub state: Option<State>,
    /// Whether the condition Ready is True.
    pub ready: bool,
    /// Whether a person must act.
    pub stalled: bool,
    /// The reason of the condition Ready; null until the operator has reported.
    pub ready_reason: Option<String>,
    /// The message of the condition Ready.
    pub ready_message: Option<String>,
    /// Why an issued key admits no machines, in the words of the condition Valid.
    pub refusal: Option<String>,
    /// Whether the operator has reported on the latest spec.
    pub up_to_date: bool,
    /// Whether the SetupKey is being deleted.
    pub being_deleted: bool,
    /// The authority behind the key; null for a key of the cluster itself.
    pub authority: Option<AuthorityOfKey>,
    /// The public id of the key; null until it is issued.
    pub id: Option<String>,
    /// The key, masked; null until it is issued.
    pub key: Option<String>,
    /// Which key this is: 1 for the first.
    pub revision: Option<i64>,
    /// When it was issued.
    pub issued_at: Option<Timestamp>,
    /// The last second in which it admits machines.
    pub expires: Option<Timestamp>,
    /// When the next key is issued; null when none is due.
    pub rotate_at: Option<Timestamp>,
    /// How long before its expiry a key is replaced; null when that is on request only.
    pub renew_before: Option<Lifetime>,
    /// The keys that were replaced and may still admit machines, the oldest first.
    pub previous: Vec<Previous>,
    /// How many machines have joined with the current key.
    pub used_times: i64,
    /// How many may; null when there is no limit.
    pub usage_limit: Option<i32>,
    /// When a machine last joined, with any revision.
    pub last_used: Option<Timestamp>,
    /// The groups of machines that join.
    pub groups: Vec<String>,
    /// The Secret that holds the key.
    pub secret: SecretOfKey,
    /// The workloads whose pods read the Secret.
    pub readers: Option<Vec<Reader>>,
    /// The peers that have joined; null also for a key at NetBird, which has them.
    pub peers: Option<Peers>,
    /// The latest events, the newest first.
    pub events: Option<Vec<EventOfKey>>,
    /// What audit finds, with its default times.
    pub findings: Vec<Finding>,
    /// The ids of the rules that were skipped, because the pods are not shown.
    pub skipped: Vec<&'static str>,
    /// Why a part is null that could be seen with more rights: authority, readers, peers, events.
    pub not_shown: BTreeMap<&'static str, String>,
}

/// The authority behind a key.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorityOfKey {
    /// Authority or ClusterAuthority.
    pub kind: AuthorityKind,
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: Option<String>,
}

/// A key that was replaced.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Previous {
    /// Its public id.
    pub id: String,
    /// The key, masked.
    pub key: String,
    /// Whether it admits machines, and why not.
    pub state: State,
    /// The last second in which it may admit machines.
    pub admits_until: Timestamp,
}

/// The Secret that holds a key.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretOfKey {
    /// Its name.
    pub name: String,
    /// The keys of its data that the operator has written; empty until then.
    pub data_keys: Vec<String>,
}

/// How many peers have joined.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peers {
    /// All of them.
    pub total: usize,
    /// Those that were seen lately.
    pub connected: usize,
}

/// An event about a key.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventOfKey {
    /// Normal or Warning.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// When it last took place.
    pub last: Option<Timestamp>,
}

impl Report {
    /// The report on a key.
    pub fn of(key: &SetupKey, around: Around, now: DateTime<Utc>) -> Self {
        let empty = SetupKeyStatus::default();
        let status = key.status.as_ref().unwrap_or(&empty);
        let (spec, metadata) = (&key.spec, &key.metadata);
        let facts = Facts::of(key);
        let issued = facts.is_some().then_some(status);
        let ready = condition(status, READY);
        let refusal = condition(status, VALID).filter(|valid| issued.is_some() && valid.status != "True");
        let mut not_shown = BTreeMap::new();
        let mut shown = |part: &'static str, why: String| {
            not_shown.insert(part, why);
        };
        let authority = spec.authority_ref.as_ref().map(|authority| AuthorityOfKey {
            kind: authority.kind,
            name: authority.name.clone(),
            url: around.authority_url.transpose().unwrap_or_else(|why| {
                let written = status.secret.as_ref().and_then(|secret| secret.management_url.clone());
                if written.is_none() {
                    shown("authority", why);
                }
                written
            }),
        });
        let readers = part(around.readers, |why| shown("readers", why));
        let peers = match authority {
            Some(_) => None,
            None => part(around.peers, |why| shown("peers", why)).map(|peers| Peers::of(key, &peers)),
        };
        let events = part(around.events, |why| shown("events", why)).map(|events| latest(key, &events));
        let skipped = RULES.iter().filter(|rule| readers.is_none() && rule.evidence == Evidence::Pods);
        let namespace = metadata.namespace.clone().unwrap_or_default();
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            key_type: spec.key_type,
            state: facts.map(|facts| facts.state(now)),
            ready: is_ready(key),
            stalled: stalled(key).is_some(),
            ready_reason: ready.map(|ready| ready.reason.clone()),
            ready_message: ready.map(|ready| ready.message.clone()),
            refusal: refusal.map(|valid| valid.message.clone()),
            up_to_date: status.observed_generation >= metadata.generation,
            being_deleted: metadata.deletion_timestamp.is_some(),
            authority,
            id: issued.and_then(|status| status.id.clone()),
            key: issued.and_then(|status| status.key.clone()),
            revision: issued.and_then(|status| status.revision),
            issued_at: issued.and_then(|status| issued_at(spec, status)),
            expires: issued.and_then(|status| status.expires),
            rotate_at: issued.and_then(|status| status.rotate_at),
            renew_before: spec.rotation.as_ref().and_then(|rotation| rotation.renew_before),
            previous: key.previous().iter().map(|previous| Previous::of(key, previous, now)).collect(),
            used_times: status.used_times,
            usage_limit: spec.effective_usage_limit(),
            last_used: status.last_used,
            groups: spec.auto_groups.clone(),
            secret: SecretOfKey::of(key, status),
            readers: readers
                .as_ref()
                .map(|readers| readers.of_secret(&namespace, key.secret_name()).into_iter().cloned().collect()),
            peers,
            events,
            findings: findings(&RULES, key, readers.as_ref(), &Thresholds::default(), now),
            skipped: skipped.map(|rule| rule.id).collect(),
            namespace,
            not_shown,
        }
    }
}

fn part<T>(part: Part<T>, hidden: impl FnOnce(String)) -> Option<T> {
    part.map_err(hidden).ok()
}

impl Previous {
    /// A key that this one has replaced. One that is no key of the record any more has ended.
    fn of(key: &SetupKey, previous: &PreviousKey, now: DateTime<Utc>) -> Self {
        let facts = Facts::previous(key).find(|facts| facts.id.to_string() == previous.id);
        Self {
            id: previous.id.clone(),
            key: previous.key.clone(),
            state: facts.map_or(State::Expired, |facts| facts.state(now)),
            admits_until: previous.admits_until.min(previous.expires),
        }
    }
}

impl SecretOfKey {
    fn of(key: &SetupKey, status: &SetupKeyStatus) -> Self {
        let written = status.secret.as_ref();
        let data_keys = written.into_iter().flat_map(|secret| {
            [&secret.key].into_iter().chain(&secret.aliases).chain(&secret.management_url_key).cloned()
        });
        Self { name: key.secret_name().to_owned(), data_keys: data_keys.collect() }
    }
}

impl Peers {
    /// A Peer of an earlier SetupKey of the same name has the same label, and another uid.
    fn of(key: &SetupKey, peers: &[Peer]) -> Self {
        let of_key = || peers.iter().filter(|peer| Some(&peer.spec.setup_key_ref.uid) == key.metadata.uid.as_ref());
        let is_connected = |peer: &&Peer| peer.status.as_ref().is_some_and(|status| status.connected);
        Self { total: of_key().count(), connected: of_key().filter(is_connected).count() }
    }
}

/// The latest events about this key, the newest first. An event of another object of this name has another uid or group.
fn latest(key: &SetupKey, events: &[Event]) -> Vec<EventOfKey> {
    let of_key = |row: &events::Row| row.uid.is_empty() || Some(&row.uid) == key.metadata.uid.as_ref();
    let rows = events.iter().filter_map(events::Row::of).filter(of_key);
    let mut events: Vec<_> = rows.map(EventOfKey::from).collect();
    events.sort_by_key(|event| std::cmp::Reverse(event.last));
    events.truncate(MOST_EVENTS);
    events
}

impl From<events::Row> for EventOfKey {
    fn from(row: events::Row) -> Self {
        Self { event_type: row.event_type, reason: row.reason, message: row.message, last: row.last_seen }
    }
}
