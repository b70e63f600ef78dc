//! `kubectl setupkey events`.

use std::{collections::HashMap, pin::pin, process::ExitCode};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    core::DeserializeGuard,
    runtime::watcher::{self, Event as Seen},
};
use schemars::JsonSchema;
use serde::Serialize;
use setupkey_operator::{
    api::Timestamp,
    cluster::{
        ObjectName,
        call::{self, Attempt, is_silence, reason},
        pages,
    },
};

use crate::{
    failure::Failure,
    flags::{self, Connection, Format, Output},
    print::Printer,
    session::Session,
    table::{Cell, Table, Tone},
    words,
};

/// Show what has happened to a key, the oldest first.
///
/// The API server keeps events for an hour, unless it is configured otherwise.
#[derive(clap::Args)]
#[command(
    after_help = "With kubectl alone:\n  kubectl get events.events.k8s.io --field-selector regarding.kind=SetupKey,regarding.name=NAME"
)]
pub struct Flags {
    /// Name of the SetupKey.
    #[arg(value_name = "NAME", value_parser = flags::name)]
    name: String,

    /// Go on until Ctrl-C, and print each new event. With -o json, each is one line.
    #[arg(short, long)]
    watch: bool,

    #[command(flatten)]
    output: Output,
}

/// The events about a key, as scripts read them.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventList {
    /// The events, the oldest first.
    pub events: Vec<Row>,
}

/// Something that has happened to a key, once or several times.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// The namespace of the event.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it happened last.
    pub last_seen: Option<Timestamp>,
    /// When it happened first.
    pub first_seen: Option<Timestamp>,
    /// Normal or Warning.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Why, as an identifier.
    pub reason: String,
    /// How often it has happened.
    pub count: i32,
    /// What has happened, as a sentence.
    pub message: String,
    /// The program that has reported it.
    pub reporter: String,
    /// The uid of the SetupKey. An earlier one of the same name has another one.
    pub uid: String,
    #[serde(skip)]
    version: String,
}

/// Shows the events.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    if flags.watch && matches!(flags.output.output, Format::Yaml | Format::Name) {
        return Err(Failure::new("--watch prints a table or, with -o json, one line for each event"));
    }
    let session = Session::start(connection)?;
    let name = ObjectName::new(&session.namespace, &flags.name);
    let key = session.keys.get(&name).await?;
    let params = ListParams::default().fields(&fields(&flags.name));
    let listed = session.keys.list_of::<DeserializeGuard<Event>>("events", Some(&name.namespace), params).await?;
    let mut rows: Vec<_> = listed.into_iter().filter_map(|event| read(event, &name, printer)).collect();
    rows.sort_by(|a, b| a.order().cmp(&b.order()));
    let uid = match &key {
        Some(key) => key.metadata.uid.clone(),
        None if rows.is_empty() => session.key(&flags.name).await?.metadata.uid,
        None => {
            printer.note(&format!("SetupKey {name} is deleted. These are the events that are left of it."));
            None
        }
    };
    let earlier = rows.iter().filter(|row| uid.as_ref().is_some_and(|uid| row.uid != *uid)).count();
    if earlier > 0 {
        printer.note(&format!("Events about an earlier SetupKey of this name: {earlier}."));
    }
    let mut shown = Shown::new(&flags.output);
    if flags.watch {
        shown.print_new(rows, session.now(), printer)?;
        return watch(&session, &name, shown, printer).await;
    }
    match flags.output.output {
        Format::Json => printer.json(&EventList { events: rows })?,
        Format::Yaml => printer.yaml(&EventList { events: rows })?,
        Format::Name => {
            let names: String = rows.iter().map(|row| format!("event.events.k8s.io/{}\n", row.name)).collect();
            printer.print(&names)?;
        }
        Format::Table | Format::Wide if rows.is_empty() => {
            printer.note(&format!(
                "There are no events about SetupKey {name}. The API server keeps them for an hour, unless it is configured otherwise."
            ));
        }
        Format::Table | Format::Wide => shown.print_new(rows, session.now(), printer)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints each event once it is there. A watch that ends goes on with a list, which brings what was missed.
async fn watch(session: &Session, name: &ObjectName, mut shown: Shown, printer: &Printer) -> Result<ExitCode, Failure> {
    let events: Api<DeserializeGuard<Event>> = Api::namespaced(session.keys.client.clone(), &name.namespace);
    let mut seen = pin!(pages::watch(events, watcher::Config::default().fields(&fields(&name.name))));
    let (mut listed, mut last_trouble) = (Vec::new(), None);
    while let Some(next) = seen.next().await {
        let rows = match next {
            Ok(Seen::Init | Seen::Delete(_)) => Vec::new(),
            Ok(Seen::InitApply(event)) => {
                listed.extend(read(event, name, printer));
                Vec::new()
            }
            Ok(Seen::InitDone) => std::mem::take(&mut listed),
            Ok(Seen::Apply(event)) => read(event, name, printer).into_iter().collect(),
            Err(error) => {
                listed.clear();
                if is_silence(&error) {
                    continue;
                }
                let why = trouble(error, name)?;
                if last_trouble.as_ref() != Some(&why) {
                    printer.warn(&format!("the watch has failed and is started again: {why}"));
                }
                last_trouble = Some(why);
                continue;
            }
        };
        if !rows.is_empty() {
            last_trouble = None;
        }
        shown.print_new(rows, session.now(), printer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a watch has failed, or a failure if another attempt does not help.
fn trouble(error: watcher::Error, name: &ObjectName) -> Result<String, Failure> {
    let source = match error {
        watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source) => source,
        error => return Ok(reason(&error)),
    };
    let attempt = Attempt::to(format!("watch events of namespace {}", name.namespace));
    let error = call::Error::Api { attempt, source: Box::new(source) };
    match error.code() {
        Some(401 | 403) => Err(error.into()),
        _ => Ok(error.why()),
    }
}

/// The field selector of the events about `SetupKey`s of this name.
pub fn fields(name: &str) -> String {
    format!("regarding.kind=SetupKey,regarding.name={name}")
}

/// The event, if it can be read and is about a `SetupKey` of ours.
fn read(event: DeserializeGuard<Event>, name: &ObjectName, printer: &Printer) -> Option<Row> {
    match event.0 {
        Ok(event) => Row::of(&event),
        Err(invalid) => {
            let event = ObjectName::from(&invalid.metadata);
            let error = invalid.error;
            printer
                .warn(&format!("event {event} about SetupKey {name} is left out, because it cannot be read: {error}"));
            None
        }
    }
}

impl Row {
    /// The event, if it is about a `SetupKey` of ours. NetBird has a kind of the same name.
    pub fn of(event: &Event) -> Option<Self> {
        let object = event.regarding.as_ref()?;
        if !object.api_version.as_deref().unwrap_or_default().starts_with("setupkey.dev/") {
            return None;
        }
        let micro = |time: &MicroTime| Timestamp::from(&Time(time.0));
        let created = event.metadata.creation_timestamp.as_ref().map(Timestamp::from);
        let first = event.event_time.as_ref().map(micro);
        let first = first.or(event.deprecated_first_timestamp.as_ref().map(Timestamp::from)).or(created);
        let last = event.series.as_ref().map(|series| micro(&series.last_observed_time));
        let last = last.or(event.deprecated_last_timestamp.as_ref().map(Timestamp::from)).or(first);
        Some(Self {
            namespace: event.namespace().unwrap_or_default(),
            name: event.name_any(),
            last_seen: last,
            first_seen: first,
            event_type: event.type_.clone().unwrap_or_default(),
            reason: event.reason.clone().unwrap_or_default(),
            count: event.series.as_ref().map(|series| series.count).or(event.deprecated_count).unwrap_or(1),
            message: event.note.clone().unwrap_or_default(),
            reporter: event.reporting_controller.clone().unwrap_or_default(),
            uid: object.uid.clone().unwrap_or_default(),
            version: event.resource_version().unwrap_or_default(),
        })
    }

    fn order(&self) -> (Option<Timestamp>, Option<Timestamp>, &str) {
        (self.last_seen, self.first_seen, &self.name)
    }
}

/// What was printed of the events, so that each is printed once in each of its versions.
struct Shown {
    form: Format,
    no_headers: bool,
    widths: Vec<usize>,
    versions: HashMap<String, String>,
}

impl Shown {
    fn new(output: &Output) -> Self {
        Self { form: output.output, no_headers: output.no_headers, widths: Vec::new(), versions: HashMap::new() }
    }

    /// Prints those that were not printed yet, the oldest first.
    fn print_new(&mut self, mut rows: Vec<Row>, now: DateTime<Utc>, printer: &Printer) -> Result<(), Failure> {
        rows.retain(|row| {
            self.versions.insert(row.name.clone(), row.version.clone()).is_none_or(|before| before != row.version)
        });
        rows.sort_by(|a, b| a.order().cmp(&b.order()));
        if rows.is_empty() {
            return Ok(());
        }
        if self.form == Format::Json {
            let lines: Result<String, serde_json::Error> =
                rows.iter().map(|row| Ok(format!("{}\n", serde_json::to_string(row)?))).collect();
            return printer.print(&lines?);
        }
        let table = table(&rows, self.form, self.no_headers, now);
        self.no_headers = true;
        printer.print(&table.render_below(&mut self.widths))
    }
}

fn table(rows: &[Row], form: Format, no_headers: bool, now: DateTime<Utc>) -> Table {
    let mut columns = vec!["LAST SEEN", "TYPE", "REASON", "COUNT", "MESSAGE"];
    if form == Format::Wide {
        columns.splice(4..4, ["FIRST SEEN", "REPORTER"]);
    }
    let mut table = Table::new(&columns, no_headers);
    for row in rows {
        let since = |moment| words::since_if_any(moment, now);
        let tone = if row.event_type == "Warning" { Tone::Warn } else { Tone::Plain };
        let mut cells = vec![
            since(row.last_seen).into(),
            Cell::new(&row.event_type, tone),
            row.reason.as_str().into(),
            row.count.to_string().into(),
        ];
        if form == Format::Wide {
            cells.push(since(row.first_seen).into());
            cells.push(row.reporter.as_str().into());
        }
        cells.push(row.message.as_str().into());
        table.push(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(changes: serde_json::Value) -> Option<Row> {
        let mut event = json!({
            "metadata": { "name": "e", "namespace": "network", "creationTimestamp": "2026-11-24T06:00:00Z" },
            "eventTime": "2026-11-24T06:00:01.500000Z", "type": "Normal", "reason": "Issued", "note": "issued",
            "regarding": { "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "name": "office", "uid": "u" },
        });
        json_patch::merge(&mut event, &changes);
        Row::of(&serde_json::from_value(event).unwrap())
    }

    #[test]
    fn an_event_counts_from_its_series_or_its_older_fields() {
        let series = json!({ "series": { "count": 4, "lastObservedTime": "2026-11-24T07:00:00.000000Z" } });
        let older = json!({
            "eventTime": null, "deprecatedCount": 3, "deprecatedFirstTimestamp": "2026-11-24T05:00:00Z",
            "deprecatedLastTimestamp": "2026-11-24T08:00:00Z",
        });
        for (changes, first, last, count) in [
            (json!({}), "2026-11-24T06:00:01Z", "2026-11-24T06:00:01Z", 1),
            (series, "2026-11-24T06:00:01Z", "2026-11-24T07:00:00Z", 4),
            (older, "2026-11-24T05:00:00Z", "2026-11-24T08:00:00Z", 3),
            (json!({ "eventTime": null }), "2026-11-24T06:00:00Z", "2026-11-24T06:00:00Z", 1),
        ] {
            let row = row(changes).unwrap();
            let seen = |moment: Option<Timestamp>| moment.unwrap().to_string();
            assert_eq!((seen(row.first_seen).as_str(), seen(row.last_seen).as_str(), row.count), (first, last, count));
        }
    }

    #[test]
    fn an_event_about_the_kind_of_another_operator_is_none_of_ours() {
        assert!(row(json!({ "regarding": { "apiVersion": "netbird.io/v1alpha1" } })).is_none());
    }
}
