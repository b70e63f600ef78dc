//! One pass over one peer.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, Preconditions},
    runtime::{
        controller::Action,
        reflector::{ObjectRef, Store},
    },
};
use parking_lot::{Mutex, MutexGuard};
use serde_json::json;

use crate::{
    api::{Peer, SetupKey, metadata::PENDING_FINALIZER},
    cluster::{
        Clock, ObjectName,
        call::{Attempt, Error, call},
        patch_params,
    },
    controller::{
        Environment,
        election::Leadership,
        metrics::Metrics,
        retry::Retries,
        watch::{Filled, WatchedKey, WatchedPeer, WatchedPeers},
    },
    key::{
        plan::{LONGEST_SLEEP, Until},
        presence::{PeerStep, peer_plan},
    },
};

/// How often a peer is looked at that wants to leave while its entry is pending.
const HELD_BACK: Duration = Duration::from_millis(500);

/// What passes share.
pub struct Context {
    client: Client,
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    metrics: Metrics,
    lifetime: Duration,
    orphan_age: Duration,
    peers: Store<WatchedPeer>,
    keys: Store<WatchedKey>,
    filled: Filled,
    /// Peers that are held, by UID, and since when this process has seen them so.
    held: Mutex<HashMap<ObjectName, (Option<String>, Instant)>>,
    retries: Retries,
}

impl Context {
    /// The context for the peers of one scope.
    pub fn new(environment: Environment, watched: &WatchedPeers) -> Self {
        let Environment { client, clock, leadership, metrics, peer_lifetime, orphan_age, .. } = environment;
        Self {
            client,
            clock,
            leadership,
            metrics,
            lifetime: peer_lifetime,
            orphan_age,
            peers: watched.peers.clone(),
            keys: watched.keys.clone(),
            filled: watched.filled.clone(),
            held: Mutex::default(),
            retries: Retries::default(),
        }
    }

    /// Lets go of what is remembered of a peer that is gone.
    pub fn forget(&self, namespace: Option<&str>, name: &str) {
        let peer = ObjectName::new(namespace.unwrap_or_default(), name);
        self.retries.forget(&peer);
        self.held().remove(&peer);
    }

    /// How long this process has seen the peer held.
    fn held_for(&self, name: &ObjectName, peer: &WatchedPeer) -> Duration {
        let mut held = self.held();
        let (uid, since) = held.entry(name.clone()).or_insert_with(|| (peer.uid(), Instant::now()));
        if *uid != peer.uid() {
            (*uid, *since) = (peer.uid(), Instant::now());
        }
        since.elapsed()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<ObjectName, (Option<String>, Instant)>> {
        self.held.lock()
    }

    fn api(&self, peer: &WatchedPeer) -> Api<Peer> {
        Api::namespaced(self.client.clone(), &peer.namespace().unwrap_or_default())
    }
}

/// Makes a pass. It never fails: what went wrong is logged and tried again.
pub async fn reconcile(triggered: Arc<WatchedPeer>, context: Arc<Context>) -> Result<Action, Infallible> {
    if !context.leadership.holds() {
        return Ok(Action::await_change()); // every peer is looked at once this process leads
    }
    if !context.filled.wait().await {
        return Ok(Action::await_change()); // the process is ending
    }
    let Some(peer) = context.peers.get(&ObjectRef::from_obj(&*triggered)) else {
        return Ok(Action::await_change()); // it is gone
    };
    let name = ObjectName::of(&*peer);
    let seen = (peer.resource_version(), None);
    if let Some(wait) = context.retries.hold(&name, &seen) {
        return Ok(Action::requeue(wait));
    }
    match pass(&context, &name, &peer).await {
        Ok(wait) => {
            context.retries.forget(&name);
            Ok(wait.map_or_else(Action::await_change, Action::requeue))
        }
        // It is gone already.
        Err(error) if error.code() == Some(404) => Ok(Action::await_change()),
        Err(error) => {
            let ObjectName { namespace, name: peer } = &name;
            if error.code() == Some(409) {
                // It was seen again, or is another by now.
                tracing::debug!(namespace, peer, %error, "somebody was faster; looked at again");
            } else {
                tracing::warn!(namespace, peer, %error, "tried again");
            }
            Ok(Action::requeue(context.retries.failed(name, seen, error.pause())))
        }
    }
}

/// Does what is due, and says when to look again.
async fn pass(context: &Context, name: &ObjectName, peer: &WatchedPeer) -> Result<Option<Duration>, Error> {
    let free_in = if peer.is_held() {
        free(context, name, peer).await?
    } else {
        context.held().remove(name);
        None
    };
    let now = context.clock.now();
    let gone_in = match peer_plan(peer.presence(), context.lifetime, now) {
        PeerStep::Remove => {
            remove(context, name, peer).await?;
            None
        }
        PeerStep::Disconnect => {
            disconnect(context, name, peer).await?;
            None
        }
        PeerStep::Wait(Until::Moment(moment)) => {
            Some((moment.min(now + LONGEST_SLEEP) - now).to_std().unwrap_or_default())
        }
        PeerStep::Wait(Until::Change | Until::Retry) => None,
    };
    Ok([free_in, gone_in].into_iter().flatten().min().map(|wait| wait.max(Duration::from_millis(1))))
}

/// Whether a peer is still pending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Entry {
    /// Its key has an entry for it.
    Pending,
    /// Its key has none any more: whoever cleared it has done with it.
    Cleared,
    /// Its key is gone, and with it the word of who has done what.
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

/// Takes the finalizer off a peer that is no longer pending. Says when to look again if it has to stay.
///
/// The replica that committed the entry does this itself as a rule, so a peer is left to it for a while, unless somebody
/// waits for the peer to go. Where the key is gone nobody can wait less: its replica may be about to create the peer once
/// more.
async fn free(context: &Context, name: &ObjectName, peer: &WatchedPeer) -> Result<Option<Duration>, Error> {
    let left = context.orphan_age.saturating_sub(context.held_for(name, peer));
    let wait = |entry: Entry| match entry {
        Entry::Pending if peer.is_leaving() => Some(HELD_BACK),
        Entry::Pending => Some(left.max(context.orphan_age / 3)),
        Entry::Cleared if peer.is_leaving() => None,
        Entry::Cleared | Entry::KeyGone => Some(left).filter(|left| !left.is_zero()),
    };
    let namespace = &name.namespace;
    let cached = context.keys.get(&ObjectRef::new(&peer.key().name).within(namespace));
    let cached = cached.as_ref().and_then(|key| key.0.as_ref().ok());
    if let Some(wait) = wait(Entry::of(peer, cached)) {
        return Ok(Some(wait));
    }
    // A cache that is behind may not know of the entry yet.
    let keys: Api<SetupKey> = Api::namespaced(context.client.clone(), namespace);
    let attempt = Attempt::on("read SetupKey", namespace, &peer.key().name);
    let key = call(attempt, keys.get_opt(&peer.key().name)).await?;
    if let Some(wait) = wait(Entry::of(peer, key.as_ref())) {
        return Ok(Some(wait));
    }
    let finalizers: Vec<_> = peer.finalizers().iter().filter(|finalizer| *finalizer != PENDING_FINALIZER).collect();
    let patch = json!({ "metadata": {
        "uid": peer.metadata.uid, "resourceVersion": peer.metadata.resource_version, "finalizers": finalizers,
    }});
    let attempt = Attempt::on("let go of Peer", namespace, &peer.name_any());
    call(attempt, context.api(peer).patch_metadata(&peer.name_any(), &patch_params(), &Patch::Merge(&patch))).await?;
    tracing::debug!(namespace, peer = peer.name_any(), "no longer pending");
    Ok(None)
}

/// Deletes a peer, unless it was seen since.
async fn remove(context: &Context, name: &ObjectName, peer: &WatchedPeer) -> Result<(), Error> {
    let unchanged = Preconditions { uid: peer.uid(), resource_version: peer.resource_version() };
    let parameters = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
    let ObjectName { namespace, name } = name;
    call(Attempt::on("delete Peer", namespace, name), context.api(peer).delete(name, &parameters)).await?;
    context.metrics.peer_removed();
    tracing::info!(namespace, peer = name, "an ephemeral peer was not seen for its lifetime and is removed");
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
    tracing::info!(namespace, peer = name, "a peer is not seen any more");
    Ok(())
}
