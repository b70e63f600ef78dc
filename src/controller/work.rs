//! What every reconciler does around a pass: the gates before it, and the conclusion after it.

use std::{sync::Arc, time::Duration};

use kube::runtime::controller::Action;

use super::{
    Environment,
    election::Leadership,
    error::Error,
    metrics::PassResult,
    retry::{Retries, Versions},
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
    retries: Retries,
}

impl Work {
    /// The work of one reconciler, which starts once these caches are filled.
    pub fn new(environment: &Environment, filled: Filled) -> Self {
        Self {
            clock: Arc::clone(&environment.clock),
            leadership: environment.leadership.clone(),
            filled,
            retries: Retries::default(),
        }
    }

    /// Whether a pass may begin: this process leads, and its caches are filled. Otherwise nothing is done, because every
    /// object is reconciled once this process leads, and because a process whose caches never fill is ending.
    pub async fn may_begin(&self) -> bool {
        self.leadership.holds() && self.filled.wait().await
    }

    /// The pause that is left to this object after a failure, or `None` when it may be tried.
    pub fn hold(&self, object: &ObjectName, seen: &Versions) -> Option<Action> {
        self.retries.hold(object, seen).map(Action::requeue)
    }

    /// How many passes over this object have failed in a row.
    pub fn failures(&self, object: &ObjectName) -> u32 {
        self.retries.failures(object)
    }

    /// What follows from the end of a pass. `seen` are the versions that it saw last.
    pub fn conclude(
        &self,
        object: &ObjectName,
        seen: Versions,
        end: Result<Until, Error>,
    ) -> (PassResult, Option<Duration>) {
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
            Ok(Until::Retry) => (PassResult::Stalled, Some(self.retries.failed(object, seen, None))),
            Ok(Until::RetryAfter(pause)) => {
                let pause = pause.to_std().unwrap_or_default();
                (PassResult::Stalled, Some(self.retries.failed(object, seen, Some(pause))))
            }
            // The object is gone.
            Err(error) if error.code() == Some(404) => {
                self.retries.forget(object);
                (PassResult::Settled, None)
            }
            Err(error) => {
                let ObjectName { namespace, name } = object;
                let pause = self.retries.failed(object, seen, error.pause());
                if error.code() == Some(409) {
                    tracing::debug!(namespace, name, %error, "update conflict; requeued");
                    return (PassResult::Conflict, Some(pause));
                }
                tracing::warn!(namespace, name, %error, "reconciliation failed; retrying in {} ms", pause.as_millis());
                (PassResult::Error, Some(pause))
            }
        }
    }

    /// Drops what is remembered about an object that is gone.
    pub fn forget(&self, object: &ObjectName) {
        self.retries.forget(object);
    }
}

/// The action for a pause, or for none.
pub fn action(pause: Option<Duration>) -> Action {
    pause.map_or_else(Action::await_change, Action::requeue)
}
