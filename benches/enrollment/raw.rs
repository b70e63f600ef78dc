//! The raw client, which only creates Peers.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::Utc;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use setupkey_operator::{
    api::{Peer, PendingPeer, SetupKey, metadata::MANAGER},
    key::{Digest, PeerName, PublicKey},
};

/// Requests in flight.
const AT_A_TIME: usize = 64;

/// Creates `count` Peers, with these keys in turns, and returns how long that took.
///
/// They equal the service's Peers, but have no finalizer: otherwise the controller would be busy with releasing them.
pub async fn create(client: &Client, namespace: &str, keys: &[SetupKey], count: usize) -> anyhow::Result<Duration> {
    let peers: Api<Peer> = Api::namespaced(client.clone(), namespace);
    let (peers, parameters) =
        (&peers, &PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() });
    let begun = Instant::now();
    let created = stream::iter(0..count).map(Ok).try_for_each_concurrent(AT_A_TIME, |number| async move {
        let peer = peer(&keys[number % keys.len()]);
        peers.create(parameters, &peer).await.context("could not create a Peer")?;
        anyhow::Ok(())
    });
    created.await?;
    Ok(begun.elapsed())
}

fn peer(key: &SetupKey) -> Peer {
    let public_key = PublicKey::from_bytes(rand::random());
    let token = BASE64_STANDARD.encode(rand::random::<[u8; 32]>());
    let entry = PendingPeer {
        key_id: String::new(),
        number: 1,
        name: PeerName::of(&public_key).to_string(),
        public_key: public_key.to_string(),
        hostname: "machine".to_owned(),
        extra_dns_labels: Vec::new(),
        token_digest: Digest::of(&token).to_string(),
        since: Utc::now().into(),
    };
    let peer = Peer::from_entry(key, &entry);
    Peer { metadata: ObjectMeta { finalizers: None, ..peer.metadata }, ..peer }
}
