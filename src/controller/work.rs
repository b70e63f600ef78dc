//! What every reconciler does around a pass: the gates before it, and the conclusion after it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::Stream;

use super::{
    Environment,
    budget::Budget,
    election::Leadership,
    error::Error,
    metrics::PassResult,
    retry::{Failed, Failure, Gate, Retries, Versions},
    watch::Filled,
};
use crate::{
    cluster::{Clock, ObjectName},
    key::plan::{LONGEST_SLEEP, Until},
};

/// The shortest pause. A requeue without any would be a hot loop.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// The gates and the conclusion of the passes of one reconciler.
pub struct Work {
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    filled: Filled,
    retries: Arc<Retries>,
}

impl Work {
    /// The work of one reconciler, which starts once these caches are filled. The stream has each object whose turn for a
    /// retry has come: the reconciler must make a pass over it.
    pub fn new(
        environment: &Environment,
        filled: Filled,
        budget: Budget,
    ) -> (Self, impl Stream<Item = ObjectName> + Send + 'static) {
        let (retries, turns) = Retries::new(budget);
        let (clock, leadership) = (Arc::clone(&environment.clock), environment.leadership.clone());
        (Self { clock, leadership, filled, retries }, turns)
    }

    /// The objects that wait for another try.
    pub fn retries(&self) -> Arc<Retries> {
        Arc::clone(&self.retries)
    }

    /// Whether a pass may begin: this process leads, and its caches are filled. Otherwise nothing is done, because every
    /// object is reconciled once this process leads, and because a process whose caches never fill is ending.
    pub async fn may_begin(&self) -> bool {
        self.leadership.holds() && self.filled.wait().await
    }

    /// Whether this process leads.
    pub fn leads(&self) -> bool {
        self.leadership.holds()
    }

    /// Whether this object may be tried now, after a failure.
    pub fn gate(&self, object: &ObjectName, seen: &Versions) -> Gate {
        self.retries.gate(object, seen, self.clock.now())
    }

    /// How many passes over this object have failed in a row.
    pub fn failures(&self, object: &ObjectName) -> u32 {
        self.retries.failures(object)
    }

    /// What follows from the end of a pass. `seen` are the versions that it saw last, and `deadline` is when the clock alone
    /// makes another pass necessary, even after a failure.
    pub fn conclude(
        &self,
        object: &ObjectName,
        seen: Versions,
        end: Result<Until, Error>,
        deadline: Option<DateTime<Utc>>,
    ) -> (PassResult, Option<Duration>) {
        let failed =
            |failure, asked| self.retries.failed(object, Failed { seen, failure, asked, deadline }, self.clock.now());
        match end {
            Ok(Until::Change) => {
                self.retries.forget(object);
                (PassResult::Settled, None)
            }
            Ok(Until::Moment(moment)) => {
                self.retries.forget(object);
                let sleep = (moment - self.clock.now()).min(LONGEST_SLEEP).to_std().unwrap_or_default();
                (PassResult::Settled, Some(sleep.max(SHORTEST_SLEEP)))
            }
            Ok(Until::Retry) => (PassResult::Stalled, failed(Failure::Stalled, None)),
            Ok(Until::RetryAfter(pause)) => {
                (PassResult::Stalled, failed(Failure::Stalled, Some(pause.to_std().unwrap_or_default())))
            }
            // The object is gone.
            Err(error) if error.code() == Some(404) => {
                self.retries.forget(object);
                (PassResult::Settled, None)
            }
            Err(error) => {
                let ObjectName { namespace, name } = object;
                let pause = failed(Failure::Passing, error.pause());
                if error.code() == Some(409) {
                    tracing::debug!(namespace, name, %error, "update conflict; requeued");
                    return (PassResult::Conflict, pause);
                }
                let milliseconds = pause.unwrap_or_default().as_millis();
                tracing::warn!(namespace, name, %error, "reconciliation failed; retrying in {milliseconds} ms");
                (PassResult::Error, pause)
            }
        }
    }

    /// Drops what is remembered about an object that is gone.
    pub fn forget(&self, object: &ObjectName) {
        self.retries.forget(object);
    }
}
