//! Publishing notices: each becomes one line in the log and one event.
//!
//! Events are best effort. A pass puts them into a queue and goes on. When the API server is slow or thousands of keys change
//! together, events that do not fit are dropped, and counted. Namespaces take turns, and one that is flooded drops its own.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{ObjectReference, Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Client, CustomResourceExt, Resource, ResourceExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use super::{authorities::object::AuthorityName, fair_queue::FairQueue, metrics::Metrics};
use crate::{
    api::{SetupKey, metadata::MANAGER},
    cluster::{
        Bucket,
        call::{Attempt, call},
    },
    key::transition::{Notice, Related, Severity},
    plain::plain,
};

/// Bytes of an event's note that the API server takes, at most.
const LONGEST_NOTE: usize = 1024;

/// Events of one namespace that may wait to be sent. When more keys change together, some are only in the log. An event that
/// comes minutes late is of no use.
const OF_NAMESPACE: usize = 256;
/// Events of all namespaces that may wait: about 1 MiB.
const QUEUE: usize = 1024;
/// Events sent without a pause after a quiet time, so that a person who changes one thing sees the event at once.
const BURST: u32 = 100;
/// After a burst, one event in this time: when thousands of keys change together, their Secrets and statuses come first.
const PERIOD: Duration = Duration::from_millis(50);
/// kube's recorder remembers each event for six minutes and more, to count repetitions: more than 1 KiB each. After so many
/// it is replaced, and forgets them.
const REMEMBERED: usize = 512;

/// An event that waits.
struct Waiting {
    object: ObjectReference,
    related: Option<ObjectReference>,
    notice: Notice,
}

/// The queue of notices. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    queue: Arc<Mutex<Queue>>,
    /// Full while there is something in the queue. Closed once every notifier is gone.
    filled: mpsc::Sender<()>,
    metrics: Metrics,
}

/// Sends what is queued, until every notifier is gone.
pub struct Publisher {
    queue: Arc<Mutex<Queue>>,
    filled: mpsc::Receiver<()>,
    client: Client,
}

impl Notifier {
    /// A notifier, and the publisher that must run for it.
    pub fn new(client: Client, metrics: Metrics) -> (Self, Publisher) {
        let (sender, filled) = mpsc::channel(1);
        let queue = Arc::<Mutex<Queue>>::default();
        (Self { queue: Arc::clone(&queue), filled: sender, metrics }, Publisher { queue, filled, client })
    }

    /// Logs the notice and queues its event, with the other object that it is about.
    pub fn notify(&self, key: &SetupKey, notice: Notice) {
        let authority = AuthorityName::of_key(key).filter(|_| notice.related == Related::Authority);
        let secret = || secret_reference(&key.namespace().unwrap_or_default(), key.secret_name());
        self.notify_about(key, Some(authority.map_or_else(secret, ObjectReference::from)), notice);
    }

    /// The same for any object and what is related to it.
    pub fn notify_about(
        &self,
        object: &impl Resource<DynamicType = ()>,
        related: Option<ObjectReference>,
        mut notice: Notice,
    ) {
        notice.message = plain(&notice.message).into_owned();
        let (namespace, name, uid) =
            (object.namespace().unwrap_or_default(), object.name_any(), object.uid().unwrap_or_default());
        match notice.severity {
            Severity::Normal => tracing::info!(namespace, name, uid, reason = notice.reason, "{}", notice.message),
            Severity::Warning => tracing::warn!(namespace, name, uid, reason = notice.reason, "{}", notice.message),
        }
        notice.message = within(LONGEST_NOTE, notice.message);
        let waiting = Waiting { object: object.object_ref(&()), related, notice };
        let dropped = self.queue.lock().push(&namespace, waiting);
        if let Some(Waiting { object, notice, .. }) = dropped {
            self.metrics.event_dropped();
            let (namespace, name) = (object.namespace.unwrap_or_default(), object.name.unwrap_or_default());
            tracing::debug!(namespace, name, reason = notice.reason, "too many events wait; this one is dropped");
        }
        // A full channel already says it.
        let _ = self.filled.try_send(());
    }
}

/// A text of at most so many bytes: its beginning and an ellipsis, if it is longer.
fn within(bytes: usize, text: String) -> String {
    if text.len() <= bytes {
        return text;
    }
    let most = bytes - '…'.len_utf8();
    let end = text.char_indices().map(|(start, _)| start).take_while(|start| *start <= most).last().unwrap_or_default();
    format!("{}…", &text[..end])
}

/// The definition of `SetupKey`s as an event names it.
pub fn definition_reference() -> ObjectReference {
    ObjectReference {
        api_version: Some(CustomResourceDefinition::api_version(&()).into_owned()),
        kind: Some(CustomResourceDefinition::kind(&()).into_owned()),
        name: Some(SetupKey::crd_name().to_owned()),
        ..ObjectReference::default()
    }
}

/// A Secret as an event names it.
pub fn secret_reference(namespace: &str, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(Secret::api_version(&()).into_owned()),
        kind: Some(Secret::kind(&()).into_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// The events that wait.
#[derive(Default)]
struct Queue(FairQueue<Waiting>);

impl Queue {
    /// Adds an event. Returns one that must be dropped for it, or the event itself.
    fn push(&mut self, namespace: &str, event: Waiting) -> Option<Waiting> {
        let full = if self.0.len_of(namespace) >= OF_NAMESPACE {
            Some(namespace.to_owned())
        } else if self.0.len() >= QUEUE {
            self.0.longest().map(|(longest, _)| longest.to_owned())
        } else {
            None
        };
        let Some(full) = full else {
            self.0.push_back(namespace, event);
            return None;
        };
        let own = full == namespace;
        let newest = |severity| {
            let mut line = self.0.line(&full).rev();
            line.find(|(_, waiting)| waiting.notice.severity == severity).map(|(place, _)| place)
        };
        let victim = match event.notice.severity {
            Severity::Normal if own => None,
            Severity::Warning if own => newest(Severity::Normal),
            Severity::Normal | Severity::Warning => newest(Severity::Normal).or_else(|| newest(Severity::Warning)),
        };
        let Some(victim) = victim else { return Some(event) };
        let dropped = self.0.remove(&full, victim);
        self.0.push_back(namespace, event);
        dropped
    }
}

impl Publisher {
    /// Runs until every notifier is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut pace = Bucket::new(BURST, PERIOD, Instant::now().into_std());
        let (mut recorder, mut remembered) = (self.recorder(), 0);
        loop {
            if self.queue.lock().0.len() == 0 {
                match self.filled.recv().await {
                    Some(()) => continue,
                    None => return,
                }
            }
            // At the end nothing new comes, and what is left is sent without a pause.
            if !self.filled.is_closed() {
                tokio::time::sleep_until(pace.take(Instant::now().into_std()).into()).await;
            }
            let Some(waiting) = self.queue.lock().0.pop() else { continue };
            if remembered >= REMEMBERED {
                (recorder, remembered) = (self.recorder(), 0);
            }
            remembered += 1;
            publish(&recorder, waiting).await;
        }
    }

    fn recorder(&self) -> Recorder {
        let instance = std::env::var("POD_NAME").ok();
        Recorder::new(self.client.clone(), Reporter { controller: MANAGER.to_owned(), instance })
    }
}

async fn publish(recorder: &Recorder, Waiting { object, related, notice }: Waiting) {
    let attempt = Attempt::on(
        "record an event for SetupKey",
        object.namespace.as_deref().unwrap_or_default(),
        object.name.as_deref().unwrap_or_default(),
    );
    let event = Event {
        type_: match notice.severity {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        },
        reason: notice.reason.to_owned(),
        note: Some(notice.message),
        action: notice.action.to_owned(),
        secondary: related,
    };
    if let Err(error) = call(attempt, recorder.publish(&event, &object)).await {
        tracing::debug!(%error, "an event is lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, severity: Severity) -> Waiting {
        let object = ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
        let (reason, action, message) = ("Reason", "Action", String::new());
        Waiting {
            object,
            related: None,
            notice: Notice { severity, reason, action, message, related: Related::Secret },
        }
    }

    #[test]
    fn a_note_fits_into_an_event_in_every_language() {
        for letter in ["a", "ü", "鍵", "🔑"] {
            let whole = letter.repeat(LONGEST_NOTE / letter.len());
            assert_eq!(within(LONGEST_NOTE, whole.clone()), whole);
            let cut = within(LONGEST_NOTE, whole + letter);
            assert!(
                (LONGEST_NOTE - 6..=LONGEST_NOTE).contains(&cut.len()) && cut.ends_with('…'),
                "{} bytes",
                cut.len()
            );
        }
    }

    fn name(event: Option<Waiting>) -> Option<String> {
        event?.object.name
    }

    fn flood(queue: &mut Queue, namespace: &str, count: usize) {
        for _ in 0..count {
            queue.push(namespace, event(namespace, Severity::Normal));
        }
    }

    #[test]
    fn a_flood_drops_its_own_events_and_is_passed_by_the_others() {
        let mut queue = Queue::default();
        flood(&mut queue, "flood", 10_000);
        assert_eq!(queue.0.len(), OF_NAMESPACE);
        assert_eq!(name(queue.push("flood", event("late", Severity::Normal))).as_deref(), Some("late"));
        assert_eq!(name(queue.push("quiet", event("quiet", Severity::Normal))), None);
        let sent: Vec<_> = (0..2).filter_map(|_| name(queue.0.pop())).collect();
        assert_eq!(sent, ["flood", "quiet"]);
    }

    #[test]
    fn a_warning_takes_the_place_of_what_is_normal() {
        let mut queue = Queue::default();
        flood(&mut queue, "flood", OF_NAMESPACE);
        for _ in 0..OF_NAMESPACE {
            assert_eq!(name(queue.push("flood", event("warning", Severity::Warning))).as_deref(), Some("flood"));
        }
        assert_eq!(name(queue.push("flood", event("late", Severity::Warning))).as_deref(), Some("late"));
    }

    #[test]
    fn the_longest_line_makes_room_when_all_are_too_long_together() {
        let mut queue = Queue::default();
        for namespace in ["a", "b", "c"] {
            flood(&mut queue, namespace, OF_NAMESPACE - 1);
        }
        flood(&mut queue, "longest", OF_NAMESPACE);
        let left = QUEUE - queue.0.len();
        flood(&mut queue, "d", left);
        assert_eq!(name(queue.push("single", event("single", Severity::Normal))).as_deref(), Some("longest"));
        assert_eq!((queue.0.len(), queue.0.len_of("single")), (QUEUE, 1));
    }
}
