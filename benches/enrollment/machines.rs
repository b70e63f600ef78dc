//! Machines that ask to join: the load. Each has its own connection and address.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};

/// How long a machine waits after a 503. The service asks for one second.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// A connection to a replica.
struct Connection {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

impl Connection {
    fn new(number: usize, replica: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // Addresses start at 127.1.0.0.
        let number = u32::try_from(number).unwrap_or_default();
        connector.set_local_address(Some(Ipv4Addr::from_bits(0x7f01_0000 + number).into()));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, url: format!("http://{replica}/v1/enroll") }
    }

    async fn ask(&self, body: Bytes) -> anyhow::Result<StatusCode> {
        let request = Request::post(&self.url).header(CONTENT_TYPE, "application/json").body(Full::new(body))?;
        let answer = self.client.request(request).await.context("a machine has no answer")?;
        let status = answer.status();
        answer.into_body().collect().await.context("a machine has half an answer")?;
        Ok(status)
    }

    /// Joins with a new public key and token, and retries after each 503. Counts the retries in `again`.
    async fn join(&self, key: &str, again: &AtomicUsize) -> anyhow::Result<()> {
        let body = request(key);
        loop {
            match self.ask(body.clone()).await? {
                StatusCode::OK => return Ok(()),
                StatusCode::SERVICE_UNAVAILABLE => {
                    again.fetch_add(1, Ordering::Relaxed);
                    sleep(COME_AGAIN).await;
                }
                status => bail!("a machine with a good key got {status}"),
            }
        }
    }
}

/// What a new machine sends.
fn request(key: &str) -> Bytes {
    let random = || BASE64_STANDARD.encode(rand::random::<[u8; 32]>());
    let body = json!({ "setupKey": key, "publicKey": random(), "hostname": "machine", "token": random() });
    body.to_string().into()
}

/// How machines joined.
pub struct Joined {
    /// The time until the last one had its answer.
    pub time: Duration,
    /// How often one of them got a 503.
    pub again: usize,
}

/// Machines join as fast as they are admitted, `at_a_time` at once. They take turns with these keys and replicas.
pub async fn join(
    replicas: &[SocketAddr],
    keys: &[String],
    machines: usize,
    at_a_time: usize,
) -> anyhow::Result<Joined> {
    let (keys, next, again) = (Arc::new(keys.to_vec()), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..at_a_time.min(machines) {
        let connection = Connection::new(number, replicas[number % replicas.len()]);
        let (keys, next, again) = (Arc::clone(&keys), Arc::clone(&next), Arc::clone(&again));
        tasks.spawn(async move {
            loop {
                let machine = next.fetch_add(1, Ordering::Relaxed);
                if machine >= machines {
                    return anyhow::Ok(());
                }
                connection.join(&keys[machine % keys.len()], &again).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(Joined { time: begun.elapsed(), again: again.load(Ordering::Relaxed) })
}

/// Machines join at a fixed rate. Returns how long each one waited after it was due, in seconds.
pub async fn join_steadily(
    replicas: &[SocketAddr],
    keys: &[String],
    per_second: u32,
    time: Duration,
) -> anyhow::Result<Vec<f64>> {
    let connections: Vec<_> = (0..per_second as usize)
        .map(|number| Arc::new(Connection::new(number, replicas[number % replicas.len()])))
        .collect();
    let (again, begun) = (Arc::<AtomicUsize>::default(), tokio::time::Instant::now());
    let mut tasks = JoinSet::new();
    for number in 0..(time.as_secs_f64() * f64::from(per_second)) as u32 {
        let due = begun + Duration::from_secs(1) * number / per_second;
        sleep_until(due).await;
        let number = number as usize;
        let (connection, key) =
            (Arc::clone(&connections[number % connections.len()]), keys[number % keys.len()].clone());
        let again = Arc::clone(&again);
        tasks.spawn(async move {
            connection.join(&key, &again).await?;
            anyhow::Ok(due.elapsed().as_secs_f64())
        });
    }
    let waited: Vec<_> = tasks.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(waited)
}

/// Machines ask at a fixed rate with keys that admit no machine. Returns how many were refused.
pub async fn refuse(replica: SocketAddr, keys: &[String], per_second: usize, time: Duration) -> anyhow::Result<usize> {
    const CONNECTIONS: usize = 40;
    let keys = Arc::new(keys.to_vec());
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (keys, connection) = (Arc::clone(&keys), Connection::new(number, replica));
        tasks.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) * CONNECTIONS as u32 / per_second as u32);
            // A machine that is late still asks.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut refused = 0;
            while Instant::now() < end {
                ticks.tick().await;
                let status = connection.ask(request(&keys[refused % keys.len()])).await?;
                ensure!(status == StatusCode::FORBIDDEN, "a machine got {status} instead of a refusal");
                refused += 1;
            }
            anyhow::Ok(refused)
        });
    }
    let refused = tasks.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    Ok(refused.into_iter().sum())
}

/// Sends one request.
pub async fn ask_once(replica: SocketAddr, key: &str) -> anyhow::Result<StatusCode> {
    Connection::new(0, replica).ask(request(key)).await
}
