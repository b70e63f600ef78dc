//! The requests that are compared, and what fills the variables in them.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use regex::{Captures, Regex};
use serde::Deserialize;

/// One request of `requests.jsonl`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What the row is about. No two rows that are compared have the same name.
    pub name: String,
    /// Only makes what later rows need at NetBird, and is not compared.
    #[serde(default)]
    pub setup: bool,
    pub method: String,
    /// May hold `${variables}`.
    path: String,
    /// Sent as they are, with variables; nothing else but Host and Content-Length is sent.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Text with variables and `${repeat:CHARACTER:COUNT}`.
    body: Option<String>,
    /// Bytes, in place of `body`.
    body_b64: Option<String>,
    /// Seconds to wait first.
    #[serde(default)]
    wait: f64,
    /// Compares the status alone.
    #[serde(default)]
    pub only_status: bool,
    /// Also compares whether the request has moved `updated_at`.
    #[serde(default)]
    pub moved: bool,
    /// Variables to take from a JSON answer: each is `FIELD` or `[FIELD=VALUE].FIELD`.
    #[serde(default)]
    pub save: BTreeMap<String, String>,
}

/// A row as one server gets it.
pub struct Filled {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// The values of the variables at one server. Tokens and ids differ between servers.
pub type Variables = BTreeMap<String, String>;

pub fn rows() -> Vec<Row> {
    let lines = include_str!("requests.jsonl").lines().enumerate();
    lines.map(|(number, line)| serde_json::from_str(line).unwrap_or_else(|error| panic!("{number}: {error}"))).collect()
}

impl Row {
    pub fn wait(&self) -> Duration {
        Duration::from_secs_f64(self.wait)
    }

    pub fn filled(&self, variables: &Variables) -> Filled {
        let body = match (&self.body, &self.body_b64) {
            (Some(text), _) => fill(text, variables).into_bytes(),
            (None, Some(bytes)) => BASE64_STANDARD.decode(bytes).expect("base64"),
            (None, None) => Vec::new(),
        };
        Filled {
            method: self.method.clone(),
            path: fill(&self.path, variables),
            headers: self.headers.iter().map(|(name, value)| (name.clone(), fill(value, variables))).collect(),
            body,
        }
    }
}

fn fill(text: &str, variables: &Variables) -> String {
    let variable = Regex::new(r"\$\{([^}]+)\}").expect("a regular expression");
    let value = |found: &Captures<'_>| match found[1].strip_prefix("repeat:") {
        Some(repeated) => {
            let (what, count) = repeated.split_once(':').expect("a character and a number");
            what.repeat(count.parse().expect("a number"))
        }
        None => variables.get(&found[1]).unwrap_or_else(|| panic!("{} is not known", &found[1])).clone(),
    };
    variable.replace_all(text, value).into_owned()
}
