//! Asking a server, and its answer without what differs from server to server and from run to run.
//!
//! Keys and tokens are taken out before an answer is compared, so that no failure shows one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use regex::Regex;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::rows::{Filled, Row, Variables};

/// The headers that are compared.
const HEADERS: &[&str] = &[
    "content-type",
    "allow",
    "location",
    "retry-after",
    "www-authenticate",
    "cache-control",
    "vary",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-allow-credentials",
    "access-control-max-age",
    "x-content-type-options",
    "warning",
    "server",
];

/// The lifetimes that the rows ask for, in seconds. A time this far ahead, or nearly, is `<now+SECONDS>`.
const LIFETIMES: &[i64] = &[0, 86_400, 604_800, 31_536_000, 315_360_000];

/// How far a time may be from what it should be, in seconds. A key is looked at some time after its creation.
const TOLERANCE: i64 = 600;

/// One of the two servers.
pub struct Server {
    /// Host and port.
    pub address: String,
    pub variables: Variables,
    /// When each key was last changed, as last answered.
    updated: BTreeMap<String, Value>,
}

/// What a server has answered.
#[derive(Debug)]
pub enum Answer {
    /// The connection was closed without an answer.
    Dropped,
    Answered {
        status: u16,
        headers: BTreeMap<&'static str, String>,
        /// JSON, or text if it is not JSON.
        body: Value,
    },
}

impl Server {
    pub fn new(address: &str, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { address: address.to_owned(), variables, updated: BTreeMap::new() }
    }

    /// Sends a row, and returns the answer in the form in which it is compared.
    pub async fn ask(&mut self, row: &Row) -> Answer {
        let asked = row.filled(&self.variables);
        if row.moved {
            // The key may have been noted by a controller since it was last looked at.
            let (path, headers) = (asked.path.clone(), asked.headers.clone());
            let look = Filled { method: "GET".to_owned(), path, headers, body: Vec::new() };
            if let Some((_, _, body)) = self.send(look).await {
                self.note(&serde_json::from_slice(&body).unwrap_or_default());
            }
        }
        let now = Utc::now();
        let Some((status, headers, body)) = self.send(asked).await else { return Answer::Dropped };
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
        if (200..300).contains(&status) {
            for (name, place) in &row.save {
                self.variables.insert(name.clone(), found(&body, place));
            }
        }
        let moved = self.note(&body);
        if row.only_status {
            return Answer::Answered { status, headers: BTreeMap::new(), body: Value::Null };
        }
        let mut body = self.shaped(body, "", now);
        if let (true, Some(moved)) = (row.moved, moved) {
            body["updated_at"] = json!(if moved { "<moved>" } else { "<as before>" });
        }
        let header = |name: &'static str| Some((name, headers.get(name)?.to_str().ok()?.to_owned()));
        Answer::Answered { status, headers: HEADERS.iter().filter_map(|name| header(name)).collect(), body }
    }

    /// Over a connection of its own, so that a server that closes one breaks no other request.
    async fn send(&self, asked: Filled) -> Option<(u16, HeaderMap, Bytes)> {
        let stream = TcpStream::connect(&self.address).await.expect("the server listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        let request = Request::builder().method(asked.method.as_str()).uri(&asked.path).header("Host", &self.address);
        let headers = asked.headers.iter();
        let request = headers.fold(request, |request, (name, value)| request.header(name, value));
        let request = request.body(Full::<Bytes>::from(asked.body)).expect("a request");
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        Some((head.status.as_u16(), head.headers, body.collect().await.ok()?.to_bytes()))
    }

    /// Notes when a key was changed. Returns whether that was since the last look.
    fn note(&mut self, key: &Value) -> Option<bool> {
        let (id, updated) = (key.get("id")?.as_str()?, key.get("updated_at")?);
        Some(self.updated.insert(id.to_owned(), updated.clone()).as_ref() != Some(updated))
    }

    fn shaped(&self, value: Value, field: &str, now: DateTime<Utc>) -> Value {
        match value {
            Value::Object(fields) => {
                let shaped = fields.into_iter().map(|(name, value)| {
                    let value = self.shaped(value, &name, now);
                    (name, value)
                });
                Value::Object(shaped.collect())
            }
            Value::Array(values) => values.into_iter().map(|value| self.shaped(value, field, now)).collect(),
            Value::String(text) => self.shaped_text(text, field, now).into(),
            other => other,
        }
    }

    fn shaped_text(&self, text: String, field: &str, now: DateTime<Utc>) -> String {
        let known = self.variables.iter().find(|(_, value)| **value == text).map(|(name, _)| format!("${{{name}}}"));
        match field {
            "expires" | "last_used" | "updated_at" => shaped_time(&text, now),
            "key" if is(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", &text) => "<key>".to_owned(),
            "key" if is(r"[0-9A-F]{5}\*{4}", &text) => "<masked>".to_owned(),
            "id" if is("[0-9a-v]{20}", &text) => known.unwrap_or_else(|| "<id>".to_owned()),
            "auto_groups" => known.unwrap_or(text),
            _ => self.without_secrets(text),
        }
    }

    /// The text with the names of ids, tokens and keys in their place.
    fn without_secrets(&self, text: String) -> String {
        let long = |(_, value): &(&String, &String)| value.len() >= 16;
        let named = self
            .variables
            .iter()
            .filter(long)
            .fold(text, |text, (name, value)| text.replace(value.as_str(), &format!("${{{name}}}")));
        let uuid = Regex::new("(?i)[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}").expect("a regular expression");
        uuid.replace_all(&named, "<uuid>").into_owned()
    }
}

impl Answer {
    /// The parts in which two answers differ: `answer` if one has another status or was dropped, else names of headers, and
    /// `message`, `text` or fields of a key.
    pub fn differences(&self, other: &Self) -> BTreeSet<String> {
        let (
            Self::Answered { status, headers, body },
            Self::Answered { status: other_status, headers: other_headers, body: other_body },
        ) = (self, other)
        else {
            let same = matches!((self, other), (Self::Dropped, Self::Dropped));
            return if same { BTreeSet::new() } else { ["answer".to_owned()].into() };
        };
        if status != other_status {
            return ["answer".to_owned()].into();
        }
        let names = HEADERS.iter().filter(|name| headers.get(*name) != other_headers.get(*name));
        let mut parts: BTreeSet<_> = names.map(|name| (*name).to_owned()).collect();
        compare(body, other_body, "text", &mut parts);
        parts
    }

    /// Status, and the message or text.
    pub fn brief(&self) -> String {
        match self {
            Self::Dropped => "dropped".to_owned(),
            Self::Answered { status, body, .. } => {
                let said = body.get("message").unwrap_or(body);
                let said = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
                format!("{status} {}", said.trim_end())
            }
        }
    }
}

fn compare(one: &Value, other: &Value, part: &str, parts: &mut BTreeSet<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for name in one.keys().chain(other.keys()) {
                if one.get(name) != other.get(name) {
                    parts.insert(name.clone());
                }
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).for_each(|(one, other)| compare(one, other, part, parts));
        }
        _ if one != other => drop(parts.insert(part.to_owned())),
        _ => {}
    }
}

fn found(document: &Value, place: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("there is no {place}")).to_owned();
    let Some((wanted, field)) = place.split_once("].") else { return text(&document[place]) };
    let (name, value) = wanted.trim_start_matches('[').split_once('=').expect("a field and its value");
    let mut entries = document.as_array().into_iter().flatten();
    text(&entries.find(|entry| entry[name] == value).unwrap_or_else(|| panic!("there is no {place}"))[field])
}

fn shaped_time(text: &str, now: DateTime<Utc>) -> String {
    let Ok(moment) = DateTime::parse_from_rfc3339(text) else { return text.to_owned() };
    if moment.timestamp() == DateTime::parse_from_rfc3339("0001-01-01T00:00:00Z").unwrap().timestamp() {
        return "<never>".to_owned();
    }
    let ahead = (moment.to_utc() - now).num_seconds();
    match LIFETIMES.iter().find(|lifetime| (ahead - **lifetime).abs() <= TOLERANCE) {
        Some(lifetime) => format!("<now+{lifetime}>"),
        None => format!("<now+{ahead}>"),
    }
}

fn is(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("^{pattern}$")).expect("a regular expression").is_match(text)
}
