//! The rate of retries, which all reconcilers of a process share.
//!
//! An object whose pause is over waits in line for its retry. The lines of namespaces take turns, so thousands of keys
//! that wait for a person in one namespace do not keep the key of another from its retry.
//!
//! A change does not wait in line. Retries leave most places of the reconcilers free, so a change finds one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc::UnboundedSender};

use super::fair_queue::{FairQueue, Place};
use crate::cluster::{Bucket, ObjectName};

/// Retries at once after a quiet time, so that a few objects in trouble are retried without delay.
const BURST: u32 = 10;
/// After a burst, one retry in this time.
const PERIOD: Duration = Duration::from_millis(100);
/// Retries under way at the same time. An API server that does not answer holds up each for ten seconds and more.
const MOST: usize = 8;

/// The retries of all reconcilers of a process. Cheap to clone; clones share the rate.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    schedule: Mutex<Schedule<Turn>>,
    changed: Notify,
}

/// A retry that waits, and where to say that its turn has come.
struct Turn {
    object: ObjectName,
    come: UnboundedSender<ObjectName>,
}

/// How a retry has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retried {
    /// The object is well, or gone. That costs nothing, so after an outage as many objects recover as there can.
    Well,
    /// It has failed again.
    InVain,
}

/// Where in its line an object enters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// After all others of its namespace.
    Back,
    /// Before them: there is reason to expect that this retry succeeds.
    Front,
}

impl Budget {
    /// A budget that nothing was taken from. Turns come while [`Self::run`] is polled.
    pub fn new() -> Self {
        Self(Arc::new(Shared { schedule: Mutex::new(Schedule::new(Instant::now())), changed: Notify::new() }))
    }

    /// Lines up for a retry. Its turn is announced to `come`, and must be followed by [`Self::ended`].
    pub fn enter(&self, object: &ObjectName, end: End, come: UnboundedSender<ObjectName>) -> Place {
        let turn = Turn { object: object.clone(), come };
        let queue = &mut self.0.schedule.lock().queue;
        let place = match end {
            End::Back => queue.push_back(&object.namespace, turn),
            End::Front => queue.push_front(&object.namespace, turn),
        };
        self.0.changed.notify_one();
        place
    }

    /// Leaves the line.
    pub fn leave(&self, namespace: &str, place: Place) {
        self.0.schedule.lock().queue.remove(namespace, place);
    }

    /// Notes that a retry has ended whose turn had come.
    pub fn ended(&self, how: Retried) {
        self.0.schedule.lock().ended(how);
        self.0.changed.notify_one();
    }

    /// Announces turns, for ever.
    pub async fn run(self) {
        loop {
            let next = self.0.schedule.lock().next(Instant::now());
            match next {
                Next::Turn(turn) => {
                    if turn.come.send(turn.object).is_err() {
                        self.ended(Retried::Well); // Its reconciler has ended.
                    }
                }
                Next::At(moment) => tokio::select! {
                    () = tokio::time::sleep_until(moment.into()) => {}
                    () = self.0.changed.notified() => {}
                },
                Next::Nothing => self.0.changed.notified().await,
            }
        }
    }
}

/// Which retry is next, and when.
struct Schedule<T> {
    queue: FairQueue<T>,
    bucket: Bucket,
    under_way: usize,
}

#[derive(Debug, Eq, PartialEq)]
enum Next<T> {
    /// This one, now.
    Turn(T),
    /// Perhaps one at this moment.
    At(Instant),
    /// None, until something changes.
    Nothing,
}

impl<T> Schedule<T> {
    fn new(now: Instant) -> Self {
        Self { queue: FairQueue::default(), bucket: Bucket::new(BURST, PERIOD, now), under_way: 0 }
    }

    fn next(&mut self, now: Instant) -> Next<T> {
        if self.queue.len() == 0 || self.under_way >= MOST {
            return Next::Nothing;
        }
        let moment = self.bucket.next(now);
        if moment > now {
            return Next::At(moment);
        }
        let Some(turn) = self.queue.pop() else { return Next::Nothing };
        self.bucket.take(now);
        self.under_way += 1;
        Next::Turn(turn)
    }

    fn ended(&mut self, how: Retried) {
        self.under_way = self.under_way.saturating_sub(1);
        if how == Retried::Well {
            self.bucket.put_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns until this moment, if each retry ends at once in this way.
    fn turns(schedule: &mut Schedule<&'static str>, from: Instant, until: Instant, how: Retried) -> Vec<&'static str> {
        let (mut now, mut turns) = (from, Vec::new());
        while now <= until {
            match schedule.next(now) {
                Next::Turn(name) => {
                    turns.push(name);
                    schedule.ended(how);
                }
                Next::At(moment) => now = moment,
                Next::Nothing => break,
            }
        }
        turns
    }

    fn crowd() -> (Schedule<&'static str>, Instant) {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut schedule = Schedule::new(start);
        for _ in 0..4000 {
            schedule.queue.push_back("crowd", "crowd");
        }
        (schedule, start)
    }

    #[test]
    fn four_thousand_keys_in_vain_cost_ten_retries_a_second() {
        let (mut schedule, start) = crowd();
        let second = Duration::from_secs(1);
        assert_eq!(turns(&mut schedule, start, start + second * 10, Retried::InVain).len(), 110);
    }

    #[test]
    fn a_single_key_is_the_next_but_one_after_four_thousand_of_another_namespace() {
        let (mut schedule, start) = crowd();
        turns(&mut schedule, start, start + Duration::from_secs(5), Retried::InVain);
        let now = start + Duration::from_secs(6);
        schedule.queue.push_back("single", "single");
        let served = turns(&mut schedule, now, now + Duration::from_secs(1), Retried::InVain);
        assert!(served[..2].contains(&"single"), "{served:?}");
    }

    #[test]
    fn after_an_outage_all_recover_at_once() {
        let (mut schedule, start) = crowd();
        assert_eq!(turns(&mut schedule, start, start, Retried::Well).len(), 4000);
    }

    #[test]
    fn retries_without_an_answer_leave_places_for_changes() {
        let (mut schedule, start) = crowd();
        let begun = (0..20).filter(|_| matches!(schedule.next(start), Next::Turn(_))).count();
        assert_eq!((begun, schedule.next(start)), (MOST, Next::Nothing));
        schedule.ended(Retried::InVain);
        assert_eq!(schedule.next(start), Next::Turn("crowd"));
    }
}
