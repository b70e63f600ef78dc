//! An address that fails too often has to wait.
//!
//! Each address has a token bucket: a failure takes a token, and time puts tokens back. Only failures count and only failures
//! are limited, so a machine that succeeds is never slowed down, however many machines share its address. governor, the usual library, takes a token
//! for each attempt and cannot be asked without taking one. Its table also grows with the addresses; here the least recently
//! used ones are forgotten.

use std::{
    net::IpAddr,
    num::NonZero,
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;

use crate::serve::network;

/// Addresses that are remembered, at about 100 bytes each.
const ADDRESSES: NonZero<usize> = NonZero::new(32_768).unwrap();

/// The recent failures.
pub struct Failures {
    /// For each address, when its bucket will be full again.
    full_at: Mutex<LruCache<IpAddr, Instant>>,
    per_minute: u32,
}

impl Failures {
    /// Allows so many failures per minute and address, also all at once. 0 is no limit.
    pub fn new(per_minute: u32) -> Self {
        Self { full_at: Mutex::new(LruCache::unbounded()), per_minute }
    }

    /// How long this address must wait, if at all.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let interval = self.interval()?;
        let full_at = self.table().get(&network(address)).copied()?;
        // The bucket is empty while it takes longer to fill it than to fill all but one token.
        let wait = full_at.saturating_duration_since(now).saturating_sub(interval * (self.per_minute - 1));
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts a failure.
    pub fn count(&self, address: IpAddr, now: Instant) {
        let Some(interval) = self.interval() else { return };
        let mut table = self.table();
        let address = network(address);
        let full_at = table.get(&address).copied().map_or(now, |full_at| full_at.max(now));
        // Failures beyond the limit do not make the wait longer. It is a minute at most.
        table.put(address, (full_at + interval).min(now + interval * self.per_minute));
        if table.len() > ADDRESSES.get() {
            table.pop_lru();
        }
    }

    #[cfg(test)]
    fn addresses(&self) -> usize {
        self.table().len()
    }

    fn interval(&self) -> Option<Duration> {
        (self.per_minute > 0).then(|| Duration::from_secs(60) / self.per_minute)
    }

    fn table(&self) -> parking_lot::MutexGuard<'_, LruCache<IpAddr, Instant>> {
        self.full_at.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fail(failures: &Failures, from: &str, times: u32, now: Instant) {
        (0..times).for_each(|_| failures.count(address(from), now));
    }

    #[test]
    fn an_address_that_fails_too_often_waits_until_one_more_failure_is_allowed() {
        let (failures, start) = (Failures::new(60), Instant::now());
        let wait = |now| failures.wait(address("10.0.0.1"), now);
        fail(&failures, "10.0.0.1", 59, start);
        assert_eq!(wait(start), None);
        fail(&failures, "10.0.0.1", 1, start);
        assert_eq!(wait(start), Some(Duration::from_secs(1)));
        assert_eq!(wait(start + Duration::from_secs(1)), None);
        assert_eq!(failures.wait(address("10.0.0.2"), start), None);
    }

    #[test]
    fn more_failures_do_not_make_the_wait_longer_than_that() {
        let (failures, start) = (Failures::new(60), Instant::now());
        fail(&failures, "10.0.0.1", 10_000, start);
        assert_eq!(failures.wait(address("10.0.0.1"), start), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_mapped_addresses_as_what_they_are() {
        let (failures, start) = (Failures::new(1), Instant::now());
        fail(&failures, "2001:db8::1", 1, start);
        assert!(failures.wait(address("2001:db8::ffff:ffff"), start).is_some());
        assert!(failures.wait(address("2001:db8:0:1::1"), start).is_none());
        fail(&failures, "::ffff:10.0.0.1", 1, start);
        assert!(failures.wait(address("10.0.0.1"), start).is_some());
        assert!(failures.wait(address("10.0.0.2"), start).is_none());
    }

    #[test]
    fn the_table_is_bounded() {
        let (failures, start) = (Failures::new(1), Instant::now());
        for number in 0..100_000_u32 {
            failures.count(std::net::Ipv4Addr::from_bits(number).into(), start);
        }
        assert_eq!(failures.addresses(), ADDRESSES.get());
        assert!(failures.wait(std::net::Ipv4Addr::from_bits(99_999).into(), start).is_some());
    }

    #[test]
    fn zero_is_no_limit() {
        let (failures, start) = (Failures::new(0), Instant::now());
        fail(&failures, "10.0.0.1", 1000, start);
        assert_eq!((failures.wait(address("10.0.0.1"), start), failures.addresses()), (None, 0));
    }
}
