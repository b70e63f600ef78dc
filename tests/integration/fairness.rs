//! Two tenants, one operator: what one of them leaves in trouble, or changes all at once, costs the other nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane::{ControlPlane, Options};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use setupkey_operator::{
    cluster::{Scope, connect, tuned},
    controller,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Cluster, Setup, crds, environment, eventually, says},
    requests::Requests,
};

/// Requests that the test makes at the same time.
const AT_ONCE: usize = 20;

/// The keys of the hostile tenant.
fn keys() -> usize {
    std::env::var("FAIRNESS_KEYS").map_or(300, |keys| keys.parse().expect("FAIRNESS_KEYS is a number"))
}

/// A controller for all namespaces. The tests of the shared control plane would be in its way, so it has its own.
struct Shared {
    own: ControlPlane,
    client: Client,
    requests: Requests,
    shutdown: CancellationToken,
    operator: JoinHandle<()>,
}

impl Shared {
    async fn start() -> Self {
        let own = ControlPlane::start(Options { crds: vec![crds()], ..Options::default() }).unwrap();
        let kubeconfig = Kubeconfig::read_from(own.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let requests = Requests::default();
        let counted = connect(tuned(config.clone())).unwrap().with_layer(&requests).build();
        let environment = environment(counted);
        let readiness = Arc::clone(&environment.readiness);
        let shutdown = CancellationToken::new();
        let operator = tokio::spawn(controller::run(environment, Scope::Cluster, shutdown.clone()));
        eventually("the controller to be ready", || async { readiness.is_ready().then_some(()) }).await;
        Self { own, client: Client::try_from(config).unwrap(), requests, shutdown, operator }
    }

    async fn tenant(&self, namespace: &str) -> Cluster {
        let object = Namespace {
            metadata: ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &object).await.unwrap();
        Cluster::without_guards(self.client.clone(), namespace)
    }

    /// The requests on single objects within this time.
    async fn requests_within(&self, time: Duration) -> usize {
        self.requests.clear();
        tokio::time::sleep(time).await;
        self.requests.on_objects().len()
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.operator.await.unwrap();
        self.own.stop();
    }
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("key-{number:04}"))
}

/// A Secret that belongs to no SetupKey.
async fn take(tenant: &Cluster, name: &str) {
    let secret =
        Secret { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Secret::default() };
    tenant.secrets().create(&PostParams::default(), &secret).await.expect("a Secret");
}

async fn are_stalled(tenant: &Cluster, count: usize) {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(120) {
        let all = tenant.keys().list(&Default::default()).await.unwrap();
        let stalled = |key: &&setupkey_operator::api::SetupKey| {
            key.status.as_ref().is_some_and(|status| says(status, "Stalled") == "True SecretConflict")
        };
        if all.iter().filter(stalled).count() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the keys are not stalled after {:?}", since.elapsed());
}

/// How long a new key of this tenant takes.
async fn issue(tenant: &Cluster, name: &str) -> Duration {
    let started = Instant::now();
    tenant.apply_quickly(name, json!({})).await;
    tenant.ready(name).await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_wait_for_a_person_leave_the_api_server_and_other_tenants_alone() {
    let shared = Shared::start().await;
    let (hostile, neighbour) = (shared.tenant("hostile").await, shared.tenant("neighbour").await);
    let count = keys();
    stream::iter(names(count)).for_each_concurrent(AT_ONCE, async |name| take(&hostile, &name).await).await;
    let flood = stream::iter(names(count))
        .for_each_concurrent(AT_ONCE, async |name| hostile.apply_quickly(&name, json!({})).await);
    flood.await;
    let during = issue(&neighbour, "during").await;
    are_stalled(&hostile, count).await;

    let window = Duration::from_secs(10);
    let first = shared.requests_within(window).await;
    let after = issue(&neighbour, "after").await;
    // Each conflict is looked at once more, within the budget of 10 a second. Then it is watched.
    tokio::time::sleep(Duration::from_secs(count as u64 / 10).saturating_sub(window)).await;
    let later = shared.requests_within(window).await;
    let last = issue(&neighbour, "last").await;
    println!(
        "{count} keys in conflict: {first} requests within {window:?}, later {later}; \
         a neighbour's key was ready after {during:?}, {after:?}, {last:?}"
    );

    let repaired = Instant::now();
    hostile.delete_secret("key-0001").await;
    hostile.ready("key-0001").await;
    let repair = repaired.elapsed();
    println!("a conflict was healed {repair:?} after its Secret was deleted");
    assert!(first <= 150, "{first} requests within {window:?}");
    assert!(later <= 10, "{later} requests within {window:?}, although nothing changes");
    for took in [during, after, last] {
        assert!(took < Duration::from_secs(2), "the neighbour waited {took:?}");
    }
    assert!(repair < Duration::from_secs(2), "healed {repair:?} after the repair");
    shared.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_events_neither_drops_nor_delays_the_warning_of_another_tenant() {
    let (flood, neighbour) = (Cluster::for_test("flood").await, Cluster::for_test("warned").await);
    let neighbours = vec![neighbour.namespace.clone()];
    let operator = flood.start_operator_with(Setup { neighbours, ..Setup::default() }).await;
    neighbour.apply_quickly("office", json!({})).await;
    neighbour.ready("office").await;
    let all = stream::iter(names(600));
    all.for_each_concurrent(AT_ONCE, async |name| flood.apply_quickly(&name, json!({})).await).await;
    let last = "key-0599";
    flood.ready(last).await;

    neighbour.delete_secret("office").await;
    let changed = Instant::now();
    neighbour.event("office", "KeyRegenerated").await;
    let took = changed.elapsed();
    println!("the neighbour's event came after {took:?}");
    assert!(took < Duration::from_secs(3), "the neighbour's event came after {took:?}");
    operator.stop().await;
}
