//! `kubectl setupkey rotate`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use setupkey_operator::{
    actions::moment_of_request,
    api::{Lifetime, SetupKey, SetupKeyStatus, State, Timestamp},
    cluster::{ObjectName, call},
    key::{Facts, KeyId, conditions::is_ready},
};

use crate::{
    at_once,
    each::{Patience, each, tell_each, why, without},
    failure::Failure,
    flags::{self, Connection, Targets},
    print::Printer,
    session::{Chosen, FIELD_MANAGER, Session},
};

/// The field that asks for a rotation, as people are told.
const FIELD: &str = "the annotation setupkey.dev/rotate-requested-at";

/// A difference of two clocks that may come from whole seconds.
const CLOCKS_DIFFER: Lifetime = Lifetime::seconds(2);

/// Replace keys by new ones. Replaced keys admit machines for spec.rotation.overlap, which is 24h unless it is set.
#[derive(clap::Args)]
#[command(
    after_help = "With kubectl alone:\n  kubectl annotate setupkeys.setupkey.dev NAME --overwrite setupkey.dev/rotate-requested-at=\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\""
)]
pub struct Flags {
    #[command(flatten)]
    targets: Targets,

    /// End the replaced keys at once, also those of earlier rotations. It waits until that is done.
    #[arg(long)]
    now: bool,

    /// Wait until the next keys are issued.
    #[arg(long)]
    wait: bool,

    /// How long to wait, with --wait or --now. The request stays when the time is over. Default: 60s.
    #[arg(long, value_name = "TIME", value_parser = flags::time)]
    timeout: Option<Lifetime>,
}

/// A rotation that was asked for.
pub struct Asked {
    /// The key before that.
    pub before: SetupKey,
    /// The key as it was written.
    pub written: SetupKey,
    /// The moment that was asked for.
    pub moment: Timestamp,
}

/// Rotates the keys.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    if flags.timeout.is_some() && !flags.wait && !flags.now {
        return Err(Failure::new("--timeout needs --wait or --now: without them, rotate only asks and does not wait"));
    }
    let session = &Session::start(connection)?;
    let Some(Chosen { keys, unread }) = session.targets(&flags.targets, printer).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let time = flags.timeout.unwrap_or(Lifetime::seconds(60)).as_duration();
    if flags.now {
        keys.iter().for_each(|key| at_once::warn_of_gitops(key, printer));
        let asked = each(keys, |key| at_once::ask(session, key)).await;
        let patience = Patience::from_now(time);
        let told = tell_each(asked, printer, |asked| async move { asked?.follow(session, patience).await });
        return Ok(without(&unread, told.await?));
    }
    keys.iter().for_each(|key| session.warn_of_gitops(key, FIELD, printer));
    let asked = each(keys, |key| ask(session, key)).await;
    asked.iter().flatten().filter_map(Asked::warning).for_each(|warning| printer.warn(&warning));
    let patience = Patience::from_now(time);
    let waits = flags.wait;
    let told = tell_each(asked, printer, |asked| async move {
        let asked = asked?;
        if waits { asked.follow(session, patience).await } else { Ok(format!("{}: rotation requested", asked.name())) }
    });
    Ok(without(&unread, told.await?))
}

async fn ask(session: &Session, before: SetupKey) -> Result<Asked, Failure> {
    check(&before)?;
    let (written, moment) = session.keys.request_rotation(&before, session.now()).await?;
    Ok(Asked { before, written, moment })
}

/// Refuses a rotation that would not take place.
pub fn check(key: &SetupKey) -> Result<(), Failure> {
    let name = ObjectName::of(key).name;
    let refused = |why: String| Err(Failure::new(format!("setupkey {name} is not rotated: {why}")));
    if key.metadata.deletion_timestamp.is_some() {
        return refused("it is being deleted".to_owned());
    }
    if key.spec.authority_ref.is_some() && key.spec.revoked {
        return refused(format!(
            "it is revoked, and NetBird creates no key that is revoked; kubectl setupkey unrevoke {name} issues another key"
        ));
    }
    if Facts::of(key).is_none() {
        return refused(format!("it has no key yet: {}", why(Some(key), None)));
    }
    Ok(())
}

impl Asked {
    fn name(&self) -> String {
        format!("setupkey {}", ObjectName::of(&self.before).name)
    }

    /// What the person must know whose clock is ahead of the cluster's.
    fn warning(&self) -> Option<String> {
        let written = written_at(&self.written)?;
        let is_ahead = self.moment > written.plus_seconds(CLOCKS_DIFFER.as_secs());
        // Otherwise it is the clock of the operator that has issued the current key.
        let is_of_this_clock = self.moment > moment_of_request(&self.before, DateTime::<Utc>::MIN_UTC);
        (is_ahead && is_of_this_clock).then(|| {
            format!(
                "the clock here is ahead: SetupKey {} is rotated at {}, and the cluster has {written} now",
                ObjectName::of(&self.before),
                self.moment
            )
        })
    }

    /// Whether this status is that of a key which was issued for the request.
    pub fn is_met(&self, status: &SetupKeyStatus) -> bool {
        let before = self.before.status.as_ref().and_then(|before| before.revision).unwrap_or(1);
        status.revision.unwrap_or(1) > before && status.issued_at >= Some(self.moment)
    }

    async fn follow(self, session: &Session, patience: Patience) -> Result<String, Failure> {
        let waited = session.keys.until(&self.written, patience.left(), |key| match key {
            None => Some(Err("it was deleted meanwhile")),
            Some(key) => key.status.as_ref().is_some_and(|status| self.is_met(status)).then(|| Ok(key.clone())),
        });
        let waited = waited.await;
        let why = match waited.answer {
            Some(Ok(after)) => {
                return Ok(format!("{}: {}", self.name(), issued(&self.before, &after, Seen::InStatus, session.now())));
            }
            Some(Err(why)) => why.to_owned(),
            None => self.why_not(waited.last.as_ref(), waited.error),
        };
        Err(Failure::new(format!(
            "the rotation of {} is requested, and is not done{}: {why}",
            self.name(),
            patience.in_words()
        )))
    }

    /// Why the next key is not issued, as far as is known.
    pub fn why_not(&self, last: Option<&SetupKey>, error: Option<call::Error>) -> String {
        let due = last.filter(|key| is_ready(key)).and_then(|key| key.status.as_ref()?.rotate_at);
        match due {
            Some(due) if due == self.moment && error.is_none() => {
                format!("it is due at {due} by the clock of the operator; is the clock here ahead?")
            }
            _ => why(last, error),
        }
    }
}

/// When the API server has written what this program has changed.
fn written_at(key: &SetupKey) -> Option<Timestamp> {
    let ours = key.metadata.managed_fields.iter().flatten();
    let ours = ours.filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER));
    ours.filter_map(|entry| entry.time.as_ref().map(Timestamp::from)).max()
}

/// How it is known that a replaced key without overlap has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// By the status alone. NetBird may still have the key.
    InStatus,
    /// The operator has looked through the keys at NetBird since.
    AtAuthority,
}

/// What is so after a rotation: which key was issued, and until when the last one admits machines.
pub fn issued(before: &SetupKey, after: &SetupKey, seen: Seen, now: DateTime<Utc>) -> String {
    let (empty, old) = (SetupKeyStatus::default(), before.status.clone().unwrap_or_default());
    let new = after.status.as_ref().unwrap_or(&empty);
    let (revision, mask) = (new.revision.unwrap_or(1), new.key.as_deref().unwrap_or_default());
    let state = Facts::of(after).map(|facts| facts.state(now));
    let state = match state {
        Some(State::Revoked) => ", revoked like the last one",
        _ => "",
    };
    let replaced = old.key.unwrap_or_default();
    let id = old.id.as_deref().and_then(KeyId::parse);
    let kept = Facts::previous(after).find(|previous| Some(&previous.id) == id.as_ref());
    let admitted = Facts::of(before).is_some_and(|facts| facts.state(now) == State::Valid);
    let end = match kept {
        Some(kept) if kept.state(now) == State::Valid => format!("admits until {}", kept.expires),
        None if before.spec.authority_ref.is_some() && admitted && seen == Seen::InStatus => {
            "admits until NetBird has deleted it".to_owned()
        }
        _ => "admits no machine any more".to_owned(),
    };
    format!("revision {revision} issued ({mask}){state}; {replaced} {end}")
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::{Value, json};

    use super::*;

    const OLD: &str = "00000000000000000001";

    fn key(spec: Value, status: Value) -> SetupKey {
        let mut whole = json!({
            "id": OLD, "digest": "d", "expires": "2027-02-22T06:00:00Z", "issuedAt": "2026-11-24T06:00:00Z",
            "revision": 3, "key": "9B2C1****",
        });
        json_patch::merge(&mut whole, &status);
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": "office" },
            "spec": spec, "status": whole,
        }))
        .unwrap()
    }

    fn now() -> DateTime<Utc> {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn said(spec: Value, used: i64, overlaps: bool) -> String {
        let before = key(spec.clone(), json!({ "usedTimes": used }));
        let previous = json!([{
            "id": OLD, "digest": "d", "key": "9B2C1****", "expires": "2027-02-22T06:00:00Z",
            "admitsUntil": "2026-11-25T12:00:00Z", "usedTimes": used, "usageLimit": 3,
        }]);
        let previous = if overlaps { previous } else { json!([]) };
        let after = json!({ "id": "00000000000000000002", "revision": 4, "key": "71D0A****", "previous": previous });
        issued(&before, &key(spec, after), Seen::InStatus, now())
    }

    #[test]
    fn the_end_of_the_replaced_key_is_what_the_status_shows() {
        let cluster = json!({ "usageLimit": 3 });
        let there = json!({ "usageLimit": 3, "authorityRef": { "name": "netbird" } });
        let until = "revision 4 issued (71D0A****); 9B2C1**** admits until 2026-11-25T12:00:00Z";
        let ended = "revision 4 issued (71D0A****); 9B2C1**** admits no machine any more";
        assert_eq!(said(cluster.clone(), 0, true), until);
        assert_eq!(said(cluster.clone(), 0, false), ended);
        assert_eq!(said(cluster, 3, true), ended, "a key whose limit is reached admits no machine");
        assert_eq!(said(there.clone(), 0, true), until);
        let unseen = "revision 4 issued (71D0A****); 9B2C1**** admits until NetBird has deleted it";
        assert_eq!(said(there, 0, false), unseen, "the status says more than was seen");
    }

    #[test]
    fn a_clock_that_is_ahead_is_told() {
        let written = "2026-11-24T12:00:00Z".parse::<Timestamp>().unwrap();
        let mut changed = key(json!({}), json!({}));
        changed.metadata.managed_fields =
            serde_json::from_value(json!([{ "manager": FIELD_MANAGER, "time": written }])).unwrap();
        let asked = |ahead: u64| Asked {
            before: key(json!({}), json!({})),
            written: changed.clone(),
            moment: written.plus_seconds(ahead),
        };
        assert_eq!(asked(1).warning(), None);
        let warning = asked(7200).warning().unwrap();
        assert!(
            warning.contains("is rotated at 2026-11-24T14:00:00Z, and the cluster has 2026-11-24T12:00:00Z"),
            "{warning}"
        );
    }

    #[test]
    fn a_rotation_by_schedule_in_between_is_not_the_one_that_was_asked_for() {
        let before = key(json!({}), json!({}));
        let moment = Timestamp::from(now());
        let asked = Asked { written: before.clone(), before, moment };
        let of = |revision: i64, issued: Timestamp| {
            key(json!({}), json!({ "revision": revision, "issuedAt": issued })).status.unwrap()
        };
        assert!(!asked.is_met(&of(4, (now() - TimeDelta::seconds(1)).into())));
        assert!(!asked.is_met(&of(3, moment)));
        assert!(asked.is_met(&of(4, moment)));
    }
}
