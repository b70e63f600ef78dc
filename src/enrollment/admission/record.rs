//! Creating the Peer of a machine that was committed.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::Instant;

use super::Admissions;
use crate::{
    api::{Peer, PendingPeer, SetupKey},
    cluster::{ObjectName, call::Error},
    enrollment::api_server::Created,
    key::peer::peer_of,
};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// A machine that was committed, in the object that the swap returned.
pub struct Committed {
    pub key: Arc<SetupKey>,
    pub entry: PendingPeer,
    /// When the swap was sent.
    pub sent: Instant,
}

/// Creates the Peer, as long as it is up to this replica. `None` when that is over: the controller goes on.
pub async fn record(admissions: &Admissions, committed: &Committed) -> Option<Peer> {
    let peer = peer_of(&committed.key, &committed.entry);
    let mut first = true;
    while committed.sent.elapsed() < admissions.owner_time {
        // The first attempt needs no look at the key: nobody else may have come to the entry since the swap.
        match attempt(admissions, committed, &peer, first).await {
            Ok(Step::Done(peer)) => return Some(*peer),
            Ok(Step::Cleared) => return None,
            Ok(Step::Again) => {}
            Err(error) => tracing::warn!(%error, "a peer that was admitted is not recorded yet"),
        }
        first = false;
        tokio::time::sleep(PAUSE).await;
    }
    None
}

enum Step {
    Done(Box<Peer>),
    /// The entry is no longer there.
    Cleared,
    Again,
}

async fn attempt(admissions: &Admissions, committed: &Committed, peer: &Peer, first: bool) -> Result<Step, Error> {
    let Ok(_turn) = admissions.requests.acquire().await else { return Ok(Step::Cleared) };
    if !first && !is_pending(admissions, committed).await? {
        return Ok(Step::Cleared);
    }
    // The wait for a turn and the look at the key have taken time.
    if committed.sent.elapsed() >= admissions.owner_time {
        return Ok(Step::Again);
    }
    match admissions.objects.create(peer).await? {
        Created::Done(peer) => Ok(Step::Done(peer)),
        Created::Exists => {
            let namespace = peer.namespace().unwrap_or_default();
            let found = admissions.objects.peer(&namespace, &peer.name_any()).await?;
            Ok(found.map_or(Step::Again, |peer| Step::Done(Box::new(peer))))
        }
    }
}

async fn is_pending(admissions: &Admissions, committed: &Committed) -> Result<bool, Error> {
    let key = admissions.objects.key(&ObjectName::of(&*committed.key)).await?;
    let key = key.filter(|key| key.uid() == committed.key.uid());
    Ok(key.is_some_and(|key| key.pending().contains(&committed.entry)))
}
