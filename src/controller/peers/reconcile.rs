//! One pass over one peer.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, Preconditions},
};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    api::{Peer, SetupKey, metadata::PENDING_FINALIZER},
    cluster::{
        Clock, ObjectName,
        call::{Attempt, call},
        patch_params,
    },
    controller::{
        Environment,
        error::Error,
        metrics::Metrics,
        retry::{Gate, Versions},
        watch::{Cache, WatchedKey, WatchedPeer, WatchedPeers},
        work::Work,
    },
    key::{
        plan::Until,
        presence::{PeerStep, peer_plan},
    },
};

/// Between two looks at a peer that is being deleted while its entry is pending.
const HELD_BACK: Duration = Duration::from_millis(500);

/// What passes share.
pub struct Context {
    client: Client,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    lifetime: Duration,
    handover: Duration,
    peers: Cache<WatchedPeer>,
    keys: Cache<WatchedKey>,
    /// The peers that have the finalizer, by UID, and since when this process has seen it there.
    held: Mutex<HashMap<ObjectName, (Option<String>, Instant)>>,
    work: Work,
}

impl Context {
    /// The context for the peers of one scope.
    pub fn new(environment: Environment, watched: &WatchedPeers, work: Work) -> Self {
        Self {
            work,
            client: environment.client,
            clock: environment.clock,
            metrics: environment.metrics,
            lifetime: environment.peer_lifetime,
            handover: environment.handover,
            peers: watched.peers.clone(),
            keys: watched.keys.clone(),
            held: Mutex::default(),
        }
    }

    /// Drops what is remembered about a peer that is gone.
    pub fn forget(&self, peer: &ObjectName) {
        self.work.forget(peer);
        self.held.lock().remove(peer);
    }

    /// How long this process has seen the finalizer on the peer.
    fn held_for(&self, peer: &WatchedPeer) -> Duration {
        let mut held = self.held.lock();
        let (uid, since) = held.entry(ObjectName::of(peer)).or_insert_with(|| (peer.uid(), Instant::now()));
        if *uid != peer.uid() {
            (*uid, *since) = (peer.uid(), Instant::now());
        }
        since.elapsed()
    }

    fn api(&self, peer: &WatchedPeer) -> Api<Peer> {
        Api::namespaced(self.client.clone(), &peer.namespace().unwrap_or_default())
    }
}

/// Makes a pass. It never fails: an error is logged and retried. Returns after how long to make the next one.
pub async fn reconcile(name: Arc<ObjectName>, context: Arc<Context>) -> Option<Duration> {
    if !context.work.may_begin().await {
        return None;
    }
    let Some(peer) = context.peers.get(&name) else {
        context.forget(&name); // The peer is gone.
        return None;
    };
    let seen: Versions = (peer.resource_version(), None);
    if let Gate::Closed(pause) = context.work.gate(&name, &seen) {
        return pause;
    }
    let end = pass(&context, &name, &peer).await;
    context.work.conclude(&name, seen, end, None).1
}

/// Does what is due, and returns when to look again.
async fn pass(context: &Context, name: &ObjectName, peer: &WatchedPeer) -> Result<Until, Error> {
    let release = if peer.is_held() {
        release(context, name, peer).await?
    } else {
        context.held.lock().remove(name);
        None
    };
    let now = context.clock.now();
    let due = match peer_plan(peer.presence(), context.lifetime, now) {
        PeerStep::Remove => {
            remove(context, name, peer).await?;
            None
        }
        PeerStep::Disconnect => {
            disconnect(context, name, peer).await?;
            None
        }
        PeerStep::WaitUntil(moment) => Some(moment),
        PeerStep::Wait => None,
    };
    let release = release.and_then(|wait| Some(now + chrono::Duration::from_std(wait).ok()?));
    Ok(release.into_iter().chain(due).min().map_or(Until::Change, Until::Moment))
}

/// Whether the entry of a peer is still pending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Entry {
    /// Its key has an entry for it.
    Pending,
    /// Its key has no entry for it any more.
    Cleared,
    /// Its key is gone, and the ledger with it.
    KeyGone,
}

impl Entry {
    fn of(peer: &WatchedPeer, key: Option<&SetupKey>) -> Self {
        let name = peer.metadata.name.as_deref().unwrap_or_default();
        match key.filter(|key| key.metadata.uid.as_deref() == Some(&peer.key().uid)) {
            None => Self::KeyGone,
            Some(key) if key.pending().iter().any(|entry| entry.name == name) => Self::Pending,
            Some(_) => Self::Cleared,
        }
    }
}

/// A replica has this many times the handover to release a Peer whose entry is cleared. After a burst of machines it has
/// thousands to release, and a controller that released them too would double the work of a busy API server. Nothing waits for
/// that: a Peer that is being deleted is released at once.
const TIMES_TO_RELEASE: u32 = 6;

/// How long to leave the finalizer on a peer that this process has seen held for so long. `None`: no longer.
///
/// Normally the replica that committed the entry releases the peer, so the controller leaves it alone for a while, unless the
/// peer is being deleted. Where the key is gone even that has to wait: the replica may be about to create the peer again.
fn wait_to_release(entry: Entry, leaving: bool, held: Duration, handover: Duration) -> Option<Duration> {
    let rest = |time: Duration| Some(time.saturating_sub(held)).filter(|rest| !rest.is_zero());
    match entry {
        Entry::Pending if leaving => Some(HELD_BACK),
        Entry::Pending => Some(handover.saturating_sub(held).max(handover / 3)),
        Entry::Cleared if leaving => None,
        Entry::Cleared => rest(TIMES_TO_RELEASE * handover),
        Entry::KeyGone => rest(handover),
    }
}

/// Takes the finalizer off a peer whose entry is not pending any more. Returns how long it has to stay otherwise.
async fn release(context: &Context, name: &ObjectName, peer: &WatchedPeer) -> Result<Option<Duration>, Error> {
    let held = context.held_for(peer);
    let wait = |key| wait_to_release(Entry::of(peer, key), peer.is_leaving(), held, context.handover);
    let namespace = &name.namespace;
    let cached = context.keys.get(&ObjectName::new(namespace, &peer.key().name));
    if let Some(wait) = wait(cached.as_ref().and_then(|key| key.0.as_ref().ok())) {
        return Ok(Some(wait));
    }
    // The cache may be behind and not show the entry yet.
    let keys: Api<SetupKey> = Api::namespaced(context.client.clone(), namespace);
    let attempt = Attempt::on("read SetupKey", namespace, &peer.key().name);
    let key = call(attempt, keys.get_opt(&peer.key().name)).await?;
    if let Some(wait) = wait(key.as_ref()) {
        return Ok(Some(wait));
    }
    let finalizers: Vec<_> = peer.finalizers().iter().filter(|finalizer| *finalizer != PENDING_FINALIZER).collect();
    let patch = json!({ "metadata": {
        "uid": peer.metadata.uid, "resourceVersion": peer.metadata.resource_version, "finalizers": finalizers,
    }});
    let attempt = Attempt::on("release Peer", namespace, &name.name);
    call(attempt, context.api(peer).patch_metadata(&name.name, &patch_params(), &Patch::Merge(&patch))).await?;
    tracing::debug!(namespace, peer = name.name, "released the Peer: its entry is not pending any more");
    Ok(None)
}

/// Deletes a peer, unless it was seen since.
async fn remove(context: &Context, name: &ObjectName, peer: &WatchedPeer) -> Result<(), Error> {
    let unchanged = Preconditions { uid: peer.uid(), resource_version: peer.resource_version() };
    let parameters = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
    let ObjectName { namespace, name } = name;
    call(Attempt::on("delete Peer", namespace, name), context.api(peer).delete(name, &parameters)).await?;
    context.metrics.peer_removed();
    tracing::info!(namespace, peer = name, "removed an ephemeral peer that was not seen for its lifetime");
    Ok(())
}

/// Writes that a peer is not connected, unless it was seen since.
async fn disconnect(context: &Context, name: &ObjectName, peer: &WatchedPeer) -> Result<(), Error> {
    let patch = json!({
        "metadata": { "resourceVersion": peer.metadata.resource_version, "uid": peer.metadata.uid },
        "status": { "connected": false },
    });
    let ObjectName { namespace, name } = name;
    let attempt = Attempt::on("write the status of Peer", namespace, name);
    call(attempt, context.api(peer).patch_status(name, &patch_params(), &Patch::Merge(&patch))).await?;
    tracing::info!(namespace, peer = name, "the peer was not seen for its lifetime and is not connected any more");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_released_once_its_replica_has_had_its_time_and_sooner_if_it_is_being_deleted() {
        let seconds = Duration::from_secs;
        let handover = seconds(15);
        for (entry, leaving, held, wait) in [
            (Entry::Pending, true, 11, Some(HELD_BACK)),
            (Entry::Pending, true, 15, Some(HELD_BACK)),
            (Entry::Pending, false, 0, Some(handover)),
            (Entry::Pending, false, 15, Some(handover / 3)),
            (Entry::Cleared, true, 11, None),
            (Entry::Cleared, false, 15, Some(seconds(75))),
            (Entry::Cleared, false, 90, None),
            (Entry::KeyGone, true, 11, Some(seconds(4))),
            (Entry::KeyGone, true, 15, None),
            (Entry::KeyGone, false, 11, Some(seconds(4))),
            (Entry::KeyGone, false, 15, None),
        ] {
            assert_eq!(wait_to_release(entry, leaving, seconds(held), handover), wait, "{entry:?} {leaving} {held}");
        }
    }
}
