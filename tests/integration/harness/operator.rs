//! The controller that runs in the namespace of a test.

use std::{sync::Arc, time::Duration};

use kube::Client;
use setupkey_operator::{
    authority::netbird::Hosts,
    cluster::{Clock, Readiness, Scope, SystemClock, connect, pages::LimitPages, tuned},
    controller::{self, AuthoritySettings, Environment, election::Leadership, metrics::Metrics},
    key::ledger,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Cluster, TestClock,
    access::{config_of, operator_token, unguarded_config},
    eventually,
};
use crate::{faults::Faults, requests::Requests};

/// How often the keys of an authority are listed.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// How a controller is started.
pub struct Setup {
    pub clock: TestClock,
    pub faults: Faults,
    /// Another user than the operator's own account, without its rights. The guards let it through.
    pub user: Option<String>,
    pub wait_until_ready: bool,
    pub metrics_max_keys: usize,
    pub peer_lifetime: Duration,
    pub handover: Duration,
    /// Namespaces besides that of the test.
    pub neighbours: Vec<String>,
    pub authorities: AuthoritySettings,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            clock: TestClock::default(),
            faults: Faults::default(),
            user: None,
            wait_until_ready: true,
            metrics_max_keys: 100,
            peer_lifetime: Duration::from_secs(600),
            handover: ledger::HANDOVER,
            neighbours: Vec::new(),
            authorities: AuthoritySettings {
                hosts: Hosts::new(Vec::new(), true),
                namespace: "setupkey-system".to_owned(),
                of_cluster: false,
                interval: Some(INTERVAL),
            },
        }
    }
}

/// A running controller.
pub struct Operator {
    /// The requests that reached the API server.
    pub requests: Requests,
    /// The requests that the controller tried to send.
    pub attempts: Requests,
    pub faults: Faults,
    pub metrics: Metrics,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    /// Ends the controller at once, as a crash would.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Shuts the controller down and waits until it has ended.
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .expect("the controller ends within 10 s")
            .expect("the controller does not panic");
    }
}

/// What a controller needs that runs as in production, alone on a control plane of its own.
pub fn environment(client: Client) -> Environment {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Environment {
        client,
        clock: Arc::clone(&clock),
        leadership: Leadership::alone(),
        readiness: Arc::new(Readiness::default()),
        metrics: Metrics::new(clock, 100),
        peer_lifetime: Duration::from_secs(600),
        handover: ledger::HANDOVER,
        authorities: AuthoritySettings::default(),
    }
}

impl Cluster {
    /// Starts a controller in this namespace, with the rights that it has in production.
    pub async fn start_operator(&self) -> Operator {
        self.start_operator_with(Setup::default()).await
    }

    /// Starts a controller with this clock, which may run ahead or behind.
    pub async fn start_operator_at(&self, clock: TestClock) -> Operator {
        self.start_operator_with(Setup { clock, ..Setup::default() }).await
    }

    /// Starts a controller with these faults.
    pub async fn start_operator_among(&self, faults: Faults) -> Operator {
        self.start_operator_with(Setup { faults, ..Setup::default() }).await
    }

    pub async fn start_operator_with(&self, setup: Setup) -> Operator {
        let (requests, attempts) = (Requests::default(), Requests::default());
        let config = match setup.user {
            Some(user) => unguarded_config(&user, &[]).await,
            None => config_of(operator_token().to_owned()).await,
        };
        let clock: Arc<dyn Clock> = Arc::new(setup.clock);
        let metrics = Metrics::new(Arc::clone(&clock), setup.metrics_max_keys);
        let client = connect(tuned(config)).expect("a client");
        let client = client.with_layer(&metrics.count_requests()).with_layer(&requests);
        let client = client.with_layer(&setup.faults).with_layer(&attempts).with_layer(&LimitPages).build();
        let readiness = Arc::new(Readiness::default());
        let shutdown = CancellationToken::new();
        let environment = Environment {
            client,
            clock,
            leadership: Leadership::alone(),
            readiness: Arc::clone(&readiness),
            metrics: metrics.clone(),
            peer_lifetime: setup.peer_lifetime,
            handover: setup.handover,
            authorities: setup.authorities,
        };
        let scope = Scope::Namespaces([vec![self.namespace.clone()], setup.neighbours].concat());
        let task = tokio::spawn(controller::run(environment, scope, shutdown.clone()));
        if setup.wait_until_ready {
            eventually("the controller to be ready", || async { readiness.is_ready().then_some(()) }).await;
        }
        Operator { requests, attempts, faults: setup.faults, metrics, shutdown, task }
    }
}
