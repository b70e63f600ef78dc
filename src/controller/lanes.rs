//! How many passes over the objects of one namespace are made at the same time.
//!
//! kube's controller begins the passes that wait in no particular order, so one key may wait for thousands of another
//! namespace that change all the time. Here, a namespace gets some of the places and no more. What does not fit waits in a
//! line of its own, and is called when a place of its namespace is free.

use std::collections::{HashMap, HashSet, VecDeque};

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::cluster::ObjectName;

/// The places of all namespaces.
pub struct Lanes {
    /// Places of each namespace.
    width: usize,
    called: UnboundedSender<ObjectName>,
    lanes: Mutex<HashMap<String, Lane>>,
}

#[derive(Default)]
struct Lane {
    /// The objects that have a place: a pass over them is under way, or they were called.
    placed: HashSet<String>,
    line: VecDeque<String>,
    /// The same objects as in the line.
    waiting: HashSet<String>,
}

/// A visit of the reconciler to an object. When it ends, so does the object's hold on a place.
pub struct Visit<'a> {
    lanes: &'a Lanes,
    object: &'a ObjectName,
}

impl Lanes {
    /// Free places only, so many for each namespace. The stream has the objects that are called: the reconciler must visit
    /// them.
    pub fn new(width: usize) -> (Self, impl Stream<Item = ObjectName> + Send + 'static) {
        let (called, calls) = mpsc::unbounded_channel();
        (Self { width, called, lanes: Mutex::default() }, UnboundedReceiverStream::new(calls))
    }

    /// Begins a visit, which takes no place yet.
    pub fn visit<'a>(&'a self, object: &'a ObjectName) -> Visit<'a> {
        Visit { lanes: self, object }
    }

    /// Takes the place from an object that has one, and calls the next of its namespace.
    pub fn leave(&self, object: &ObjectName) {
        let mut lanes = self.lanes.lock();
        let Some(lane) = lanes.get_mut(&object.namespace) else { return };
        lane.placed.remove(&object.name);
        while lane.placed.len() < self.width
            && let Some(next) = lane.line.pop_front()
        {
            lane.waiting.remove(&next);
            lane.placed.insert(next.clone());
            // Without a reconciler, no call matters.
            let _ = self.called.send(ObjectName::new(&object.namespace, next));
        }
        if lane.placed.is_empty() {
            lanes.remove(&object.namespace);
        }
    }
}

impl Visit<'_> {
    /// Takes a place for a pass. False if there is none: the object is then called when there is.
    pub fn enter(&self) -> bool {
        let ObjectName { namespace, name } = self.object;
        let mut lanes = self.lanes.lanes.lock();
        let lane = lanes.entry(namespace.clone()).or_default();
        if lane.placed.contains(name) {
            return true;
        }
        if lane.placed.len() < self.lanes.width {
            lane.placed.insert(name.clone());
            return true;
        }
        if lane.waiting.insert(name.clone()) {
            lane.line.push_back(name.clone());
        }
        false
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.lanes.leave(self.object);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt, StreamExt};

    use super::*;

    #[test]
    fn a_namespace_that_is_full_leaves_the_places_of_the_others_free() {
        let (lanes, calls) = Lanes::new(2);
        let mut calls = pin!(calls);
        let mut next_call = || calls.next().now_or_never().flatten().map(|called| called.name);
        let [a1, a2, a3, a4] = ["1", "2", "3", "4"].map(|name| ObjectName::new("a", name));
        let b1 = ObjectName::new("b", "1");
        let (first, second) = (lanes.visit(&a1), lanes.visit(&a2));
        assert!(first.enter() && second.enter());
        for _ in 0..2 {
            assert!(!lanes.visit(&a3).enter() && !lanes.visit(&a4).enter());
        }
        assert!(lanes.visit(&b1).enter());
        assert_eq!(next_call(), None);

        drop(second);
        assert_eq!((next_call().as_deref(), next_call()), (Some("3"), None));
        assert!(lanes.visit(&a3).enter(), "it was called");
        assert_eq!((next_call().as_deref(), next_call()), (Some("4"), None));
        lanes.leave(&a4); // It is gone.
        drop(first);
        assert!(lanes.lanes.lock().is_empty(), "it remembers what is over");
    }

    #[test]
    fn a_visit_without_a_pass_passes_its_call_on() {
        let (lanes, calls) = Lanes::new(1);
        let mut calls = pin!(calls);
        let [one, two, three] = ["1", "2", "3"].map(|name| ObjectName::new("n", name));
        let first = lanes.visit(&one);
        assert!(first.enter() && !lanes.visit(&two).enter() && !lanes.visit(&three).enter());
        drop(first);
        assert_eq!(calls.next().now_or_never().flatten(), Some(two.clone()));
        drop(lanes.visit(&two)); // Held after all.
        assert_eq!(calls.next().now_or_never().flatten(), Some(three));
    }
}
