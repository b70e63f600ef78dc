//! The rules: what each looks for in a key, and what it advises.
//!
//! A rule has an id that never changes its meaning: people name it in pipelines. Which keys a rule leaves alone stands at its
//! function. Three things hold for all:
//!
//! - A key that is not issued, or that is being deleted, is judged by its spec alone (SK001, SK002, SK007).
//! - The terms of a key matter while machines may join under them. For a key that is revoked, or that is expired or overused with
//!   no rotation to come, SK001, SK002, SK007, SK008 and SK009 are silent.
//! - A time that equals its threshold is still in order.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use super::{How, Reader, Readers, Severity, Thresholds, ends_soon, names};
use crate::{
    api::{KeyType, Lifetime, SetupKey, State, Timestamp},
    key::{Facts, issued_at},
};

/// How long an expired `SetupKey` may stay: its status still tells what became of the key.
const EXPIRED_KEPT: Lifetime = Lifetime::hours(30 * 24);

/// The kind of a reader that runs to its end, and whose machines are gone then.
const JOB: &str = "job";

/// One thing that can be unwise about a key.
#[derive(Debug)]
pub struct Rule {
    /// The id by which people name it.
    pub id: &'static str,
    /// How much its findings matter.
    pub severity: Severity,
    /// What it has to see.
    pub evidence: Evidence,
    look: fn(&Seen<'_>) -> Option<Advice>,
}

/// What a rule has to see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Evidence {
    /// The `SetupKey`.
    Key,
    /// The pods of its namespace too.
    Pods,
}

/// Something unwise about a key, and what to do about it.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Finding {
    /// The id of the rule. It never changes its meaning.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The namespace of the SetupKey.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What was found.
    pub finding: String,
    /// What to do.
    pub advice: String,
}

/// All rules, by id.
pub static RULES: [Rule; 9] = [
    Rule { id: "SK001", severity: Severity::Warn, evidence: Evidence::Key, look: lives_too_long },
    Rule { id: "SK002", severity: Severity::Warn, evidence: Evidence::Key, look: has_no_limit },
    Rule { id: "SK003", severity: Severity::Warn, evidence: Evidence::Key, look: was_never_used },
    Rule { id: "SK004", severity: Severity::Warn, evidence: Evidence::Key, look: is_idle },
    Rule { id: "SK005", severity: Severity::Warn, evidence: Evidence::Key, look: ends_without_successor },
    Rule { id: "SK006", severity: Severity::Info, evidence: Evidence::Key, look: is_long_expired },
    Rule { id: "SK007", severity: Severity::Info, evidence: Evidence::Key, look: is_one_off_in_disguise },
    Rule { id: "SK008", severity: Severity::Info, evidence: Evidence::Pods, look: leaves_machines_of_jobs },
    Rule { id: "SK009", severity: Severity::Info, evidence: Evidence::Pods, look: is_in_variables },
];

/// What these rules find in a key, in the order of the rules. Without readers, the rules that need pods find nothing.
pub fn findings<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    key: &SetupKey,
    readers: Option<&Readers>,
    thresholds: &Thresholds,
    now: DateTime<Utc>,
) -> Vec<Finding> {
    let seen = Seen { key, facts: Facts::of(key), readers, thresholds, now };
    let found = rules.into_iter().filter_map(|rule| {
        let Advice { finding, advice } = (rule.look)(&seen)?;
        Some(Finding {
            id: rule.id,
            severity: rule.severity,
            namespace: seen.namespace().to_owned(),
            name: seen.name().to_owned(),
            finding,
            advice,
        })
    });
    found.collect()
}

/// What a rule says.
struct Advice {
    finding: String,
    advice: String,
}

impl Advice {
    fn new(finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { finding: finding.into(), advice: advice.into() }
    }
}

/// A key as the rules see it.
struct Seen<'a> {
    key: &'a SetupKey,
    facts: Option<Facts>,
    readers: Option<&'a Readers>,
    thresholds: &'a Thresholds,
    now: DateTime<Utc>,
}

impl Seen<'_> {
    fn namespace(&self) -> &str {
        self.key.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.key.metadata.name.as_deref().unwrap_or_default()
    }

    /// The facts of a key that is issued and not being deleted.
    fn issued(&self) -> Option<&Facts> {
        self.facts.as_ref().filter(|_| self.key.metadata.deletion_timestamp.is_none())
    }

    /// The same, of a key that is in this state.
    fn issued_and(&self, state: State) -> Option<&Facts> {
        self.issued().filter(|facts| facts.state(self.now) == state)
    }

    /// Whether machines may join under the terms of this key, now or with a later revision.
    fn terms_matter(&self) -> bool {
        let rotates = self.key.status.as_ref().is_some_and(|status| status.rotate_at.is_some());
        match self.facts.as_ref().map(|facts| facts.state(self.now)) {
            None => !self.key.spec.revoked,
            Some(State::Valid) => true,
            Some(State::Revoked) => false,
            Some(State::Expired | State::Overused) => rotates,
        }
    }

    fn last_used(&self) -> Option<Timestamp> {
        self.key.status.as_ref()?.last_used
    }

    /// The seconds since a moment, if they are more than so many.
    fn longer_ago(&self, moment: Timestamp, than: Lifetime) -> Option<u64> {
        let seconds = u64::try_from((self.now - moment.moment()).num_seconds()).ok()?;
        (moment.plus_seconds(than.as_secs()).moment() < self.now).then_some(seconds)
    }

    /// The workloads that read this key. A variable from another data key of its Secret does not.
    fn readers(&self) -> impl Iterator<Item = &Reader> {
        let aliases = self.key.spec.secret.iter().flat_map(|secret| secret.aliases.iter().map(String::as_str));
        let data_keys: Vec<_> = aliases.chain([self.key.secret_key()]).collect();
        let of = self.readers.map(|readers| readers.of_data_keys(self.namespace(), self.key.secret_name(), &data_keys));
        of.into_iter().flatten()
    }
}

/// SK001: the key lives longer than is advised. A rotation does not lift it, because a key that leaks admits machines for its
/// whole lifetime unless it is revoked.
fn lives_too_long(seen: &Seen<'_>) -> Option<Advice> {
    let (lives, most) = (seen.key.spec.expires_in, seen.thresholds.max_age);
    if lives <= most || !seen.terms_matter() {
        return None;
    }
    let (lives, most) = (Span::exact(lives.as_secs()), Span::exact(most.as_secs()));
    // One unit is said once.
    let most = if lives.unit == most.unit { most.number.to_string() } else { most.to_string() };
    Some(Advice::new(format!("lives {lives}; longest advised {most}"), "shorter expiresIn with rotation"))
}

/// SK002: any number of machines may join. A one-off key has the limit 1.
fn has_no_limit(seen: &Seen<'_>) -> Option<Advice> {
    let found = seen.key.spec.effective_usage_limit().is_none() && seen.terms_matter();
    found.then(|| Advice::new("reusable without usageLimit", "set a limit, or type: one-off"))
}

/// SK003: the key admits machines, and none has joined with any revision of it. The time is counted from its issue, and a
/// rotation by schedule does not begin it again.
fn was_never_used(seen: &Seen<'_>) -> Option<Advice> {
    let facts = seen.issued_and(State::Valid)?;
    let status = seen.key.status.as_ref()?;
    let before = seen.key.previous().iter().any(|previous| previous.used_times > 0);
    if facts.used_times > 0 || before || status.last_used.is_some() {
        return None;
    }
    let issued = status.unused_since.or_else(|| issued_at(&seen.key.spec, status))?;
    let ago = Span::about(seen.longer_ago(issued, seen.thresholds.unused)?);
    Some(Advice::new(
        format!("never used in {ago} since it was issued"),
        format!("kubectl setupkey revoke {} -n {}", seen.name(), seen.namespace()),
    ))
}

/// SK004: the key admits machines, and the last one joined long ago.
fn is_idle(seen: &Seen<'_>) -> Option<Advice> {
    seen.issued_and(State::Valid)?;
    let ago = Span::about(seen.longer_ago(seen.last_used()?, seen.thresholds.idle)?);
    let advice = match seen.key.spec.revoke_unused_after {
        None => "revoke, or revokeUnusedAfter",
        Some(_) => "revoke, or shorter revokeUnusedAfter",
    };
    Some(Advice::new(format!("valid, last used {ago} ago"), advice))
}

/// SK005: machines join with the key, it ends soon, and no other one takes its place before that.
fn ends_without_successor(seen: &Seen<'_>) -> Option<Advice> {
    let facts = seen.issued()?;
    if !ends_soon(seen.key, seen.thresholds.soon, seen.now) {
        return None;
    }
    let left = Span::about(u64::try_from((facts.expires.moment() - seen.now).num_seconds()).unwrap_or_default());
    let uses = match facts.used_times {
        1 => "once".to_owned(),
        many => format!("{many} times"),
    };
    Some(Advice::new(format!("expires in {left}, no rotation, used {uses} so far"), "add spec.rotation"))
}

/// SK006: the key has been expired for more than 30 days. Until then, its status may still be of use to people.
fn is_long_expired(seen: &Seen<'_>) -> Option<Advice> {
    let facts = seen.issued_and(State::Expired)?;
    let ago = Span::about(seen.longer_ago(facts.expires, EXPIRED_KEPT)?);
    Some(Advice::new(format!("expired {ago} ago"), "delete"))
}

/// SK007: a one-off key says what is meant. With a rotation by schedule, a reusable key of the limit 1 admits one machine in each
/// revision, which a one-off key does not.
fn is_one_off_in_disguise(seen: &Seen<'_>) -> Option<Advice> {
    let spec = &seen.key.spec;
    let by_schedule = spec.rotation.as_ref().is_some_and(|rotation| rotation.renew_before.is_some());
    let found = spec.key_type == KeyType::Reusable && spec.usage_limit == 1 && !by_schedule && seen.terms_matter();
    found.then(|| Advice::new("reusable with usageLimit 1", "type: one-off"))
}

/// SK008: a Job reads the key. Its machines are gone when it ends, and their Peers stay.
fn leaves_machines_of_jobs(seen: &Seen<'_>) -> Option<Advice> {
    seen.issued()?;
    if seen.key.spec.ephemeral || !seen.terms_matter() {
        return None;
    }
    // Files come before variables.
    let how = seen.readers().filter(|reader| reader.kind == JOB).map(|reader| reader.how).min()?;
    let reads = match how {
        How::File => "mounted",
        How::Variable => "read",
    };
    Some(Advice::new(format!("not ephemeral, but its Secret is {reads} by a Job"), "ephemeral: true"))
}

/// SK009: the key is in environment variables, which every process of the container and every crash report shows. They keep
/// the old key after a rotation.
fn is_in_variables(seen: &Seen<'_>) -> Option<Advice> {
    seen.issued()?;
    let readers = names(seen.readers().filter(|reader| reader.how == How::Variable));
    let found = !readers.is_empty() && seen.terms_matter();
    found.then(|| Advice::new(format!("read as env variable by {readers}"), "mount as file, NB_SETUP_KEY_FILE"))
}

/// The units of spans: their names, and their seconds.
const UNITS: [(&str, u64); 4] = [("days", 86_400), ("hours", 3600), ("minutes", 60), ("seconds", 1)];

/// A span of time in one unit, as in "12 days".
#[derive(Clone, Copy)]
struct Span {
    number: u64,
    unit: &'static str,
}

impl Span {
    /// In the largest unit that leaves two or more, rounded down.
    fn about(seconds: u64) -> Self {
        Self::in_unit(seconds, |size| seconds / size >= 2)
    }

    /// The same without rounding.
    fn exact(seconds: u64) -> Self {
        Self::in_unit(seconds, |size| seconds / size >= 2 && seconds.is_multiple_of(size))
    }

    fn in_unit(seconds: u64, fits: impl Fn(u64) -> bool) -> Self {
        let (unit, size) = UNITS.into_iter().find(|(_, size)| fits(*size)).unwrap_or(("seconds", 1));
        Self { number: seconds / size, unit }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.number == 1 { self.unit.trim_end_matches('s') } else { self.unit };
        write!(f, "{} {unit}", self.number)
    }
}

#[cfg(test)]
mod tests;
