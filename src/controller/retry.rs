//! The pauses of objects whose last pass failed.
//!
//! A pass that failed may succeed at once, as after a conflict of versions, so the first pauses are short. What lasts is
//! retried less and less: each pause is up to twice as long as the one before, up to [`LONGEST`]. What waits for a person
//! begins with 3 s. A change of the object ends its pause, and after a change that did not help the pauses begin again.
//!
//! When its pause is over, an object waits for its turn in the [`Budget`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt};
use kube::runtime::watcher::ExponentialBackoff;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    budget::{Budget, End, Retried},
    fair_queue::Place,
};
use crate::cluster::{ObjectName, backoff};

/// So many failures in a row count as passing: about half a minute.
const QUICK_FAILURES: u32 = 16;
/// The shortest and the longest pause of those.
const QUICK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// The first pause of what lasts is between this and twice as long.
const FIRST: Duration = Duration::from_millis(1500);
/// The longest pause, besides one that the API server asks for.
const LONGEST: Duration = Duration::from_secs(300);

/// The versions that a pass saw: of the object, and of the Secret that belongs to it.
pub type Versions = (Option<String>, Option<String>);

/// Why a pass has failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The next try may succeed.
    Passing,
    /// A person must act.
    Stalled,
}

/// Whether a pass may begin, and why.
#[derive(Debug, PartialEq)]
pub enum Gate {
    /// The object did not fail, or something has changed.
    Open,
    /// The turn of its retry has come.
    Called,
    /// Not yet. It is tried after this pause, or when it is called.
    Closed(Option<Duration>),
}

/// A pass that has failed.
pub struct Failed {
    /// The versions that it saw last.
    pub seen: Versions,
    /// Why it has failed.
    pub failure: Failure,
    /// The least pause.
    pub asked: Option<Duration>,
    /// When the clock alone makes another pass necessary, on the wall clock.
    pub deadline: Option<DateTime<Utc>>,
}

/// The objects of one reconciler that wait for another try.
pub struct Retries {
    budget: Budget,
    come: UnboundedSender<ObjectName>,
    waiting: Mutex<HashMap<ObjectName, Waiting>>,
}

struct Waiting {
    failures: u32,
    quick: ExponentialBackoff,
    growing: ExponentialBackoff,
    seen: Versions,
    deadline: Option<DateTime<Utc>>,
    state: State,
    /// Whether there is news about the object that its versions do not show, which came during a pass.
    news: bool,
}

enum State {
    /// Until this moment.
    Pausing(Instant),
    /// The pause is over.
    InLine(Place),
    /// Its turn in the budget has come.
    Called,
    /// A pass is under way; by such a turn, or because of a change.
    UnderWay { by_turn: bool },
}

impl Waiting {
    fn new() -> Self {
        Self {
            failures: 0,
            quick: backoff(QUICK.0, QUICK.1),
            growing: backoff(FIRST, LONGEST),
            seen: Versions::default(),
            deadline: None,
            state: State::UnderWay { by_turn: false },
            news: false,
        }
    }

    fn pause(&mut self, failure: Failure) -> Duration {
        let passing = failure == Failure::Passing && self.failures < QUICK_FAILURES;
        let pauses = if passing { &mut self.quick } else { &mut self.growing };
        self.failures = self.failures.saturating_add(1);
        pauses.next().unwrap_or(LONGEST)
    }

    /// How long to wait, if there is a pause or a deadline.
    fn wait(&self, pause: Option<Duration>, now: DateTime<Utc>) -> Option<Duration> {
        let deadline = self.deadline.map(|deadline| (deadline - now).to_std().unwrap_or_default());
        pause.into_iter().chain(deadline).min()
    }
}

impl Retries {
    /// No object waits yet. The stream has each object whose turn has come.
    pub fn new(budget: Budget) -> (Arc<Self>, impl Stream<Item = ObjectName> + Send + 'static) {
        let (come, turns) = mpsc::unbounded_channel();
        let retries = Arc::new(Self { budget, come, waiting: Mutex::default() });
        let called = Arc::clone(&retries);
        let turns = UnboundedReceiverStream::new(turns);
        (retries, turns.filter(move |object| futures::future::ready(called.call(object))))
    }

    /// Whether this object may be tried.
    ///
    /// Without this, the watch event of a status that reports a failure would start the next try at once.
    pub fn gate(&self, object: &ObjectName, seen: &Versions, now: DateTime<Utc>) -> Gate {
        let mut waiting = self.waiting.lock();
        let Some(waiting) = waiting.get_mut(object) else { return Gate::Open };
        if waiting.seen != *seen {
            waiting.growing = backoff(FIRST, LONGEST);
            return self.begin(object, waiting);
        }
        let late = waiting.deadline.is_some_and(|deadline| deadline <= now);
        let pause = match waiting.state {
            State::Called | State::UnderWay { .. } => return self.begin(object, waiting),
            State::Pausing(_) | State::InLine(_) if late => return self.begin(object, waiting),
            State::InLine(_) => None,
            State::Pausing(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    waiting.state = self.line_up(object, End::Back);
                }
                Some(left).filter(|left| !left.is_zero())
            }
        };
        Gate::Closed(waiting.wait(pause, now))
    }

    /// How many passes over this object have failed in a row.
    pub fn failures(&self, object: &ObjectName) -> u32 {
        self.waiting.lock().get(object).map_or(0, |waiting| waiting.failures)
    }

    /// Notes a failure and returns the pause, if there is one: at least what was asked for, and with jitter, so that objects
    /// that failed together do not return together.
    pub fn failed(&self, object: &ObjectName, failed: Failed, now: DateTime<Utc>) -> Option<Duration> {
        let mut waiting = self.waiting.lock();
        let waiting = waiting.entry(object.clone()).or_insert_with(Waiting::new);
        if let State::UnderWay { by_turn: true } = waiting.state {
            self.budget.ended(Retried::InVain);
        }
        let pause = waiting.pause(failed.failure).max(failed.asked.unwrap_or_default());
        waiting.seen = failed.seen;
        waiting.deadline = failed.deadline;
        if std::mem::take(&mut waiting.news) {
            waiting.state = self.line_up(object, End::Front);
            return waiting.wait(None, now);
        }
        waiting.state = State::Pausing(Instant::now() + pause);
        waiting.wait(Some(pause), now)
    }

    /// Ends the pause of an object, because of news that its versions do not show.
    pub fn wake(&self, object: &ObjectName) {
        let mut waiting = self.waiting.lock();
        let Some(waiting) = waiting.get_mut(object) else { return };
        match waiting.state {
            State::Called => {}
            State::UnderWay { .. } => waiting.news = true,
            State::InLine(place) => {
                self.budget.leave(&object.namespace, place);
                waiting.state = self.line_up(object, End::Front);
            }
            State::Pausing(_) => waiting.state = self.line_up(object, End::Front),
        }
    }

    /// Notes that an object is well, or gone.
    pub fn forget(&self, object: &ObjectName) {
        let Some(waiting) = self.waiting.lock().remove(object) else { return };
        match waiting.state {
            State::InLine(place) => self.budget.leave(&object.namespace, place),
            State::Called | State::UnderWay { by_turn: true } => self.budget.ended(Retried::Well),
            State::Pausing(_) | State::UnderWay { by_turn: false } => {}
        }
    }

    fn line_up(&self, object: &ObjectName, end: End) -> State {
        State::InLine(self.budget.enter(object, end, self.come.clone()))
    }

    /// Notes that the turn of an object has come. False if it does not wait for it any more.
    fn call(&self, object: &ObjectName) -> bool {
        if let Some(waiting) = self.waiting.lock().get_mut(object)
            && let State::InLine(_) = waiting.state
        {
            waiting.state = State::Called;
            return true;
        }
        self.budget.ended(Retried::Well);
        false
    }

    fn begin(&self, object: &ObjectName, waiting: &mut Waiting) -> Gate {
        if let State::InLine(place) = waiting.state {
            self.budget.leave(&object.namespace, place);
        }
        let by_turn = matches!(waiting.state, State::Called | State::UnderWay { by_turn: true });
        waiting.state = State::UnderWay { by_turn };
        if by_turn { Gate::Called } else { Gate::Open }
    }
}

#[cfg(test)]
mod tests;
