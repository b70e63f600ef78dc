//! Every request of the enrollment service to the API server, each with its time limit and its precondition.

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, Preconditions},
    core::{DeserializeGuard, Request},
};
use serde_json::{Value, json};

use super::cache::CachedPeer;
use crate::{
    api::{Peer, SetupKey, Timestamp, metadata::PENDING_FINALIZER},
    cluster::{
        Lean, ObjectName, Parts,
        call::{Attempt, Error, call_within},
        patch_params, post_params,
    },
    key::ledger::{REQUEST_TIME, Swap},
};

/// The API server.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
}

/// The result of a swap.
pub enum Swapped {
    /// It succeeded. The object is as it is now.
    Done(Box<SetupKey>),
    /// The key has changed since it was read, and nothing was written.
    Lost,
    /// The key was deleted.
    Gone,
}

/// The result of creating a Peer.
pub enum Created {
    /// It was created.
    Done(Box<Peer>),
    /// There is a Peer of that name already.
    Exists,
}

impl ApiServer {
    /// Sends requests through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads a key.
    pub async fn key(&self, ObjectName { namespace, name }: &ObjectName) -> Result<Option<SetupKey>, Error> {
        let keys: Api<SetupKey> = Api::namespaced(self.client.clone(), namespace);
        call_within(REQUEST_TIME, Attempt::on("read SetupKey", namespace, name), keys.get_opt(name)).await
    }

    /// Writes the ledger of a key, if the key has not changed since `basis` was read.
    ///
    /// The status is replaced as a whole. A merge patch costs the API server a tenth more.
    pub async fn swap(&self, basis: &SetupKey, swap: Swap) -> Result<Swapped, Error> {
        let (namespace, name) = (basis.namespace().unwrap_or_default(), basis.name_any());
        let body = serde_json::to_vec(&swap.onto(basis)).expect("a SetupKey is plain data");
        let requests = Request::new(SetupKey::url_path(&(), Some(&namespace)));
        let request = requests.replace_subresource("status", &name, &post_params(), body);
        let attempt = Attempt::on("write the ledger of SetupKey", &namespace, &name);
        match self.write(attempt, request.expect("a path and a body make a request")).await {
            Ok(key) => Ok(Swapped::Done(Box::new(key))),
            Err(error) if error.code() == Some(409) => Ok(Swapped::Lost),
            Err(error) if error.code() == Some(404) => Ok(Swapped::Gone),
            Err(error) => Err(error),
        }
    }

    /// Reads a Peer.
    pub async fn peer(&self, namespace: &str, name: &str) -> Result<Option<Peer>, Error> {
        let attempt = Attempt::on("read Peer", namespace, name);
        call_within(REQUEST_TIME, attempt, self.peers(namespace).get_opt(name)).await
    }

    /// Creates a Peer.
    pub async fn create(&self, peer: &Peer) -> Result<Created, Error> {
        let namespace = peer.namespace().unwrap_or_default();
        let attempt = Attempt::on("create Peer", &namespace, &peer.name_any());
        let body = serde_json::to_vec(peer).expect("a Peer is plain data");
        let request = Request::new(Peer::url_path(&(), Some(&namespace))).create(&post_params(), body);
        match self.write(attempt, request.expect("a path and a body make a request")).await {
            Ok(peer) => Ok(Created::Done(Box::new(peer))),
            Err(error) if error.code() == Some(409) => Ok(Created::Exists),
            Err(error) => Err(error),
        }
    }

    /// Releases a Peer: removes our finalizer, if the UID is the same and our finalizer is the first.
    pub async fn release(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Error> {
        let patch = json!([
            { "op": "test", "path": "/metadata/uid", "value": uid },
            { "op": "test", "path": "/metadata/finalizers/0", "value": PENDING_FINALIZER },
            { "op": "remove", "path": "/metadata/finalizers/0" },
        ]);
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("a JSON patch");
        let attempt = Attempt::on("release Peer", namespace, name);
        let (peers, ours, patch) = (self.peers(namespace), patch_params(), Patch::Json::<()>(patch));
        call_within(REQUEST_TIME, attempt, peers.patch_metadata(name, &ours, &patch)).await.map(drop)
    }

    /// Writes a heartbeat, if the Peer is still the same.
    pub async fn seen(&self, peer: &CachedPeer, now: Timestamp) -> Result<(), Error> {
        let patch = json!({ "metadata": { "uid": peer.uid }, "status": { "connected": true, "lastSeen": now } });
        let attempt = Attempt::on("write the status of Peer", &peer.namespace, &peer.name);
        let (peers, patch) = (self.peers(&peer.namespace), Patch::Merge::<Value>(patch));
        call_within(REQUEST_TIME, attempt, peers.patch_status(&peer.name, &patch_params(), &patch)).await.map(drop)
    }

    /// Deletes a Peer, if it is still the same.
    pub async fn delete(&self, peer: &CachedPeer) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(peer.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let attempt = Attempt::on("delete Peer", &peer.namespace, &peer.name);
        call_within(REQUEST_TIME, attempt, self.peers(&peer.namespace).delete(&peer.name, &parameters)).await.map(drop)
    }

    /// Sends a write, and returns the object as it is now.
    async fn write<K: Parts>(&self, attempt: Attempt, request: http::Request<Vec<u8>>) -> Result<K, Error> {
        let sent = self.client.request(request);
        let Lean(DeserializeGuard(written)) = call_within(REQUEST_TIME, attempt.clone(), sent).await?;
        written.map_err(|_| Error::Unreadable(attempt))
    }

    fn peers(&self, namespace: &str) -> Api<Peer> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
