//! A report, as people read it.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use setupkey_operator::{
    api::{AuthorityKind, KeyType, State, Timestamp},
    audit::names,
    plain::plain,
};

use super::report::{Previous, Report};
use crate::{
    audit::severity_tone,
    each::NOT_REPORTED,
    list::{state_tone, type_name},
    table::Tone,
    words,
};

/// How many of the latest events are named.
const MOST_EVENTS: usize = 3;

/// The width of the column of labels.
const LABELS: usize = 11;

impl Report {
    /// The lines for people.
    pub fn text(&self, now: DateTime<Utc>) -> String {
        let mut text = format!("{}\n", self.head());
        let mut line = |label: &str, line: &str| {
            let _ = writeln!(text, "  {label:<LABELS$}{line}");
        };
        if !self.ready {
            line("ready", &plain(&self.unready()));
        }
        if !self.up_to_date && self.ready_reason.is_some() {
            line("spec", "the operator has not reported on its latest change yet");
        }
        if let Some(refusal) = self.refusal.as_ref().filter(|_| self.state != Some(State::Valid)) {
            line("refuses", &plain(refusal));
        }
        line("key", &plain(&self.key_line(now)));
        line("rotation", &plain(&self.rotation(now)));
        line("uses", &plain(&format!("{}        groups  {}", self.uses(now), self.groups())));
        line("secret", &plain(&format!("{}   {}", self.secret_line(), self.readers_words())));
        line("peers", &plain(&format!("{}   events  {}", self.peers_line(), self.events_line(now))));
        let mut label = "findings";
        for finding in self.finding_lines() {
            line(std::mem::take(&mut label), &finding);
        }
        text
    }

    fn head(&self) -> String {
        let state = match self.state {
            Some(state) => state_tone(state).paint(state.as_str()),
            None => Tone::Warn.paint("not issued"),
        };
        let ready = match (self.ready, self.stalled) {
            (true, _) => Tone::Good.paint("Ready"),
            (false, false) => Tone::Warn.paint("not Ready"),
            (false, true) => Tone::Bad.paint("Stalled"),
        };
        let deletion =
            if self.being_deleted { format!(" · {}", Tone::Warn.paint("being deleted")) } else { String::new() };
        let authority = plain(&self.authority_words()).into_owned();
        format!("{}  {} · {state} · {ready}{deletion}     {authority}", plain(&self.name), type_name(self.key_type))
    }

    fn authority_words(&self) -> String {
        let Some(authority) = &self.authority else { return "authority the cluster itself".to_owned() };
        let kind = match authority.kind {
            AuthorityKind::Authority => "authority",
            AuthorityKind::ClusterAuthority => "cluster authority",
        };
        let url = match (&authority.url, self.not_shown.get("authority")) {
            (Some(url), _) => format!(" ({url})"),
            (None, Some(why)) => format!(" (URL not shown: {why})"),
            (None, None) => String::new(),
        };
        format!("{kind} {}{url}", authority.name)
    }

    fn unready(&self) -> String {
        match (&self.ready_reason, &self.ready_message) {
            (Some(reason), Some(message)) => format!("{reason}: {message}"),
            _ => NOT_REPORTED.to_owned(),
        }
    }

    fn key_line(&self, now: DateTime<Utc>) -> String {
        let (Some(id), Some(expires)) = (&self.id, self.expires) else { return "not issued yet".to_owned() };
        let key = self.key.as_deref().unwrap_or_default();
        let revision = self.revision.unwrap_or(1);
        let issued =
            self.issued_at.map_or(String::new(), |issued| format!(", issued {} ago", words::since(issued, now)));
        let expires = format!("{} {expires} ({})", ends(self.state), words::until(expires, now));
        format!("{key}  id {id}  revision {revision}{issued}, {expires}")
    }

    fn rotation(&self, now: DateTime<Utc>) -> String {
        let day = |moment: Timestamp| moment.moment().format("%Y-%m-%d").to_string();
        let next = match (self.rotate_at, self.renew_before) {
            (Some(at), _) if at.moment() <= now => format!("due since {} ({})", day(at), words::until(at, now)),
            (Some(at), _) => format!("{} ({})", day(at), words::until(at, now)),
            (None, None) => "on request only".to_owned(),
            (None, Some(_)) if self.state == Some(State::Revoked) => "skipped, because the key is revoked".to_owned(),
            (None, Some(_)) if self.key_type == KeyType::OneOff && self.used_times > 0 => {
                "skipped, because the key is one-off and used".to_owned()
            }
            (None, Some(_)) => "none due".to_owned(),
        };
        let previous = self.previous.iter().map(|previous| format!(", {}", previous.words(now)));
        previous.fold(next, |line, previous| line + &previous)
    }

    fn uses(&self, now: DateTime<Utc>) -> String {
        let uses = match self.usage_limit {
            Some(limit) => format!("{} of {limit}", self.used_times),
            None => format!("{}, no limit", self.used_times),
        };
        match self.last_used {
            Some(last) => format!("{uses}, last {} ago", words::since(last, now)),
            None if self.used_times == 0 => format!("{uses}, never used"),
            None => uses,
        }
    }

    fn groups(&self) -> String {
        if self.groups.is_empty() { "none".to_owned() } else { self.groups.join(", ") }
    }

    fn secret_line(&self) -> String {
        let name = &self.secret.name;
        match self.secret.data_keys.as_slice() {
            [] => format!("{name}: not written yet"),
            data_keys => format!("{name}: {}", data_keys.join(", ")),
        }
    }

    fn readers_words(&self) -> String {
        match &self.readers {
            Some(readers) if readers.is_empty() => "read by no pod".to_owned(),
            Some(readers) => format!("read by {}", names(readers)),
            None => format!("readers {}", self.hidden("readers")),
        }
    }

    fn peers_line(&self) -> String {
        match &self.peers {
            Some(peers) if peers.total == 0 => "none".to_owned(),
            Some(peers) => format!("{} ({} connected)", peers.total, peers.connected),
            None if self.authority.is_some() => "NetBird has them".to_owned(),
            None => self.hidden("peers"),
        }
    }

    fn events_line(&self, now: DateTime<Utc>) -> String {
        let Some(events) = &self.events else { return self.hidden("events") };
        let latest = events.iter().take(MOST_EVENTS).map(|event| match event.last {
            Some(last) => format!("{} {} ago", event.reason, words::since(last, now)),
            None => event.reason.clone(),
        });
        let latest: Vec<_> = latest.collect();
        if latest.is_empty() { "none".to_owned() } else { latest.join(", ") }
    }

    fn finding_lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let id = severity_tone(finding.severity).paint(finding.id);
                format!("{id} {}: {}", plain(&finding.finding), plain(&finding.advice))
            })
            .collect();
        let skipped = self.skipped.join(" and ");
        match (lines.is_empty(), skipped.is_empty()) {
            (true, true) => lines.push("none".to_owned()),
            (true, false) => lines.push(format!("none; {skipped} not checked")),
            (false, true) => {}
            (false, false) => lines.push(format!("{skipped} not checked")),
        }
        lines
    }

    fn hidden(&self, part: &str) -> String {
        format!("not shown: {}", self.not_shown.get(part).map_or("it could not be read", String::as_str))
    }
}

impl Previous {
    fn words(&self, now: DateTime<Utc>) -> String {
        let (key, until) = (&self.key, self.admits_until);
        match self.state {
            State::Valid => {
                let minute = until.moment().format("%Y-%m-%d %H:%M");
                format!("previous {key} admits until {minute} ({})", words::until(until, now))
            }
            State::Expired => format!("previous {key} has ended"),
            state => format!("previous {key} is {state}"),
        }
    }
}

/// The verb for the expiry of a key in this state.
fn ends(state: Option<State>) -> &'static str {
    if state == Some(State::Expired) { "expired" } else { "expires" }
}
