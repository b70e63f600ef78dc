//! The work queue of a reconciler: which objects are to have a pass, and when.
//!
//! An object is in the queue once, however often it is added. There is one pass over it at a time; if it is added during a
//! pass, another pass follows. A pass may ask for the next one after a pause. The next pass, whatever its reason, ends the
//! pause.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::coop, time::sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cluster::ObjectName;

/// The objects of one reconciler.
#[derive(Default)]
pub struct Queue {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl Queue {
    /// Asks for a pass over an object.
    pub fn add(&self, object: Arc<ObjectName>) {
        self.add_all([object]);
    }

    /// Asks for a pass over each of these.
    pub fn add_all(&self, objects: impl IntoIterator<Item = Arc<ObjectName>>) {
        let mut schedule = self.schedule.lock();
        objects.into_iter().for_each(|object| schedule.add(object));
        drop(schedule);
        self.changed.notify_one();
    }

    /// Makes the passes, so many at a time, until `stop` is cancelled. Then the passes under way are finished. A pass returns
    /// how long to wait for the next one, if the object need not be added for that.
    pub async fn run<P, F>(&self, most: usize, pass: P, stop: &CancellationToken)
    where
        P: Fn(Arc<ObjectName>) -> F,
        F: Future<Output = Option<Duration>>,
    {
        let mut under_way = FuturesUnordered::new();
        loop {
            let stopped = stop.is_cancelled();
            if stopped && under_way.is_empty() {
                return;
            }
            let mut next = None;
            if !stopped && under_way.len() < most {
                match self.schedule.lock().next(Instant::now()) {
                    Next::Object(object) => {
                        let made = pass(Arc::clone(&object));
                        under_way.push(async move { (object, made.await) });
                        continue;
                    }
                    Next::At(moment) => next = Some(moment),
                    Next::Nothing => {}
                }
            }
            let free = !stopped && under_way.len() < most;
            tokio::select! {
                Some((object, pause)) = under_way.next() => {
                    self.schedule.lock().ended(object, pause.map(|pause| Instant::now() + pause));
                    // Passes that wait for nothing would not let the watches run.
                    coop::consume_budget().await;
                }
                () = self.changed.notified(), if free => {}
                () = sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {}
                () = stop.cancelled(), if !stopped => {}
            }
        }
    }
}

/// The order of the passes.
#[derive(Default)]
struct Schedule {
    line: VecDeque<Arc<ObjectName>>,
    pauses: BTreeSet<(Instant, Arc<ObjectName>)>,
    /// The objects in the line, with a pause, or with a pass under way.
    places: HashMap<Arc<ObjectName>, Place>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Until this moment.
    Pausing(Instant),
    InLine,
    UnderWay,
    /// A pass is under way, and another one is to follow.
    UnderWayAndAdded,
}

#[derive(Debug, Eq, PartialEq)]
enum Next {
    /// A pass over this one, now.
    Object(Arc<ObjectName>),
    /// Perhaps one at this moment.
    At(Instant),
    /// None, until an object is added.
    Nothing,
}

impl Schedule {
    fn add(&mut self, object: Arc<ObjectName>) {
        match self.places.get_mut(&object) {
            Some(Place::InLine | Place::UnderWayAndAdded) => return,
            Some(place @ Place::UnderWay) => {
                *place = Place::UnderWayAndAdded;
                return;
            }
            Some(place @ Place::Pausing(_)) => {
                if let Place::Pausing(until) = std::mem::replace(place, Place::InLine) {
                    self.pauses.remove(&(until, Arc::clone(&object)));
                }
            }
            None => drop(self.places.insert(Arc::clone(&object), Place::InLine)),
        }
        self.line.push_back(object);
    }

    fn next(&mut self, now: Instant) -> Next {
        while let Some((until, _)) = self.pauses.first()
            && *until <= now
            && let Some((_, object)) = self.pauses.pop_first()
        {
            self.places.insert(Arc::clone(&object), Place::InLine);
            self.line.push_back(object);
        }
        let Some(object) = self.line.pop_front() else {
            return self.pauses.first().map_or(Next::Nothing, |(until, _)| Next::At(*until));
        };
        self.places.insert(Arc::clone(&object), Place::UnderWay);
        Next::Object(object)
    }

    fn ended(&mut self, object: Arc<ObjectName>, next: Option<Instant>) {
        if self.places.remove(&object) == Some(Place::UnderWayAndAdded) {
            return self.add(object);
        }
        if let Some(until) = next {
            self.places.insert(Arc::clone(&object), Place::Pausing(until));
            self.pauses.insert((until, object));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Arc<ObjectName> {
        ObjectName::new("n", name).into()
    }

    #[test]
    fn an_object_has_one_pass_however_often_it_is_added() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for name in ["a", "b", "a"] {
            schedule.add(named(name));
        }
        assert_eq!(schedule.next(now), Next::Object(named("a")));
        assert_eq!(schedule.next(now), Next::Object(named("b")));
        assert_eq!(schedule.next(now), Next::Nothing);
    }

    #[test]
    fn what_is_added_during_a_pass_has_another_one_after_it() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.add(named("a"));
        assert_eq!(schedule.next(now), Next::Object(named("a")));
        schedule.add(named("a"));
        schedule.add(named("a"));
        assert_eq!(schedule.next(now), Next::Nothing, "two passes at a time");
        schedule.ended(named("a"), Some(now + Duration::from_secs(60)));
        assert_eq!(schedule.next(now), Next::Object(named("a")));
        schedule.ended(named("a"), None);
        assert_eq!(schedule.next(now), Next::Nothing);
        assert!(schedule.places.is_empty() && schedule.pauses.is_empty(), "it remembers what is over");
    }

    #[test]
    fn a_pause_ends_at_its_moment_or_when_the_object_is_added() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        for (name, until) in [("a", late), ("b", soon), ("c", soon)] {
            schedule.add(named(name));
            assert_eq!(schedule.next(now), Next::Object(named(name)));
            schedule.ended(named(name), Some(until));
        }
        assert_eq!(schedule.next(now), Next::At(soon));
        schedule.add(named("b"));
        assert_eq!(schedule.next(now), Next::Object(named("b")));
        schedule.ended(named("b"), None);
        assert_eq!(schedule.next(soon), Next::Object(named("c")));
        assert_eq!(schedule.next(soon), Next::At(late));
        assert_eq!(schedule.next(late), Next::Object(named("a")), "a moment is reached, and not passed");
    }

    #[tokio::test]
    async fn passes_under_way_are_finished_and_no_other_is_begun() {
        let (queue, stop) = (Queue::default(), CancellationToken::new());
        queue.add_all(["a", "b", "c"].map(named));
        let made = Mutex::new(vec![]);
        let pass = |object: Arc<ObjectName>| {
            let (made, stop) = (&made, stop.clone());
            async move {
                stop.cancel();
                tokio::task::yield_now().await;
                made.lock().push(object.name.clone());
                Some(Duration::ZERO)
            }
        };
        tokio::time::timeout(Duration::from_secs(60), queue.run(2, pass, &stop)).await.expect("an end");
        made.lock().sort();
        assert_eq!(*made.lock(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_pass_that_waits_for_nothing_lets_others_run() {
        let (queue, stop) = (Queue::default(), CancellationToken::new());
        queue.add(named("a"));
        let running = queue.run(1, async |_| Some(Duration::ZERO), &stop);
        let other = async {
            tokio::task::yield_now().await;
            stop.cancel();
        };
        let both = futures::future::join(running, other);
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("an end");
    }
}
