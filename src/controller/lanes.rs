//! How many passes are made at the same time over the objects of one namespace, and over the keys at authorities.
//!
//! The queue makes passes in the order in which objects were added, so one key may wait for thousands of another namespace
//! that change all the time, or for those whose authority is slow to answer. Here, each of these groups gets some of the
//! places and no more. What does not fit waits in the line of its group, and is called when a place there is free.

use std::collections::{HashMap, HashSet, VecDeque};

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::cluster::ObjectName;

/// The places of all groups.
pub struct Lanes {
    /// The group of an object.
    group: fn(&ObjectName) -> &str,
    /// Places of each group.
    width: usize,
    called: UnboundedSender<ObjectName>,
    lanes: Mutex<HashMap<String, Lane>>,
}

#[derive(Default)]
struct Lane {
    /// The objects that have a place: a pass over them is under way, or they were called.
    placed: HashSet<ObjectName>,
    line: VecDeque<ObjectName>,
    /// The same objects as in the line.
    waiting: HashSet<ObjectName>,
}

/// A visit of the reconciler to an object. When it ends, so does the object's hold on a place.
pub struct Visit<'a> {
    lanes: &'a Lanes,
    object: &'a ObjectName,
}

impl Lanes {
    /// Free places only, so many for each namespace. The stream has the objects that are called: the reconciler must visit
    /// them.
    pub fn of_namespaces(width: usize) -> (Self, impl Stream<Item = ObjectName> + Send + 'static) {
        Self::new(|object| &object.namespace, width)
    }

    /// The same, so many for all objects together.
    pub fn of_all(width: usize) -> (Self, impl Stream<Item = ObjectName> + Send + 'static) {
        Self::new(|_| "", width)
    }

    fn new(group: fn(&ObjectName) -> &str, width: usize) -> (Self, impl Stream<Item = ObjectName> + Send + 'static) {
        let (called, calls) = mpsc::unbounded_channel();
        (Self { group, width, called, lanes: Mutex::default() }, UnboundedReceiverStream::new(calls))
    }

    /// Begins a visit, which takes no place yet.
    pub fn visit<'a>(&'a self, object: &'a ObjectName) -> Visit<'a> {
        Visit { lanes: self, object }
    }

    /// Takes the place from an object that has one, and calls the next of its group.
    pub fn leave(&self, object: &ObjectName) {
        let mut lanes = self.lanes.lock();
        let group = (self.group)(object);
        let Some(lane) = lanes.get_mut(group) else { return };
        lane.placed.remove(object);
        while lane.placed.len() < self.width
            && let Some(next) = lane.line.pop_front()
        {
            lane.waiting.remove(&next);
            lane.placed.insert(next.clone());
            // Without a reconciler, no call matters.
            let _ = self.called.send(next);
        }
        if lane.placed.is_empty() {
            lanes.remove(group);
        }
    }
}

impl Visit<'_> {
    /// Takes a place for a pass. False if there is none: the object is then called when there is.
    pub fn enter(&self) -> bool {
        let (object, width) = (self.object, self.lanes.width);
        let mut lanes = self.lanes.lanes.lock();
        let lane = lanes.entry((self.lanes.group)(object).to_owned()).or_default();
        if lane.placed.contains(object) {
            return true;
        }
        if lane.placed.len() < width {
            lane.placed.insert(object.clone());
            return true;
        }
        if lane.waiting.insert(object.clone()) {
            lane.line.push_back(object.clone());
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
        let (lanes, calls) = Lanes::of_namespaces(2);
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
        let (lanes, calls) = Lanes::of_namespaces(1);
        let mut calls = pin!(calls);
        let [one, two, three] = ["1", "2", "3"].map(|name| ObjectName::new("n", name));
        let first = lanes.visit(&one);
        assert!(first.enter() && !lanes.visit(&two).enter() && !lanes.visit(&three).enter());
        drop(first);
        assert_eq!(calls.next().now_or_never().flatten(), Some(two.clone()));
        drop(lanes.visit(&two)); // Held after all.
        assert_eq!(calls.next().now_or_never().flatten(), Some(three));
    }

    #[test]
    fn one_group_is_one_line() {
        let (lanes, calls) = Lanes::of_all(1);
        let mut calls = pin!(calls);
        let (one, other) = (ObjectName::new("a", "1"), ObjectName::new("b", "1"));
        let first = lanes.visit(&one);
        assert!(first.enter() && !lanes.visit(&other).enter());
        drop(first);
        assert_eq!(calls.next().now_or_never().flatten(), Some(other));
    }
}
