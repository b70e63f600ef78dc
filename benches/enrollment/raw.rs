//! The raw client, which only creates Peers.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{Api, Client, api::PostParams};
use setupkey_operator::api::{Peer, SetupKey, metadata::MANAGER};

use crate::shared::peers;

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
        let peer = peers::any(&keys[number % keys.len()]);
        peers.create(parameters, &peer).await.context("could not create a Peer")?;
        anyhow::Ok(())
    });
    created.await?;
    Ok(begun.elapsed())
}
