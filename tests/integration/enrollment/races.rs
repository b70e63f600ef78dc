//! A key is revoked, expires or is deleted at the moment when machines join with it.
//!
//! The version history of the objects and the answers to the machines are the evidence.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::Utc;
use futures::{StreamExt, future::join_all, stream};
use kube::{
    ResourceExt,
    api::{DeleteParams, WatchEvent, WatchParams},
};
use serde_json::json;
use setupkey_operator::api::SetupKey;

use super::{Machine, Replica, from_environment, known_to, some_time};
use crate::harness::{Cluster, eventually};

/// How many interleavings each race runs; set INTERLEAVINGS for more. The keys of one batch race at the same time.
const INTERLEAVINGS: usize = 300;
const BATCH: usize = 20;

/// Machines that join with each key, and the time over which they start. On a busy machine, admission takes a while. So
/// the change is spread over a longer time, to hit every part of it.
const MACHINES: usize = 3;
const SPREAD: Duration = Duration::from_millis(40);
const CHANGE: Duration = Duration::from_millis(300);

/// A version of a key, and whether it is the last one.
type Version = (SetupKey, bool);

/// Every version of every key of a namespace, by name.
#[derive(Clone, Default)]
struct History(Arc<Mutex<HashMap<String, Vec<Version>>>>);

impl History {
    async fn follow(cluster: &Cluster) -> Self {
        let history = Self::default();
        let mut from = cluster.keys().list(&Default::default()).await.unwrap().metadata.resource_version.unwrap();
        let (keys, seen) = (cluster.keys(), history.clone());
        tokio::spawn(async move {
            // A watch ends now and then, and resumes from the last version.
            loop {
                let Ok(events) = keys.watch(&WatchParams::default(), &from).await else { continue };
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    let (key, last) = match event {
                        WatchEvent::Added(key) | WatchEvent::Modified(key) => (key, false),
                        WatchEvent::Deleted(key) => (key, true),
                        WatchEvent::Bookmark(_) => continue,
                        WatchEvent::Error(error) => panic!("versions are missing: {error:?}"),
                    };
                    from = key.resource_version().unwrap();
                    seen.0.lock().unwrap().entry(key.name_any()).or_default().push((key, last));
                }
            }
        });
        history
    }

    /// The versions of a key, at least up to the present one.
    async fn of(&self, cluster: &Cluster, name: &str) -> Vec<SetupKey> {
        let present = cluster.keys().get_opt(name).await.unwrap().and_then(|key| key.resource_version());
        eventually("the history to be complete", || async {
            let versions = self.0.lock().unwrap().get(name).cloned()?;
            let complete = versions.iter().any(|(key, last)| match &present {
                Some(present) => key.resource_version().as_ref() == Some(present),
                None => *last,
            });
            complete.then(|| versions.into_iter().map(|(key, _)| key).collect())
        })
        .await
    }
}

fn used(key: &SetupKey) -> i64 {
    key.status.as_ref().map_or(0, |status| status.used_times)
}

/// After the first version in which the key is closed, uses never grow. They never go down in any version.
fn assert_closed_once(versions: &[SetupKey], what: &str, closed: impl Fn(&SetupKey) -> bool) {
    assert!(versions.len() > 1, "the history has only one version: {versions:?}");
    for pair in versions.windows(2) {
        assert!(used(&pair[1]) >= used(&pair[0]), "uses were taken back: {pair:?}");
        assert!(!closed(&pair[0]) || used(&pair[1]) == used(&pair[0]), "a use was counted on a {what} key: {pair:?}");
    }
}

/// Three machines ask through three replicas, and the key changes meanwhile. Returns how many were admitted.
async fn race<F: Future<Output = ()>>(addresses: &[SocketAddr], key: &str, change: F) -> i64 {
    let machines = (0..MACHINES).map(|number| async move {
        some_time(SPREAD).await;
        let at = addresses[number % addresses.len()];
        Machine::new().insist(|| at, key).await.status
    });
    let change = async {
        some_time(CHANGE).await;
        change.await;
    };
    let (statuses, ()) = tokio::join!(join_all(machines), change);
    assert!(statuses.iter().all(|status| matches!(status, 200 | 403)), "{statuses:?}");
    i64::try_from(statuses.iter().filter(|status| **status == 200).count()).unwrap()
}

struct Arena {
    cluster: Cluster,
    replicas: Vec<Replica>,
    addresses: Vec<SocketAddr>,
    history: History,
    interleavings: usize,
}

impl Arena {
    async fn new(name: &str) -> Self {
        let cluster = Cluster::for_test(name).await;
        let replicas = Replica::three(&cluster).await;
        let addresses = replicas.iter().map(|replica| replica.address).collect();
        let history = History::follow(&cluster).await;
        Self { cluster, replicas, addresses, history, interleavings: from_environment("INTERLEAVINGS", INTERLEAVINGS) }
    }

    /// Runs all interleavings. Each returns how many machines were admitted.
    async fn run<F: Future<Output = i64>>(&self, interleaving: impl Fn(String) -> F) {
        let each = (0..self.interleavings).map(|number| interleaving(format!("key-{number}")));
        let admitted: Vec<_> = stream::iter(each).buffer_unordered(BATCH).collect().await;
        let of = |count: i64| admitted.iter().filter(|admitted| **admitted == count).count();
        println!(
            "{} interleavings; none let in: {}, some: {}, all: {}",
            admitted.len(),
            of(0),
            admitted.len() - of(0) - of(3),
            of(3)
        );
        // Otherwise the change never fell between two admissions.
        assert!(self.interleavings < 50 || (of(0) < admitted.len() && of(3) < admitted.len()));
    }

    async fn close(self) {
        join_all(self.replicas.into_iter().map(Replica::stop)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_race() {
    let arena = Arena::new("revoke-race").await;
    let cluster = &arena.cluster;
    arena
        .run(|name| {
            let arena = &arena;
            async move {
                let value = cluster.issue(&name, json!({})).await;
                known_to(&arena.replicas, &value).await;
                let change = cluster.patch_spec(&name, json!({ "revoked": true }));
                let admitted = race(&arena.addresses, &value, change).await;
                let versions = arena.history.of(cluster, &name).await;
                assert!(versions.iter().any(|key| key.spec.revoked), "{name} was never revoked");
                assert_closed_once(&versions, "revoked", |key| key.spec.revoked);
                assert_eq!((cluster.used(&name).await, admitted), (admitted, admitted), "{name}");
                assert_eq!(i64::try_from(cluster.peers_of(&name).await.len()).unwrap(), admitted, "{name}");
                admitted
            }
        })
        .await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_race() {
    let arena = Arena::new("delete-race").await;
    let cluster = &arena.cluster;
    arena
        .run(|name| {
            let arena = &arena;
            async move {
                let value = cluster.issue(&name, json!({})).await;
                // A foreign finalizer holds half of the keys, so these exist while they are being deleted.
                let held = rand::random::<bool>();
                if held {
                    let patch = json!({ "metadata": { "finalizers": ["example.com/held"] } });
                    let patch = kube::api::Patch::Merge(patch);
                    cluster.keys().patch(&name, &Default::default(), &patch).await.unwrap();
                }
                known_to(&arena.replicas, &value).await;
                let change = async {
                    cluster.keys().delete(&name, &DeleteParams::default()).await.unwrap();
                };
                let admitted = race(&arena.addresses, &value, change).await;
                let versions = arena.history.of(cluster, &name).await;
                let leaving = |key: &SetupKey| key.metadata.deletion_timestamp.is_some();
                assert!(!held || versions.iter().any(leaving), "{name} was held, but never seen while being deleted");
                assert_closed_once(&versions, "deleted", leaving);
                assert_eq!(used(versions.last().unwrap()), admitted, "{name}, held: {held}");
                assert_eq!(i64::try_from(cluster.peers_of(&name).await.len()).unwrap(), admitted, "{name}");
                admitted
            }
        })
        .await;
    arena.close().await;
}

/// No replica admits a machine after the last second, and each admitted machine is counted once.
#[tokio::test(flavor = "multi_thread")]
async fn expire_race() {
    let arena = Arena::new("expire-race").await;
    let cluster = &arena.cluster;
    arena
        .run(|name| {
            let arena = &arena;
            async move {
                let value = cluster.issue(&name, json!({})).await;
                known_to(&arena.replicas, &value).await;
                // The expiry is a whole second. The machines ask shortly before it or after it.
                let expires = Utc::now() + chrono::Duration::milliseconds(2500);
                let expires = expires.format("%Y-%m-%dT%H:%M:%SZ").to_string();
                cluster.patch_status(&name, json!({ "expires": expires })).await;
                let status = cluster.keys().get(&name).await.unwrap().status.unwrap();
                let last = status.expires.unwrap().moment();
                let start =
                    (last - Utc::now()).to_std().unwrap_or_default().saturating_sub(CHANGE.mul_f64(rand::random()));
                tokio::time::sleep(start).await;
                let machines = (0..MACHINES).map(|number| {
                    let (at, value) = (arena.addresses[number], value.as_str());
                    async move {
                        some_time(SPREAD).await;
                        let came = Utc::now();
                        let status = Machine::new().insist(|| at, value).await.status;
                        assert!(matches!(status, 200 | 403), "{status}");
                        assert!(status == 403 || came <= last, "asked {} after the end", came - last);
                        status == 200
                    }
                });
                let let_in = join_all(machines).await.into_iter().filter(|let_in| *let_in).count();
                let versions = arena.history.of(cluster, &name).await;
                let late = |key: &SetupKey| key.status.as_ref().is_some_and(|status| status.last_used > status.expires);
                assert!(!versions.iter().any(late), "{name} was used after its end");
                assert_eq!(cluster.used(&name).await, i64::try_from(let_in).unwrap(), "{name}");
                assert_eq!(cluster.peers_of(&name).await.len(), let_in, "{name}");
                i64::try_from(let_in).unwrap()
            }
        })
        .await;
    arena.close().await;
}
