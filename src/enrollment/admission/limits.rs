//! How much a replica has in flight, and why so little.
//!
//! More requests would not make a busy API server faster, but would delay its watches: replicas then know less of each other
//! and lose more swaps. What cannot be sent yet waits here, so that it is built on what is known when its turn comes.

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

/// Requests about Peers: look-ups and creations. Enough to keep the API server busy, few enough that its watches keep up.
const PEER_REQUESTS: usize = 8;

/// Swaps, of different keys. Few, because a swap that waits takes more machines and is lost less often.
const SWAPS: usize = 3;

/// Swaps in addition to those, for entries that have waited too long to be cleared.
const LATE_SWAPS: usize = 1;

/// Upper bound on admitted machines whose Peer is not created yet; further requests wait. Keeps each creation well within
/// [`OWNER_TIME`](crate::key::ledger::OWNER_TIME) and lets waiting requests share a swap.
pub const AHEAD: usize = 64;

/// Peers that are released at a time. No machine waits for them, so they get little.
pub const RELEASES: usize = 2;

/// Machines that may wait for one key. Further requests are answered with 503.
pub const WAITING: usize = 4096;

/// Peers that may wait to be released. The controller releases the others.
pub const WAITING_RELEASES: usize = 16_384;

/// What all tasks of a replica share.
pub struct InFlight {
    /// Requests about Peers.
    pub peer_requests: Semaphore,
    swaps: Semaphore,
    late_swaps: Semaphore,
    /// Machines that may be admitted ahead of the creation of their Peers.
    pub ahead: Arc<Semaphore>,
}

impl InFlight {
    /// Nothing is in flight yet.
    pub fn new() -> Self {
        Self {
            peer_requests: Semaphore::new(PEER_REQUESTS),
            swaps: Semaphore::new(SWAPS),
            late_swaps: Semaphore::new(LATE_SWAPS),
            ahead: Arc::new(Semaphore::new(AHEAD)),
        }
    }

    /// Waits until a swap may be sent. From the moment `late`, an additional swap may be.
    pub async fn swap(&self, late: Option<Instant>) -> Option<SemaphorePermit<'_>> {
        let Some(late) = late else { return self.swaps.acquire().await.ok() };
        let late_swap = async {
            sleep_until(late).await;
            self.late_swaps.acquire().await.ok()
        };
        tokio::select! {
            turn = self.swaps.acquire() => turn.ok(),
            turn = late_swap => turn,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_given(in_flight: &InFlight, late: Option<Instant>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), in_flight.swap(late)).await.is_ok()
    }

    #[tokio::test]
    async fn a_late_swap_is_sent_beside_the_others() {
        let in_flight = InFlight::new();
        let mut turns = Vec::new();
        for _ in 0..SWAPS {
            turns.push(in_flight.swap(None).await);
        }
        let now = Instant::now();
        assert!(!is_given(&in_flight, None).await);
        assert!(!is_given(&in_flight, Some(now + Duration::from_secs(60))).await);
        let late = in_flight.swap(Some(now)).await;
        assert!(late.is_some());
        assert!(!is_given(&in_flight, Some(now)).await, "there is one such swap at a time");
        drop(turns);
        assert!(is_given(&in_flight, None).await);
    }
}
