//! The places for connections, and which addresses get them.
//!
//! One client must not be able to take all places, and machines that share an address must not be held to a small number
//! while places are free. So there is one rule: an address may hold no more places than are free. An address alone gets at
//! most half of them, two get at most a third each, and a hundred leave one in a hundred free for an address that holds none.
//! Network switches share their buffers in this way ("dynamic thresholds", Choudhury and Hahne, 1998).
//!
//! A connection beyond that is accepted and closed at once. In the kernel's queue it would stand in front of others. Only
//! while no place is free at all do connections wait there, where they cost this process nothing, not even a file
//! descriptor.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::network;

/// The places of a listener. Clones share them.
#[derive(Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
    number: usize,
}

/// A place that is held. Dropping it makes room for the next connection.
pub struct Place {
    address: IpAddr,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _free: OwnedSemaphorePermit,
}

impl Places {
    /// So many places, all of them free.
    pub fn new(number: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(number)), held: Arc::default(), number }
    }

    /// Waits until at least one place is free. Only a taken place counts as held.
    pub async fn one_is_free(&self) {
        // The semaphore is never closed, and nothing is taken while one task accepts connections.
        drop(self.free.acquire().await);
    }

    /// Takes a place for a connection from this address, unless the address holds as many places as are free.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut held = self.held.lock();
        let entry = held.entry(address);
        let holds = match &entry {
            Entry::Occupied(held) => *held.get(),
            Entry::Vacant(_) => 0,
        };
        if holds >= self.free.available_permits() {
            return None;
        }
        let free = Arc::clone(&self.free).try_acquire_owned().ok()?;
        entry.insert_entry(holds + 1);
        Some(Place { address, held: Arc::clone(&self.held), _free: free })
    }

    /// Whether more than a quarter of the places are taken. That is before an address alone is held back.
    pub fn are_scarce(&self) -> bool {
        self.free.available_permits() < self.number - self.number / 4
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.held.lock().entry(self.address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// As many places as this address can get.
    fn all(places: &Places, of: &str) -> Vec<Place> {
        std::iter::from_fn(|| places.take(address(of))).collect()
    }

    #[test]
    fn an_address_gets_no_more_places_than_it_leaves_free() {
        let places = Places::new(12);
        let first = all(&places, "10.0.0.1");
        let second = all(&places, "10.0.0.2");
        let third = all(&places, "10.0.0.3");
        assert_eq!([first.len(), second.len(), third.len()], [6, 3, 2]);
        assert!(places.take(address("10.0.0.4")).is_some());
    }

    #[test]
    fn many_greedy_addresses_leave_a_place_for_one_that_holds_none() {
        let places = Places::new(1024);
        let mut held = Vec::new();
        for _ in 0..100 {
            for number in 0..100 {
                held.extend(places.take(address(&format!("10.0.0.{number}"))));
            }
        }
        assert!(held.len() > 1000 && places.take(address("10.0.1.1")).is_some(), "{}", held.len());
    }

    #[test]
    fn a_place_is_free_again_once_it_is_dropped() {
        let places = Places::new(2);
        for _ in 0..3 {
            let place = places.take(address("10.0.0.1")).unwrap();
            assert!(places.take(address("10.0.0.1")).is_none());
            drop(place);
        }
        assert!(places.held.lock().is_empty(), "addresses that hold nothing are remembered");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let places = Places::new(4);
        let held = [all(&places, "2001:db8::1"), all(&places, "2001:db8::2"), all(&places, "2001:db8:0:1::1")];
        assert_eq!(held.map(|places| places.len()), [2, 0, 1]);
    }

    #[test]
    fn places_are_scarce_before_an_address_alone_is_held_back() {
        let places = Places::new(8);
        let mut held = Vec::new();
        while !places.are_scarce() {
            held.push(places.take(address("10.0.0.1")).expect("a place"));
        }
        assert_eq!(held.len(), 3);
    }
}
