//! A queue in which namespaces take turns.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Items that wait, in one line for each namespace. However long the other lines are, the head of a line waits for at most
/// one item of each.
#[derive(Debug)]
pub struct FairQueue<T> {
    lines: HashMap<String, BTreeMap<Place, T>>,
    /// The namespaces that have a line, in the order of their next turns.
    turns: VecDeque<String>,
    len: usize,
    /// The places given out last, at the back and at the front.
    back: i64,
    front: i64,
}

/// A place in a line.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place(i64);

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), len: 0, back: 0, front: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Adds an item at the end of its namespace's line.
    pub fn push_back(&mut self, namespace: &str, item: T) -> Place {
        self.back += 1;
        self.insert(namespace, Place(self.back), item)
    }

    /// Adds an item before all others of its namespace.
    pub fn push_front(&mut self, namespace: &str, item: T) -> Place {
        self.front -= 1;
        self.insert(namespace, Place(self.front), item)
    }

    fn insert(&mut self, namespace: &str, place: Place, item: T) -> Place {
        match self.lines.get_mut(namespace) {
            Some(line) => drop(line.insert(place, item)),
            None => {
                self.lines.insert(namespace.to_owned(), [(place, item)].into());
                self.turns.push_back(namespace.to_owned());
            }
        }
        self.len += 1;
        place
    }

    /// Takes the item whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let namespace = self.turns.pop_front()?;
        let line = self.lines.get_mut(&namespace)?;
        let (_, item) = line.pop_first()?;
        if line.is_empty() {
            self.lines.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        self.len -= 1;
        Some(item)
    }

    /// Takes an item out, wherever it is in its line.
    pub fn remove(&mut self, namespace: &str, place: Place) -> Option<T> {
        let line = self.lines.get_mut(namespace)?;
        let item = line.remove(&place)?;
        if line.is_empty() {
            self.lines.remove(namespace);
            self.turns.retain(|turn| turn != namespace);
        }
        self.len -= 1;
        Some(item)
    }

    /// How many items wait, in all lines.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many items wait in the line of this namespace.
    pub fn len_of(&self, namespace: &str) -> usize {
        self.lines.get(namespace).map_or(0, BTreeMap::len)
    }

    /// The line of this namespace, from its head.
    pub fn line(&self, namespace: &str) -> impl DoubleEndedIterator<Item = (Place, &T)> {
        self.lines.get(namespace).into_iter().flatten().map(|(place, item)| (*place, item))
    }

    /// The namespace with the longest line, and how many items are in it.
    pub fn longest(&self) -> Option<(&str, usize)> {
        let lines = self.lines.iter().map(|(namespace, line)| (namespace.as_str(), line.len()));
        lines.max_by_key(|(_, len)| *len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn namespaces_take_turns_however_long_their_lines_are() {
        let mut queue = FairQueue::default();
        for item in ["a1", "a2", "a3"] {
            queue.push_back("a", item);
        }
        queue.push_back("b", "b1");
        queue.push_back("c", "c1");
        queue.push_back("c", "c2");
        assert_eq!((queue.len(), queue.len_of("c"), queue.longest()), (6, 2, Some(("a", 3))));
        assert_eq!(drained(&mut queue), ["a1", "b1", "c1", "a2", "c2", "a3"]);
        assert_eq!((queue.len(), queue.longest()), (0, None));
    }

    #[test]
    fn an_item_that_is_urgent_passes_only_those_of_its_own_namespace() {
        let mut queue = FairQueue::default();
        queue.push_back("a", "a1");
        queue.push_back("b", "b1");
        queue.push_front("b", "b0");
        assert_eq!(drained(&mut queue), ["a1", "b0", "b1"]);
    }

    #[test]
    fn an_item_can_leave_its_line() {
        let mut queue = FairQueue::default();
        let first = queue.push_back("a", "a1");
        let only = queue.push_back("b", "b1");
        queue.push_back("a", "a2");
        assert_eq!(queue.remove("b", only), Some("b1"));
        assert_eq!(queue.remove("a", first), Some("a1"));
        assert_eq!(queue.remove("a", first), None);
        assert_eq!(queue.line("a").map(|(_, item)| *item).collect::<Vec<_>>(), ["a2"]);
        assert_eq!(drained(&mut queue), ["a2"]);
        assert!(queue.lines.is_empty() && queue.turns.is_empty(), "it remembers empty lines");
    }
}
