//! Creates the Peer of an admitted machine.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::Instant;

use super::Admissions;
use crate::{
    api::{Peer, PendingPeer, SetupKey},
    cluster::{ObjectName, call::Error},
    enrollment::api_server::Created,
};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// A machine that was admitted by a swap, and the key as that swap returned it.
pub struct Committed {
    pub key: Arc<SetupKey>,
    pub entry: PendingPeer,
    /// When the swap was sent.
    pub sent: Instant,
}

/// Creates the Peer, or finds it created. `None` when the entry is no longer this replica's: the controller goes on.
pub async fn create(admissions: &Admissions, committed: &Committed) -> Option<Peer> {
    let peer = Peer::from_entry(&committed.key, &committed.entry);
    let mut first = true;
    while committed.sent.elapsed() < admissions.owner_time {
        match attempt(admissions, committed, &peer, first).await {
            Ok(Attempted::Exists(peer)) => return Some(*peer),
            Ok(Attempted::Cleared) => return None,
            Ok(Attempted::Again) => {}
            Err(error) => tracing::warn!(%error, "could not create the Peer of an admitted machine; retrying"),
        }
        first = false;
        tokio::time::sleep(PAUSE).await;
    }
    None
}

enum Attempted {
    Exists(Box<Peer>),
    /// The entry is no longer pending.
    Cleared,
    Again,
}

async fn attempt(admissions: &Admissions, committed: &Committed, peer: &Peer, first: bool) -> Result<Attempted, Error> {
    let Ok(_turn) = admissions.in_flight.peer_requests.acquire().await else { return Ok(Attempted::Cleared) };
    // At the first attempt the entry is certainly pending: no other process acts on it yet.
    if !first && !is_pending(admissions, committed).await? {
        return Ok(Attempted::Cleared);
    }
    // Waiting for a turn and reading the key have taken time.
    if committed.sent.elapsed() >= admissions.owner_time {
        return Ok(Attempted::Again);
    }
    match admissions.api.create(peer).await? {
        Created::Done(peer) => Ok(Attempted::Exists(peer)),
        Created::Exists => {
            let namespace = peer.namespace().unwrap_or_default();
            let found = admissions.api.peer(&namespace, &peer.name_any()).await?;
            Ok(found.map_or(Attempted::Again, |peer| Attempted::Exists(Box::new(peer))))
        }
    }
}

async fn is_pending(admissions: &Admissions, committed: &Committed) -> Result<bool, Error> {
    let key = admissions.api.key(&ObjectName::of(&*committed.key)).await?;
    let key = key.filter(|key| key.uid() == committed.key.uid());
    Ok(key.is_some_and(|key| key.pending().contains(&committed.entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_attempts_fit_into_the_time_of_the_owner() {
        assert!(PAUSE * 8 < crate::key::ledger::OWNER_TIME);
    }
}
