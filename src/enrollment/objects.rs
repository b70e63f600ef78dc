//! The requests that enrollment makes, each with its time limit.

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, Preconditions},
};
use serde_json::{Value, json};

use super::peers::Known;
use crate::{
    api::{Peer, SetupKey, Timestamp, metadata::PENDING_FINALIZER},
    cluster::{
        ObjectName,
        call::{Attempt, Error, call_within},
        patch_params, post_params,
    },
    key::ledger::{REQUEST_TIME, Swap},
};

/// The API server.
#[derive(Clone)]
pub struct Objects {
    client: Client,
}

/// What became of a swap.
pub enum Swapped {
    /// It is done; the object as it is now.
    Done(Box<SetupKey>),
    /// Somebody else was faster, and nothing has happened.
    Lost,
    /// There is no such key any more.
    Gone,
}

/// What became of the creation of a Peer.
pub enum Created {
    /// It is there now.
    Done(Box<Peer>),
    /// There is one of that name.
    Exists,
}

impl Objects {
    /// Requests through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads a key afresh.
    pub async fn key(&self, ObjectName { namespace, name }: &ObjectName) -> Result<Option<SetupKey>, Error> {
        let keys: Api<SetupKey> = Api::namespaced(self.client.clone(), namespace);
        call_within(REQUEST_TIME, Attempt::on("read SetupKey", namespace, name), keys.get_opt(name)).await
    }

    /// Writes the ledger of a key, if the key is still what it was when `basis` was read.
    ///
    /// The status is replaced as a whole, which costs the API server half of what a patch does.
    pub async fn swap(&self, basis: &SetupKey, swap: Swap) -> Result<Swapped, Error> {
        let (namespace, name) = (basis.namespace().unwrap_or_default(), basis.name_any());
        let keys: Api<SetupKey> = Api::namespaced(self.client.clone(), &namespace);
        let attempt = Attempt::on("write the ledger of SetupKey", &namespace, &name);
        match call_within(REQUEST_TIME, attempt, keys.replace_status(&name, &post_params(), &swap.onto(basis))).await {
            Ok(key) => Ok(Swapped::Done(Box::new(key))),
            Err(error) if error.code() == Some(409) => Ok(Swapped::Lost),
            Err(error) if error.code() == Some(404) => Ok(Swapped::Gone),
            Err(error) => Err(error),
        }
    }

    /// Reads a Peer afresh.
    pub async fn peer(&self, namespace: &str, name: &str) -> Result<Option<Peer>, Error> {
        let attempt = Attempt::on("read Peer", namespace, name);
        call_within(REQUEST_TIME, attempt, self.peers(namespace).get_opt(name)).await
    }

    /// Creates a Peer.
    pub async fn create(&self, peer: &Peer) -> Result<Created, Error> {
        let namespace = peer.namespace().unwrap_or_default();
        let attempt = Attempt::on("create Peer", &namespace, &peer.name_any());
        match call_within(REQUEST_TIME, attempt, self.peers(&namespace).create(&post_params(), peer)).await {
            Ok(peer) => Ok(Created::Done(Box::new(peer))),
            Err(error) if error.code() == Some(409) => Ok(Created::Exists),
            Err(error) => Err(error),
        }
    }

    /// Takes our finalizer off a Peer, if it is the first one of this very object.
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

    /// Writes that a peer was seen.
    pub async fn seen(&self, peer: &Known, now: Timestamp) -> Result<(), Error> {
        let patch = json!({ "metadata": { "uid": peer.uid }, "status": { "connected": true, "lastSeen": now } });
        let attempt = Attempt::on("write the status of Peer", &peer.namespace, &peer.name);
        let (peers, patch) = (self.peers(&peer.namespace), Patch::Merge::<Value>(patch));
        call_within(REQUEST_TIME, attempt, peers.patch_status(&peer.name, &patch_params(), &patch)).await.map(drop)
    }

    /// Deletes a Peer, if it is still the same.
    pub async fn delete(&self, peer: &Known) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(peer.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let attempt = Attempt::on("delete Peer", &peer.namespace, &peer.name);
        call_within(REQUEST_TIME, attempt, self.peers(&peer.namespace).delete(&peer.name, &parameters)).await.map(drop)
    }

    fn peers(&self, namespace: &str) -> Api<Peer> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
