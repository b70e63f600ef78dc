//! `kubectl setupkey list`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use setupkey_operator::{
    api::{KeyType, SetupKey, SetupKeyStatus, State, Timestamp},
    audit::{Thresholds, ends_soon},
    key::{
        Facts,
        conditions::{READY, VALID, condition, is_ready, reason_of, stalled},
    },
};

use crate::{
    failure::Failure,
    flags::{Connection, Format, Output, Selection},
    print::{Printer, resource_line},
    session::{Session, none_found},
    table::{Cell, NOTHING, Table, Tone},
    words,
};

/// List keys, first those that need a person: not ready, expired, used up, about to expire.
#[derive(clap::Args)]
#[command(after_help = "With kubectl alone:\n  kubectl get setupkeys.setupkey.dev -A")]
pub struct Flags {
    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    output: Output,
}

/// The keys of a list, as scripts read them.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyList {
    /// The keys, in the order of the table.
    pub keys: Vec<Row>,
}

/// A key, as it is at this moment.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// The namespace of the SetupKey.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// reusable or one-off.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Whether the key admits machines, and why not; null until it is issued.
    pub state: Option<State>,
    /// Whether the cluster matches the spec, as the operator has reported.
    pub ready: bool,
    /// How many machines have joined with the current key.
    pub used_times: i64,
    /// How many may; null when there is no limit.
    pub usage_limit: Option<i32>,
    /// When a machine last joined, with any revision.
    pub last_used: Option<Timestamp>,
    /// The last second in which the key admits machines.
    pub expires: Option<Timestamp>,
    /// When the next key is issued; null when none is due.
    pub rotate_at: Option<Timestamp>,
    /// The name of the Secret.
    pub secret: String,
    /// The public id of the key.
    pub id: Option<String>,
    /// The key, masked.
    pub key: Option<String>,
    /// Which key this is: 1 for the first.
    pub revision: Option<i64>,
    /// The authority behind the key; null for a key of the cluster itself.
    pub authority: Option<String>,
    /// What a person should know, in few words.
    pub note: Option<String>,
    #[serde(skip)]
    rank: Rank,
}

/// What comes first in the list.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    /// A person must act, or the key is not issued.
    NotReady,
    Expired,
    Overused,
    /// It ends soon, and machines still join with it.
    Soon,
    InUse,
    NeverUsed,
    Revoked,
}

/// Lists the keys.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let session = Session::start(connection)?;
    let now = session.now();
    let keys = session.select(&flags.selection, printer).await?.keys;
    let mut rows: Vec<_> = keys.iter().map(|key| Row::of(key, now)).collect();
    rows.sort_by(|a, b| (a.rank, &a.namespace, &a.name).cmp(&(b.rank, &b.namespace, &b.name)));
    match flags.output.output {
        Format::Json => printer.json(&KeyList { keys: rows })?,
        Format::Yaml => printer.yaml(&KeyList { keys: rows })?,
        Format::Name => {
            let names: String = rows.iter().map(|row| resource_line(&row.name)).collect();
            printer.print(&names)?;
        }
        Format::Table | Format::Wide if rows.is_empty() => {
            printer.note(&none_found(session.scope(&flags.selection)));
        }
        form => printer.print(&table(&rows, flags.selection.all_namespaces, form, flags.output.no_headers, now))?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Row {
    /// A key as it is at this moment.
    pub fn of(key: &SetupKey, now: DateTime<Utc>) -> Self {
        let status = key.status.as_ref();
        let state = Facts::of(key).map(|facts| facts.state(now));
        let soon = ends_soon(key, Thresholds::default().soon, now);
        let rank = match state {
            None => Rank::NotReady,
            Some(_) if stalled(key).is_some() => Rank::NotReady,
            Some(State::Expired) => Rank::Expired,
            Some(State::Overused) => Rank::Overused,
            Some(State::Revoked) => Rank::Revoked,
            Some(State::Valid) if soon => Rank::Soon,
            Some(State::Valid) if was_used(key) => Rank::InUse,
            Some(State::Valid) => Rank::NeverUsed,
        };
        Self {
            namespace: key.metadata.namespace.clone().unwrap_or_default(),
            name: key.metadata.name.clone().unwrap_or_default(),
            key_type: key.spec.key_type,
            state,
            ready: is_ready(key),
            used_times: key.used_times(),
            usage_limit: key.spec.effective_usage_limit(),
            last_used: status.and_then(|status| status.last_used),
            expires: status.and_then(|status| status.expires),
            rotate_at: status.and_then(|status| status.rotate_at),
            secret: key.secret_name().to_owned(),
            id: status.and_then(|status| status.id.clone()),
            key: status.and_then(|status| status.key.clone()),
            revision: status.and_then(|status| status.revision),
            authority: key.spec.authority_ref.as_ref().map(|authority| authority.name.clone()),
            note: note(key, rank, state),
            rank,
        }
    }

    /// How often the key was used, and how often it may be: `7/50`, or `7` without a limit.
    fn uses(&self) -> String {
        match self.usage_limit {
            Some(limit) => format!("{}/{limit}", self.used_times),
            None => self.used_times.to_string(),
        }
    }
}

/// Whether any machine has joined, with this revision or an earlier one.
fn was_used(key: &SetupKey) -> bool {
    key.used_times() > 0 || key.status.as_ref().is_some_and(|status| status.last_used.is_some())
}

fn note(key: &SetupKey, rank: Rank, state: Option<State>) -> Option<String> {
    let empty = SetupKeyStatus::default();
    let status = key.status.as_ref().unwrap_or(&empty);
    let reason = || condition(status, READY).filter(|ready| ready.status != "True").map(|ready| ready.reason.clone());
    if key.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    Some(match rank {
        Rank::NotReady => reason().unwrap_or_else(|| "not issued yet".to_owned()),
        Rank::Expired | Rank::Overused => "refuses machines".to_owned(),
        Rank::Soon => "expires soon".to_owned(),
        _ => match (reason(), state) {
            (Some(reason), _) => reason,
            (None, Some(State::Revoked)) => reason_of(status, VALID).filter(|reason| *reason != "Revoked")?.to_owned(),
            (None, _) if rank == Rank::NeverUsed => "unused".to_owned(),
            (None, _) => return None,
        },
    })
}

fn table(rows: &[Row], with_namespace: bool, form: Format, no_headers: bool, now: DateTime<Utc>) -> String {
    let mut columns = vec!["NAME", "TYPE", "STATE", "USED", "LAST USED", "EXPIRES IN", "ROTATES IN", "SECRET"];
    if with_namespace {
        columns.insert(0, "NAMESPACE");
    }
    if form == Format::Wide {
        columns.extend(["KEY", "REVISION", "AUTHORITY"]);
    }
    columns.push("NOTE");
    let mut table = Table::new(&columns, no_headers);
    for row in rows {
        let span = |moment: Option<Timestamp>, word: fn(Timestamp, DateTime<Utc>) -> String| {
            moment.map_or(NOTHING.to_owned(), |moment| word(moment, now))
        };
        let mut cells: Vec<Cell> = vec![
            row.name.as_str().into(),
            type_name(row.key_type).into(),
            state_cell(row.state),
            row.uses().into(),
            row.last_used.map_or("never".to_owned(), |moment| words::since(moment, now)).into(),
            span(row.expires, words::until).into(),
            span(row.rotate_at, words::until).into(),
            row.secret.as_str().into(),
        ];
        if with_namespace {
            cells.insert(0, row.namespace.as_str().into());
        }
        if form == Format::Wide {
            cells.push(row.key.as_deref().unwrap_or(NOTHING).into());
            cells.push(row.revision.map_or(NOTHING.to_owned(), |revision| revision.to_string()).into());
            cells.push(row.authority.as_deref().unwrap_or(NOTHING).into());
        }
        let tone = if row.rank <= Rank::Soon { Tone::Warn } else { Tone::Faint };
        cells.push(Cell::new(row.note.as_deref().unwrap_or_default(), tone));
        table.push(cells);
    }
    table.render()
}

/// The type of a key, as in its spec.
pub fn type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Reusable => "reusable",
        KeyType::OneOff => "one-off",
    }
}

/// The state of a key, in its tone.
pub fn state_cell(state: Option<State>) -> Cell {
    match state {
        None => Cell::new(NOTHING, Tone::Warn),
        Some(state) => Cell::new(state.as_str(), state_tone(state)),
    }
}

/// The tone of a state.
pub fn state_tone(state: State) -> Tone {
    match state {
        State::Valid => Tone::Good,
        State::Overused | State::Expired => Tone::Bad,
        State::Revoked => Tone::Faint,
    }
}
