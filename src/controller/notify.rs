//! Publishing notices: each becomes one line in the log and one event.
//!
//! Events are best effort. A pass puts them into a queue and goes on. When the API server is slow and the queue is full, they
//! are dropped.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource, ResourceExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    api::metadata::MANAGER,
    cluster::call::{Attempt, call},
    key::transition::{Notice, Severity},
};

/// Events that may wait to be sent. When more keys change together, some are only in the log. An event that comes minutes
/// late is of no use.
const QUEUE: usize = 256;
/// Events sent without a pause after a quiet time, so that a person who changes one thing sees the event at once.
const BURST: u32 = 100;
/// After a burst, one event in this time: when thousands of keys change together, their Secrets and statuses come first.
const PERIOD: Duration = Duration::from_millis(50);

/// The queue of notices. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    queue: mpsc::Sender<(ObjectReference, Notice)>,
}

/// Sends what is queued, until every notifier is gone.
pub struct Publisher {
    queue: mpsc::Receiver<(ObjectReference, Notice)>,
    recorder: Recorder,
}

impl Notifier {
    /// A notifier, and the publisher that must run for it.
    pub fn new(client: Client) -> (Self, Publisher) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let instance = std::env::var("POD_NAME").ok();
        let recorder = Recorder::new(client, Reporter { controller: MANAGER.to_owned(), instance });
        (Self { queue: sender }, Publisher { queue: receiver, recorder })
    }

    /// Logs the notice and queues its event.
    pub fn notify(&self, key: &impl Resource<DynamicType = ()>, notice: Notice) {
        let (namespace, name, uid) =
            (key.namespace().unwrap_or_default(), key.name_any(), key.uid().unwrap_or_default());
        match notice.severity {
            Severity::Normal => tracing::info!(namespace, name, uid, reason = notice.reason, "{}", notice.message),
            Severity::Warning => tracing::warn!(namespace, name, uid, reason = notice.reason, "{}", notice.message),
        }
        if self.queue.try_send((key.object_ref(&()), notice)).is_err() {
            tracing::debug!(namespace, name, "the event queue is full; an event is dropped");
        }
    }
}

impl Publisher {
    /// Runs until every notifier is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut pace = Pace::new(Instant::now());
        while let Some((object, notice)) = self.queue.recv().await {
            // At the end nothing new comes, and what is left is sent without a pause.
            if !self.queue.is_closed() {
                tokio::time::sleep_until(pace.next(Instant::now())).await;
            }
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
                secondary: None,
            };
            if let Err(error) = call(attempt, self.recorder.publish(&event, &object)).await {
                tracing::debug!(%error, "an event is lost");
            }
        }
    }
}

/// When the next event may be sent: a bucket that holds [`BURST`] and gains one each [`PERIOD`].
struct Pace {
    /// When the bucket would be full, if nothing more were sent.
    full: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes one event out of the bucket and returns when it may be sent.
    fn next(&mut self, now: Instant) -> Instant {
        self.full = self.full.max(now) + PERIOD;
        (self.full - PERIOD * BURST).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_a_steady_pace() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut pace = Pace::new(start);
        let times: Vec<_> = (0..BURST + 3).map(|_| pace.next(start) - start).collect();
        assert!(times[..BURST as usize].iter().all(Duration::is_zero), "{times:?}");
        assert_eq!(times[BURST as usize..], [PERIOD, PERIOD * 2, PERIOD * 3]);
        // After a quiet time there may be another burst.
        let later = start + PERIOD * BURST * 2;
        assert_eq!(pace.next(later), later);
    }
}
