//! The enrollment service on the real control plane: replicas, keys, and machines that join with them.

mod abuse;
mod admission;
mod canary;
mod contract;
mod inputs;
mod leaked_key;
pub mod machine;
mod races;
mod rotation;
mod schema;
mod shadow;
mod stampede;
mod tls;
mod watches;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, Method, Request, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use setupkey_operator::{
    cluster::{Readiness, Scope, connect, pages::LimitPages, tuned},
    enrollment::{self, Environment, Metrics, OWNER_TIME, Service},
    serve::{Certificate, Server},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    faults::Faults,
    harness::{Cluster, TestClock, config_of, enrollment_token, eventually},
    requests::Requests,
};

/// How a replica is started.
struct Setup {
    clock: TestClock,
    peer_lifetime: Duration,
    failures_per_minute: u32,
    /// Namespaces that are served besides that of the test.
    further: Vec<String>,
    /// Without the paths that the first version did not have.
    first_version: bool,
    /// `None` means plain HTTP.
    certificate: Option<Certificate>,
    faults: Faults,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            clock: TestClock::default(),
            peer_lifetime: Duration::from_secs(600),
            failures_per_minute: 0,
            further: Vec::new(),
            first_version: false,
            certificate: None,
            faults: Faults::default(),
        }
    }
}

/// A replica in this process.
pub struct Replica {
    address: SocketAddr,
    /// The requests that reached the API server.
    requests: Requests,
    metrics: Metrics,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Replica {
    pub async fn start(cluster: &Cluster) -> Self {
        Self::start_with(cluster, Setup::default()).await
    }

    async fn start_with(cluster: &Cluster, setup: Setup) -> Self {
        let replica = Self::begin(cluster, setup, "127.0.0.1:0".parse().unwrap(), enrollment_token()).await;
        replica.ready().await;
        replica
    }

    async fn start_at(cluster: &Cluster, address: SocketAddr) -> Self {
        let replica = Self::begin(cluster, Setup::default(), address, enrollment_token()).await;
        replica.ready().await;
        replica
    }

    /// A replica that cannot fill its caches, because the API server does not know its token.
    async fn start_cold(cluster: &Cluster) -> Self {
        Self::begin(cluster, Setup::default(), "127.0.0.1:0".parse().unwrap(), "nobody").await
    }

    async fn begin(cluster: &Cluster, setup: Setup, address: SocketAddr, token: &str) -> Self {
        let (requests, metrics) = (Requests::default(), Metrics::default());
        let client = connect(tuned(config_of(token.to_owned()).await)).unwrap();
        let client = client.with_layer(&metrics.count_requests()).with_layer(&requests);
        let client = client.with_layer(&setup.faults).with_layer(&LimitPages).build();
        let readiness = Arc::new(Readiness::default());
        let environment = Environment {
            client,
            clock: Arc::new(setup.clock),
            readiness: Arc::clone(&readiness),
            metrics: metrics.clone(),
            peer_lifetime: setup.peer_lifetime,
            failures_per_minute: setup.failures_per_minute,
            owner_time: OWNER_TIME,
        };
        let namespaces = std::iter::once(cluster.namespace.clone()).chain(setup.further).collect();
        let service = Service::start(environment, Scope::Namespaces(namespaces));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(listener, setup.certificate, enrollment::limits());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (shutdown, service, mut router) = (shutdown.clone(), Arc::clone(&service), service.router());
            if setup.first_version {
                router = router.layer(middleware::from_fn(without_namespaces));
            }
            async move {
                server.run(router, shutdown).await.unwrap();
                service.end().await;
            }
        });
        Self { address, requests, metrics, readiness, shutdown, task }
    }

    async fn ready(&self) {
        eventually("the replica to be ready", || async { self.readiness.is_ready().then_some(()) }).await;
    }

    async fn three(cluster: &Cluster) -> Vec<Self> {
        futures::future::join_all((0..3).map(|_| Self::start(cluster))).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("it ends").expect("it does not panic");
    }
}

/// Answers as the router of the first version did for a path that it does not know.
async fn without_namespaces(request: axum::extract::Request, next: Next) -> Response {
    if request.uri().path().starts_with("/v1/namespaces/") {
        return http::StatusCode::NOT_FOUND.into_response();
    }
    next.run(request).await
}

/// A machine that asks to join.
#[derive(Clone, Debug)]
struct Machine {
    public_key: String,
    token: String,
}

impl Machine {
    fn new() -> Self {
        let random = || BASE64_STANDARD.encode(rand::random::<[u8; 32]>());
        Self { public_key: random(), token: random() }
    }

    fn body(&self, key: &str) -> Value {
        json!({ "setupKey": key, "publicKey": self.public_key, "hostname": "machine", "token": self.token })
    }

    async fn enroll(&self, at: SocketAddr, key: &str) -> Answer {
        post(at, "/v1/enroll", self.body(key).to_string()).await.expect("an answer")
    }

    /// Asks until the answer is not 503, as a real machine does.
    async fn insist(&self, at: impl Fn() -> SocketAddr, key: &str) -> Answer {
        for _ in 0..2000 {
            match post(at(), "/v1/enroll", self.body(key).to_string()).await {
                Some(answer) if answer.status != 503 => return answer,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("no answer to {key:.5}");
    }

    async fn call(&self, at: SocketAddr, method: Method, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(format!("http://{at}{path}"));
        let request = request.header(AUTHORIZATION, format!("Bearer {}", self.token)).body(Full::default()).unwrap();
        send(request).await.expect("an answer")
    }

    async fn heartbeat(&self, at: SocketAddr, name: &str) -> Answer {
        self.call(at, Method::POST, &format!("/v1/peers/{name}/heartbeat")).await
    }

    async fn leave(&self, at: SocketAddr, name: &str) -> Answer {
        self.call(at, Method::DELETE, &format!("/v1/peers/{name}")).await
    }
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The name of the peer that the answer is about.
    fn name(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["name"].as_str().unwrap().to_owned()
    }

    /// Everything that a client sees, except the time.
    fn as_seen(&self) -> (u16, BTreeMap<String, String>, Bytes) {
        let headers = self.headers.iter().filter(|(name, _)| *name != "date");
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        (self.status, headers.collect(), self.body.clone())
    }
}

async fn post(at: SocketAddr, path: &str, body: impl Into<Bytes>) -> Option<Answer> {
    let request = Request::post(format!("http://{at}{path}")).body(Full::new(body.into())).unwrap();
    send(request).await
}

/// `None` if the connection breaks or cannot be made.
async fn send(request: Request<Full<Bytes>>) -> Option<Answer> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(Duration::from_secs(5)));
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let answer = tokio::time::timeout(Duration::from_secs(40), client.request(request)).await.ok()?.ok()?;
    let (parts, body) = answer.into_parts();
    Some(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.ok()?.to_bytes() })
}

/// Waits until these replicas know the key. This admits no machine.
async fn known_to(replicas: &[Replica], value: &str) {
    for replica in replicas {
        eventually("the replica to know the key", || async { (probe(replica, value).await? == 422).then_some(()) })
            .await;
    }
}

/// The status of the answer to a machine that presents this key and is not admitted.
async fn probe(replica: &Replica, value: &str) -> Option<u16> {
    let mut body = Machine::new().body(value);
    // Only a request with a valid key gets the answer that the key allows no labels.
    body["extraDnsLabels"] = json!(["probe"]);
    Some(post(replica.address, "/v1/enroll", body.to_string()).await?.status)
}

/// A number from the environment, for longer runs than in `make test`.
fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// A random pause. It waits for nothing: it spreads the next steps over time.
async fn some_time(most: Duration) {
    tokio::time::sleep(most.mul_f64(rand::random())).await;
}
