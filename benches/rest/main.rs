//! `make bench-rest`: the cost of listing a thousand keys in one call of NetBird's API, next to the alternatives.
//!
//! The service runs as in production: a release build in a process of its own. All three clients ask the same API
//! server with the same token, in turns. So other load on the machine affects each of them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use control_plane::{ControlPlane, Options, tie_to_this_thread};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use setupkey_operator::{
    api::SetupKey,
    cluster::{Readiness, Scope, SystemClock, connect, tuned},
    controller::{self, AuthoritySettings, Environment, election::Leadership, metrics::Metrics},
    key::ledger,
};
use tokio_util::sync::CancellationToken;

const KEYS: usize = 1000;
const ROUNDS: usize = 21;
/// The status of each issued key has one.
const DIGEST: &str = "\"digest\":";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crds = vec![repository.join("crds")];
    let control_plane = ControlPlane::start(Options { crds, ..Options::default() })?;
    let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig())?;
    let token = kubeconfig.auth_infos[0].auth_info.as_ref().and_then(|user| user.token.clone());
    let token = secrecy::ExposeSecret::expose_secret(&token.context("the kubeconfig has no token")?).to_owned();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = connect(tuned(config))?.build();
    eprintln!("issuing {KEYS} keys");
    issue(&client).await?;

    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut service = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
    let mut service = tie_to_this_thread(&mut service)
        .args(["api", "--namespace", "default", "--health-address", "127.0.0.1:0"])
        .args(["--address", &format!("127.0.0.1:{port}")])
        .env("KUBECONFIG", control_plane.kubeconfig())
        .stderr(Stdio::null())
        .spawn()?;
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(20), "the service does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let (mut rest, mut direct, mut kubectl) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rest.push(timed(|| list_over_rest(port, &token))?);
        let begun = Instant::now();
        let path = "/apis/setupkey.dev/v1alpha1/namespaces/default/setupkeys";
        let answer = client.request_text(http::Request::get(path).body(Vec::new())?).await?;
        direct.push((begun.elapsed(), answer.len()));
        ensure!(answer.matches(DIGEST).count() == KEYS, "the API server did not list all keys");
        kubectl.push(timed(|| list_with_kubectl(&control_plane))?);
    }
    service.kill()?;
    service.wait()?;

    println!("| {KEYS} keys listed by | median | fastest | slowest | answer |\n|---|---|---|---|---|");
    row("GET /api/setup-keys", rest);
    row("the API server, asked directly", direct);
    row("kubectl get setupkeys -o json", kubectl);
    Ok(())
}

/// Creates the keys and lets a controller issue them.
async fn issue(client: &Client) -> anyhow::Result<()> {
    let keys: Api<SetupKey> = Api::namespaced(client.clone(), "default");
    let key = |number: usize| {
        json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": format!("key-{number}") },
            "spec": { "usageLimit": 50, "autoGroups": ["office", "printers"] },
        })
    };
    let created = stream::iter(0..KEYS).map(|number| {
        let keys = keys.clone();
        async move { anyhow::Ok(keys.create(&PostParams::default(), &serde_json::from_value(key(number))?).await?) }
    });
    created.buffer_unordered(32).try_for_each(|_| async { Ok(()) }).await?;
    let shutdown = CancellationToken::new();
    let environment = Environment {
        client: client.clone(),
        clock: Arc::new(SystemClock),
        leadership: Leadership::alone(),
        readiness: Arc::new(Readiness::default()),
        metrics: Metrics::new(Arc::new(SystemClock), KEYS),
        peer_lifetime: Duration::from_secs(600),
        handover: ledger::HANDOVER,
        authorities: AuthoritySettings::default(),
    };
    let controller = tokio::spawn(controller::run(environment, Scope::Cluster, shutdown.clone()));
    let begun = Instant::now();
    loop {
        let issued = keys.list(&Default::default()).await?;
        let issued = issued.iter().filter(|key| key.status.as_ref().is_some_and(|status| status.digest.is_some()));
        if issued.count() == KEYS {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "the keys were not issued within two minutes");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    shutdown.cancel();
    Ok(controller.await?)
}

fn timed(list: impl FnOnce() -> anyhow::Result<usize>) -> anyhow::Result<(Duration, usize)> {
    let begun = Instant::now();
    let bytes = list()?;
    Ok((begun.elapsed(), bytes))
}

/// Opens a new connection each time, as curl does.
fn list_over_rest(port: u16, token: &str) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "GET /api/setup-keys HTTP/1.1\r\nHost: bench\r\nAuthorization: Token {token}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.matches("\"id\"").count() == KEYS, "not all keys were listed");
    Ok(answer.len())
}

fn list_with_kubectl(control_plane: &ControlPlane) -> anyhow::Result<usize> {
    let mut kubectl = Command::new(control_plane.kubectl());
    let kubectl = kubectl.arg("--kubeconfig").arg(control_plane.kubeconfig());
    let output = kubectl.args(["get", "setupkeys", "-o", "json"]).output()?;
    ensure!(output.status.success(), "kubectl failed: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(String::from_utf8_lossy(&output.stdout).matches(DIGEST).count() == KEYS, "kubectl did not list all keys");
    Ok(output.stdout.len())
}

fn row(what: &str, mut measured: Vec<(Duration, usize)>) {
    measured.sort();
    let at = |place: usize| measured[place].0.as_millis();
    let bytes = measured[0].1 / 1024;
    println!("| {what} | {} ms | {} ms | {} ms | {bytes} KiB |", at(ROUNDS / 2), at(0), at(ROUNDS - 1));
}
