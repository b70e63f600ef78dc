//! `kubectl setupkey wait`.

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, Utc};
use setupkey_operator::{
    api::{Lifetime, SetupKey, SetupKeyStatus, State, Timestamp, metadata::ROTATE_ANNOTATION},
    cluster::ObjectName,
    key::{
        Facts,
        conditions::{VALID, condition, is_ready},
        issued_at, rotation,
    },
};

use crate::{
    each::{Patience, each, tell_each, why},
    failure::Failure,
    flags::{self, Connection, Words},
    print::Printer,
    session::Session,
};

/// Wait until keys are as you need them.
#[derive(clap::Args)]
#[command(
    after_help = "With kubectl alone:\n  kubectl wait setupkeys.setupkey.dev NAME --for=jsonpath='{.status.state}'=valid"
)]
pub struct Flags {
    /// Names of SetupKeys.
    #[arg(value_name = "NAME", value_parser = flags::name, required = true)]
    names: Vec<String>,

    /// What to wait for: valid, issued, rotated, used=N, expired, revoked or ready.
    #[arg(long = "for", value_name = "WHAT", hide_possible_values = true, value_parser = GOALS)]
    goal: Goal,

    /// How long to wait; 0s looks once.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = flags::time)]
    timeout: Lifetime,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Goal {
    Valid,
    Issued,
    /// The next revision begins.
    Rotated,
    /// So many machines have joined with the current key.
    Used(i64),
    Expired,
    Revoked,
    Ready,
}

const GOALS: Words<Goal> =
    Words { words: &["valid", "issued", "rotated", "used=", "expired", "revoked", "ready"], read: goal };

fn goal(text: &str) -> Result<Goal, String> {
    Ok(match text {
        "valid" => Goal::Valid,
        "issued" => Goal::Issued,
        "rotated" => Goal::Rotated,
        "expired" => Goal::Expired,
        "revoked" => Goal::Revoked,
        "ready" => Goal::Ready,
        other => {
            let times = other
                .strip_prefix("used=")
                .ok_or("there is valid, issued, rotated, used=N, expired, revoked and ready")?;
            let times = times.parse().ok().filter(|times| *times > 0);
            Goal::Used(times.ok_or("used=N has a number of machines from 1 on, such as used=3")?)
        }
    })
}

/// Waits for all of the keys.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let session = &Session::start(connection)?;
    let mut names = flags.names.clone();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let mut keys = Vec::new();
    for key in each(&names, |name| session.key(name)).await {
        keys.push(key?);
    }
    let patience = Patience::from_now(flags.timeout.as_duration());
    tell_each(&keys, printer, |key| wait(session, key, flags.goal, patience)).await
}

/// What one look at a key shows.
enum Look {
    Met,
    /// Waiting does not help.
    OutOfReach(String),
}

async fn wait(session: &Session, start: &SetupKey, goal: Goal, patience: Patience) -> Result<String, Failure> {
    let name = ObjectName::of(start).name;
    let look = |key: Option<&SetupKey>| look(key, start, goal, session.now());
    let (mut answer, mut last, mut error) = (look(Some(start)), Some(start.clone()), None);
    let left = patience.left();
    if answer.is_none() && left > Duration::ZERO {
        let waited = session.keys.until(start, left, look).await;
        (answer, last, error) = (waited.answer, waited.last, waited.error);
    }
    match answer {
        Some(Look::Met) => Ok(format!("setupkey {name}: {}", goal.in_words())),
        Some(Look::OutOfReach(why)) => {
            Err(Failure::new(format!("setupkey {name} can no longer be {}: {why}", goal.in_words())))
        }
        None => {
            let so = match (&last, error) {
                (Some(key), None) => goal.instead(key, session.now()),
                (_, error) => why(last.as_ref(), error),
            };
            Err(Failure::new(format!("setupkey {name} is not {}{}: {so}", goal.in_words(), patience.in_words())))
        }
    }
}

fn look(key: Option<&SetupKey>, start: &SetupKey, goal: Goal, now: DateTime<Utc>) -> Option<Look> {
    match key {
        None => Some(Look::OutOfReach("it was deleted".to_owned())),
        Some(key) if goal.is_met(key, start, now) => Some(Look::Met),
        Some(key) => goal.out_of_reach(key, now).map(Look::OutOfReach),
    }
}

impl Goal {
    fn in_words(self) -> String {
        match self {
            Goal::Valid => "valid".to_owned(),
            Goal::Issued => "issued".to_owned(),
            Goal::Rotated => "rotated".to_owned(),
            Goal::Used(times) => format!("used by {}", machines(times)),
            Goal::Expired => "expired".to_owned(),
            Goal::Revoked => "revoked".to_owned(),
            Goal::Ready => "ready".to_owned(),
        }
    }

    /// Whether the key is as it was waited for. `start` is the key as it was when the wait began.
    fn is_met(self, key: &SetupKey, start: &SetupKey, now: DateTime<Utc>) -> bool {
        let state = Facts::of(key).map(|facts| facts.state(now));
        match self {
            Goal::Valid => state == Some(State::Valid) && is_reported(key),
            Goal::Issued => state.is_some() && is_in_secret(key),
            Goal::Rotated => revision(key) > revision(start),
            Goal::Used(times) => key.used_times() >= times,
            Goal::Expired => state == Some(State::Expired),
            Goal::Revoked => state == Some(State::Revoked) && is_reported(key),
            Goal::Ready => is_ready(key) && is_reported(key),
        }
    }

    /// Why the key cannot become so any more, if it cannot.
    fn out_of_reach(self, key: &SetupKey, now: DateTime<Utc>) -> Option<String> {
        if key.metadata.deletion_timestamp.is_some() {
            return Some("it is being deleted".to_owned());
        }
        let limit = key.spec.effective_usage_limit().map(i64::from);
        if let (Goal::Used(times), Some(limit)) = (self, limit)
            && times > limit
        {
            return Some(format!("at most {} may join with it", machines(limit)));
        }
        let status = key.status.as_ref()?;
        if is_to_be_rotated(key, status, now) {
            return None;
        }
        let never_again = "and no rotation is due";
        match (self, Facts::of(key)?.state(now)) {
            (Goal::Valid, State::Expired) => Some(format!("{}, {never_again}", ended(status))),
            (Goal::Valid, State::Overused) => {
                Some(format!("{} joined, which is its limit, {never_again}", machines(key.used_times())))
            }
            // The uses at an authority are reported later.
            (Goal::Used(_), State::Expired) if key.spec.authority_ref.is_none() => {
                Some(format!("{}, {never_again}", ended(status)))
            }
            (Goal::Revoked, State::Expired) => Some(format!("{}, and stays so if it is revoked", ended(status))),
            _ => None,
        }
    }

    /// What is so instead, and why.
    fn instead(self, key: &SetupKey, now: DateTime<Utc>) -> String {
        let Some((facts, status)) = Facts::of(key).zip(key.status.as_ref()) else {
            return format!("it is not issued: {}", why(Some(key), None));
        };
        let state = facts.state(now);
        if !is_reported(key) && matches!(self, Goal::Valid | Goal::Revoked | Goal::Ready) {
            return format!("its last change is not reported yet: {}", why(Some(key), None));
        }
        match (self, status.rotate_at) {
            (Goal::Ready | Goal::Issued, _) => why(Some(key), None),
            (Goal::Rotated, _) if !is_ready(key) => why(Some(key), None),
            (Goal::Rotated, Some(due)) => format!("the next rotation is due at {due}"),
            (Goal::Rotated, None) => "no rotation is due; ask for one with kubectl setupkey rotate".to_owned(),
            (Goal::Used(_), _) if state == State::Valid => format!("{} joined so far", machines(key.used_times())),
            _ => {
                let valid = condition(status, VALID).map_or("", |valid| valid.message.as_str());
                // The clock may have moved the state since it was reported.
                if status.state == Some(state) { format!("it is {state}: {valid}") } else { format!("it is {state}") }
            }
        }
    }
}

/// Whether the status is about the spec as it stands.
fn is_reported(key: &SetupKey) -> bool {
    key.status.as_ref().is_some_and(|status| status.observed_generation >= key.metadata.generation)
}

/// Whether the Secret holds the key. One at an authority stays on record without a Secret.
fn is_in_secret(key: &SetupKey) -> bool {
    key.spec.authority_ref.is_none() || key.status.as_ref().is_some_and(|status| status.secret.is_some())
}

fn revision(key: &SetupKey) -> i64 {
    key.status.as_ref().and_then(|status| status.revision).unwrap_or(1)
}

/// Whether another key is to be issued in place of this one, by schedule or on request.
fn is_to_be_rotated(key: &SetupKey, status: &SetupKeyStatus, now: DateTime<Utc>) -> bool {
    let requested = key.metadata.annotations.as_ref().and_then(|all| all.get(ROTATE_ANNOTATION));
    let requested: Option<Timestamp> = requested.and_then(|text| text.parse().ok());
    let is_requested =
        requested.is_some_and(|moment| issued_at(&key.spec, status).is_none_or(|issued| moment > issued));
    is_requested || status.rotate_at.is_some() || rotation::due(key, now).is_some()
}

fn ended(status: &SetupKeyStatus) -> String {
    status.expires.map_or_else(|| "it is expired".to_owned(), |expires| format!("it expired at {expires}"))
}

fn machines(number: i64) -> String {
    if number == 1 { "1 machine".to_owned() } else { format!("{number} machines") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_waited_for_is_read() {
        assert_eq!(goal("valid"), Ok(Goal::Valid));
        assert_eq!(goal("used=3"), Ok(Goal::Used(3)));
        for text in ["used=0", "used=", "used", "used=-1", "used=x"] {
            assert!(goal(text).is_err(), "{text}");
        }
        assert!(goal("condition=Ready").unwrap_err().contains("used=N"));
    }
}
