//! A watch of SetupKeys that is independent of the programs under measurement. It notes when each key changed its
//! state.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::ensure;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use setupkey_operator::api::{SetupKey, State, Timestamp};
use tokio::{sync::watch, task::JoinHandle};

use super::process::Process;

/// The pause between two counts. Times are noted when the watch delivers an event, so this limits no figure.
const COUNT_PERIOD: Duration = Duration::from_millis(50);

/// How long the list may take that begins the watch.
const LIST_LIMIT: Duration = Duration::from_secs(180);

/// The watch; it ends when this is dropped.
pub struct Observer {
    keys: Keys,
    task: JoinHandle<()>,
}

type Keys = Arc<Mutex<HashMap<String, Seen>>>;

/// A key as last seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it first was Ready for the generation that it had.
    pub ready: Option<Instant>,
    pub state: Option<State>,
    /// When it was first seen in this state.
    pub state_since: DateTime<Utc>,
    pub expires: Option<Timestamp>,
    pub revision: Option<i64>,
    /// When it was first seen in this revision.
    pub revision_since: DateTime<Utc>,
}

impl Observer {
    /// Starts the watch and waits until it has listed all keys.
    pub async fn start(keys: Api<SetupKey>) -> anyhow::Result<Self> {
        let seen = Keys::default();
        let (listing, mut listed) = watch::channel(false);
        let observer = Self { keys: Arc::clone(&seen), task: tokio::spawn(observe(keys, seen, listing)) };
        let done = tokio::time::timeout(LIST_LIMIT, listed.wait_for(|listed| *listed)).await;
        ensure!(matches!(done, Ok(Ok(_))), "the observer could not list the SetupKeys within {LIST_LIMIT:?}");
        Ok(observer)
    }

    pub fn keys(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        lock(&self.keys)
    }

    /// Waits until this many keys meet the condition. Fails if the process under measurement ends first.
    pub async fn until(
        &self,
        what: &str,
        wanted: usize,
        process: &mut Process,
        limit: Duration,
        holds: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let count = self.keys().values().filter(|seen| holds(seen)).count();
            if count >= wanted {
                return Ok(());
            }
            process.check()?;
            ensure!(begun.elapsed() < limit, "after {limit:?}, {count} of {wanted} keys are {what}");
            tokio::time::sleep(COUNT_PERIOD).await;
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(keys: &Keys) -> MutexGuard<'_, HashMap<String, Seen>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn observe(keys: Api<SetupKey>, seen: Keys, listing: watch::Sender<bool>) {
    let mut events = watcher(keys, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(key) | watcher::Event::InitApply(key)) => note(&mut lock(&seen), &key),
            Ok(watcher::Event::InitDone) => {
                listing.send_replace(true);
            }
            Ok(watcher::Event::Init | watcher::Event::Delete(_)) => {}
            Err(error) => eprintln!("the observer's watch failed and is started again: {error}"),
        }
    }
}

fn note(keys: &mut HashMap<String, Seen>, key: &SetupKey) {
    let status = key.status.as_ref();
    let state = status.and_then(|status| status.state);
    let seen = keys.entry(key.name_any()).or_insert_with(|| Seen {
        ready: None,
        state,
        state_since: Utc::now(),
        expires: None,
        revision: None,
        revision_since: Utc::now(),
    });
    if seen.ready.is_none() && is_ready(key) {
        seen.ready = Some(Instant::now());
    }
    if seen.state != state {
        (seen.state, seen.state_since) = (state, Utc::now());
    }
    let revision = status.and_then(|status| status.revision);
    if seen.revision != revision {
        (seen.revision, seen.revision_since) = (revision, Utc::now());
    }
    seen.expires = status.and_then(|status| status.expires);
}

fn is_ready(key: &SetupKey) -> bool {
    key.status.as_ref().is_some_and(|status| {
        let ready = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            condition.type_ == "Ready" && condition.status == "True"
        };
        status.observed_generation == key.metadata.generation && status.conditions.iter().any(ready)
    })
}
