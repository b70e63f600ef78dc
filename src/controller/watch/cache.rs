//! The objects of one kind that a watch has shown.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, Hash, RandomState},
    marker::PhantomData,
    ops::Bound,
    sync::{Arc, LazyLock},
};

use kube::runtime::watcher::Event;
use parking_lot::RwLock;

use super::{Watchable, packed::Packed};
use crate::cluster::ObjectName;

/// What some objects have in common, and are found by.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Mark(u64);

/// A sort of marks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sort {
    /// A digest that stands on record for a `SetupKey`.
    Digest,
    /// The authority that a `SetupKey` names.
    Authority,
    /// The UID of the owner of an object, or of the owner of keys at an authority.
    Owner,
    /// A `SetupKey` that cannot be decoded.
    Undecodable,
}

impl Mark {
    /// A keyed hash, so that a tenant cannot choose values with the same mark. By chance, one of 2⁶² pairs has it.
    pub fn new(sort: Sort, of: impl Hash) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self((sort as u64) << 62 | HASHER.hash_one(of) >> 2)
    }

    /// The first and the last possible mark of a sort.
    fn all(sort: Sort) -> (Self, Self) {
        (Self((sort as u64) << 62), Self((sort as u64) << 62 | u64::MAX >> 2))
    }
}

/// A cache. Clones share the objects.
pub struct Cache<K> {
    objects: Arc<RwLock<Objects>>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects), kind: PhantomData }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { objects: Arc::default(), kind: PhantomData }
    }
}

#[derive(Debug, Default)]
struct Objects {
    by_name: HashMap<Arc<ObjectName>, Packed>,
    by_mark: BTreeSet<(Mark, Arc<ObjectName>)>,
}

impl Objects {
    fn put<K: Watchable>(&mut self, name: Arc<ObjectName>, object: &K) {
        if K::HAS_MARKS {
            if let Some(old) = self.by_name.get(&name) {
                self.unmark(&name, &unpacked::<K>(old));
            }
            self.by_mark.extend(object.marks().into_iter().map(|mark| (mark, Arc::clone(&name))));
        }
        self.by_name.insert(name, Packed::new(&object.to_text(), K::dictionary()));
    }

    fn remove<K: Watchable>(&mut self, name: &ObjectName) -> Option<Arc<ObjectName>> {
        let (name, old) = self.by_name.remove_entry(name)?;
        if K::HAS_MARKS {
            self.unmark(&name, &unpacked::<K>(&old));
        }
        Some(name)
    }

    fn unmark<K: Watchable>(&mut self, name: &Arc<ObjectName>, old: &K) {
        for mark in old.marks() {
            self.by_mark.remove(&(mark, Arc::clone(name)));
        }
    }
}

fn unpacked<K: Watchable>(packed: &Packed) -> K {
    decoded(&packed.text(K::dictionary()))
}

fn decoded<K: Watchable>(text: &[u8]) -> K {
    K::from_text(text).expect("what was encoded here")
}

impl<K: Watchable> Cache<K> {
    /// The object of this name.
    pub fn get(&self, name: &ObjectName) -> Option<K> {
        // Decoded outside the lock.
        let text = self.objects.read().by_name.get(name).map(|packed| packed.text(K::dictionary()))?;
        Some(decoded(&text))
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<Arc<ObjectName>> {
        self.objects.read().by_name.keys().cloned().collect()
    }

    /// A name as the cache has it, so that it is in memory once.
    pub fn shared_name(&self, name: &ObjectName) -> Option<Arc<ObjectName>> {
        self.objects.read().by_name.get_key_value(name).map(|(name, _)| Arc::clone(name))
    }

    /// The objects with this mark, but for a collision of hashes.
    pub fn marked(&self, mark: Mark) -> Vec<Arc<ObjectName>> {
        self.between(mark, mark).into_iter().map(|(_, name)| name).collect()
    }

    /// The marks of a sort with the objects that have them, in the order of the marks.
    pub fn all_marked(&self, sort: Sort) -> Vec<(Mark, Arc<ObjectName>)> {
        let (first, last) = Mark::all(sort);
        self.between(first, last)
    }

    /// Whether an object has this mark.
    pub fn has(&self, mark: Mark) -> bool {
        !self.marked(mark).is_empty()
    }

    fn between(&self, first: Mark, last: Mark) -> Vec<(Mark, Arc<ObjectName>)> {
        let start = (first, Arc::<ObjectName>::default());
        let objects = self.objects.read();
        let from = objects.by_mark.range((Bound::Included(start), Bound::Unbounded));
        from.take_while(|(mark, _)| *mark <= last).cloned().collect()
    }
}

/// What fills a cache. There is one for each.
pub struct Filling<K> {
    cache: Cache<K>,
    /// The objects of a list that has begun. Until it is complete, the cache shows the old ones.
    listed: Objects,
}

impl<K: Watchable> Filling<K> {
    pub fn new() -> Self {
        Self { cache: Cache::default(), listed: Objects::default() }
    }

    /// The cache that is filled.
    pub fn cache(&self) -> Cache<K> {
        self.cache.clone()
    }

    /// Takes up what the watch has shown. Returns the names of the objects that have changed or are gone.
    pub fn apply(&mut self, event: &Event<K>) -> Vec<Arc<ObjectName>> {
        match event {
            Event::Init => {
                self.listed = Objects::default();
                vec![]
            }
            Event::InitApply(object) => {
                self.listed.put(self.name(object), object);
                vec![]
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut *self.cache.objects.write(), std::mem::take(&mut self.listed));
                let now = self.cache.objects.read();
                before.by_name.into_keys().filter(|name| !now.by_name.contains_key(name)).collect()
            }
            Event::Apply(object) => {
                let name = self.name(object);
                self.cache.objects.write().put(Arc::clone(&name), object);
                vec![name]
            }
            Event::Delete(object) => {
                let name = ObjectName::of(object);
                let removed = self.cache.objects.write().remove::<K>(&name);
                vec![removed.unwrap_or_else(|| name.into())]
            }
        }
    }

    fn name(&self, object: &K) -> Arc<ObjectName> {
        let name = ObjectName::of(object);
        self.cache.shared_name(&name).unwrap_or_else(|| name.into())
    }
}
