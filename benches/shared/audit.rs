//! Requests from the API server's audit log, which the operator cannot influence.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// After this long without a request, nothing is left to do.
const QUIET: Duration = Duration::from_secs(2);
/// The longest wait for that.
const SETTLE_LIMIT: Duration = Duration::from_secs(180);

/// What a request is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Changes a SetupKey or a Secret.
    Write,
    /// Reads one of them.
    Get,
    /// Reads all of them.
    List,
    /// The publication of an event.
    Event,
    /// The start of a watch.
    Watch,
    /// Leader election.
    Lease,
}

/// How many requests there were, by class and by verb and resource.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<(Class, String), u64>);

impl Counts {
    pub fn of(&self, classes: &[Class]) -> u64 {
        self.0.iter().filter(|((class, _), _)| classes.contains(class)).map(|(_, count)| count).sum()
    }

    /// The successful writes of this resource, with any verb.
    pub fn done(&self, resource: &str) -> u64 {
        self.writes(|what| what.ends_with(&format!(" {resource}")))
    }

    /// The writes of this resource that lost a conflict: 409.
    pub fn lost(&self, resource: &str) -> u64 {
        self.writes(|what| what.ends_with(&format!(" {resource} (409)")))
    }

    /// The requests of any class that were answered with an error, which is in brackets.
    pub fn refused(&self) -> u64 {
        self.0.iter().filter(|((_, what), _)| what.ends_with(')')).map(|(_, count)| count).sum()
    }

    fn writes(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        let writes = self.0.iter().filter(|((class, what), _)| *class == Class::Write && wanted(what));
        writes.map(|(_, count)| count).sum()
    }

    /// The requests of some classes, each count divided by `divisor`, as in "1 create secrets, 1 patch
    /// setupkeys/status".
    pub fn list(&self, classes: &[Class], divisor: f64) -> String {
        let wanted = self.0.iter().filter(|((class, _), _)| classes.contains(class));
        let listed =
            wanted.map(|((_, what), count)| format!("{} {what}", super::report::number(*count as f64 / divisor)));
        let listed = listed.collect::<Vec<_>>().join(", ");
        if listed.is_empty() { "none".to_owned() } else { listed }
    }
}

/// The requests of one user from a moment on.
pub struct Window {
    log: BufReader<File>,
    user: String,
    line: String,
    pub counts: Counts,
}

impl Window {
    pub fn open(path: PathBuf, user: &str) -> anyhow::Result<Self> {
        let mut log = File::open(&path).with_context(|| format!("could not read {}", path.display()))?;
        log.seek(SeekFrom::End(0))?;
        let log = BufReader::with_capacity(1 << 20, log);
        Ok(Self { log, user: user.to_owned(), line: String::new(), counts: Counts::default() })
    }

    /// Counts the requests since the last call. Returns how many of them are neither watches nor leases.
    pub fn read(&mut self) -> anyhow::Result<u64> {
        let mut active = 0;
        // A line without its end is still being written. The rest of it comes with the next call.
        while self.log.read_line(&mut self.line)? > 0 && self.line.ends_with('\n') {
            // Most lines are about other users, and parsing them would waste time.
            if self.line.contains(&self.user) {
                let request: Request = serde_json::from_str(&self.line).context("the audit log has an odd line")?;
                if let Some((class, what)) = request.counted_for(&self.user) {
                    active += u64::from(!matches!(class, Class::Watch | Class::Lease));
                    *self.counts.0.entry((class, what)).or_default() += 1;
                }
            }
            self.line.clear();
        }
        Ok(active)
    }

    /// Waits until the user makes no more requests. Returns when the last of them was seen.
    pub async fn settle(&mut self) -> anyhow::Result<Instant> {
        let (begun, mut last) = (Instant::now(), Instant::now());
        while last.elapsed() < QUIET {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if self.read()? > 0 {
                last = Instant::now();
            }
            ensure!(begun.elapsed() < SETTLE_LIMIT, "{} still makes requests after {SETTLE_LIMIT:?}", self.user);
        }
        Ok(last)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    stage: String,
    verb: String,
    user: User,
    #[serde(rename = "requestURI")]
    uri: String,
    object_ref: Option<Object>,
    response_status: Option<Response>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    resource: String,
    subresource: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    code: Option<u16>,
}

impl Request {
    /// The class of the request, and its verb and resource. `None` if it does not count.
    fn counted_for(&self, user: &str) -> Option<(Class, String)> {
        // A watch completes when it ends, which may be after the measurement.
        let counted = if self.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        if self.user.username != user || self.stage != counted {
            return None;
        }
        let Some(object) = &self.object_ref else {
            return Some((Class::Get, format!("{} {}", self.verb, self.uri)));
        };
        let class = match (object.resource.as_str(), self.verb.as_str()) {
            ("leases", _) => Class::Lease,
            ("events", _) => Class::Event,
            (_, "watch") => Class::Watch,
            (_, "list") => Class::List,
            (_, "get") => Class::Get,
            _ => Class::Write,
        };
        let subresource = object.subresource.iter().map(|name| format!("/{name}")).collect::<String>();
        let code = self.response_status.as_ref().and_then(|status| status.code).filter(|code| *code >= 400);
        let refused = code.map(|code| format!(" ({code})")).unwrap_or_default();
        Some((class, format!("{} {}{subresource}{refused}", self.verb, object.resource)))
    }
}
