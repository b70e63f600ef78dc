//! What every test starts from: a namespace of its own on the real control plane, and the controller running in it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use setupkey_operator::{
    api::{Peer, SetupKey, SetupKeyStatus},
    cluster::{Clock, Readiness, Scope, tuned},
    controller::{self, Environment, election::Leadership, metrics::Metrics},
    key::ledger,
};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{faults::Faults, requests::Requests};

/// Longer than anything that is waited for takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where manifests and examples are.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tool that the Makefile has put beside those of the control plane.
pub fn tool(name: &str) -> PathBuf {
    let built = repository().join("target/tools");
    let tool = std::env::var_os("CONTROL_PLANE_TOOLS").map_or(built, PathBuf::from).join(name);
    assert!(tool.is_file(), "there is no {}: run `make tools`", tool.display());
    tool
}

/// The folder of the CRDs as users install them.
pub fn crds() -> PathBuf {
    repository().join("crds")
}

/// The CRD of the SetupKey.
pub fn setup_key_crd() -> PathBuf {
    crds().join("setupkey.dev_setupkeys.yaml")
}

/// A namespace of its own for one test.
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
}

impl Cluster {
    /// Makes the namespace; its name tells the test.
    pub async fn for_test(test: &str) -> Self {
        control_plane();
        let client = Client::try_from(admin_config().await).expect("a client");
        let namespace = format!("{}-{:06x}", test.replace('_', "-"), rand::random::<u32>() >> 8);
        let object = Namespace {
            metadata: ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        Self { client, namespace }
    }

    /// The controller with the rights it has in production, at work in this namespace.
    pub async fn start_operator(&self) -> Operator {
        self.start_operator_with(Setup::default()).await
    }

    /// The same, with a clock that runs ahead or behind.
    pub async fn start_operator_at(&self, clock: TestClock) -> Operator {
        self.start_operator_with(Setup { clock, ..Setup::default() }).await
    }

    /// The same, with things that go wrong.
    pub async fn start_operator_among(&self, faults: Faults) -> Operator {
        self.start_operator_with(Setup { faults, ..Setup::default() }).await
    }

    pub async fn start_operator_with(&self, setup: Setup) -> Operator {
        let (requests, attempts) = (Requests::default(), Requests::default());
        let config = match setup.token {
            Some(token) => config_of(token).await,
            None => config_of(operator_token().to_owned()).await,
        };
        let clock: Arc<dyn Clock> = Arc::new(setup.clock);
        let metrics = Metrics::new(Arc::clone(&clock), setup.metrics_max_keys);
        let client = ClientBuilder::try_from(tuned(config)).expect("a client");
        let client = client.with_layer(&metrics.count_requests()).with_layer(&requests);
        let client = client.with_layer(&setup.faults).with_layer(&attempts).build();
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
        };
        let scope = Scope::Namespaces(vec![self.namespace.clone()]);
        let task = tokio::spawn(controller::run(environment, scope, shutdown.clone()));
        if setup.wait_until_ready {
            eventually("the controller to be ready", || async { readiness.is_ready().then_some(()) }).await;
        }
        Operator { requests, attempts, faults: setup.faults, metrics, shutdown, task }
    }

    pub fn keys(&self) -> Api<SetupKey> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn peers(&self) -> Api<Peer> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = kubectl();
        command.arg("--namespace").arg(&self.namespace).args(arguments);
        run(command, input)
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl_ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?} failed: {err}");
        out.into_owned()
    }

    /// Applies a `SetupKey` of this name and spec (YAML in flow style, without braces).
    pub fn apply(&self, name: &str, spec: &str) {
        self.kubectl_ok(&["apply", "-f", "-"], &manifest(name, spec));
    }

    /// The same without kubectl, where there are many.
    pub async fn apply_quickly(&self, name: &str, spec: Value) {
        let key = serde_json::json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": name }, "spec": spec,
        });
        let key = serde_json::from_value(key).expect("a SetupKey");
        self.keys().create(&PostParams::default(), &key).await.expect("a created SetupKey");
    }

    /// Changes the spec by a merge patch.
    pub async fn patch_spec(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(serde_json::json!({ "spec": spec }));
        self.keys().patch(name, &PatchParams::default(), &patch).await.expect("a patched SetupKey");
    }

    /// Changes the status by a merge patch, as an enrollment service or an intruder would.
    pub async fn patch_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        self.keys().patch_status(name, &PatchParams::default(), &patch).await.expect("a patched status");
    }

    /// Changes the Secret by a merge patch.
    pub async fn patch_secret(&self, name: &str, patch: Value) {
        self.secrets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a patched Secret");
    }

    /// Waits until the status is about the present spec and as described, and returns it.
    pub async fn status_when(&self, name: &str, what: &str, holds: impl Fn(&SetupKeyStatus) -> bool) -> SetupKeyStatus {
        let waiting_for = format!("SetupKey {name} to be {what}");
        eventually(&waiting_for, || async {
            let key = self.keys().get(name).await.ok()?;
            let status = key.status?;
            (status.observed_generation == key.metadata.generation && holds(&status)).then_some(status)
        })
        .await
    }

    /// Waits until the key is issued and nothing is left to do.
    pub async fn ready(&self, name: &str) -> SetupKeyStatus {
        self.status_when(name, "ready", |status| condition(status, "Ready").is_some_and(|ready| ready.status == "True"))
            .await
    }

    /// The key in the Secret.
    pub async fn value(&self, secret: &str, key: &str) -> String {
        let secret = self.secrets().get(secret).await.expect("the Secret");
        let data = secret.data.and_then(|mut data| data.remove(key)).expect("the data key");
        String::from_utf8(data.0).expect("text")
    }

    /// Waits until there is an event of this reason about the key.
    pub async fn event(&self, name: &str, reason: &str) {
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("the event {reason} of {name}"), || async {
            let events = events.list(&Default::default()).await.ok()?;
            let of_key = |event: &k8s_openapi::api::events::v1::Event| {
                event.reason.as_deref() == Some(reason)
                    && event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name))
            };
            events.items.iter().any(of_key).then_some(())
        })
        .await;
    }

    pub async fn delete_secret(&self, name: &str) {
        self.secrets().delete(name, &DeleteParams::default()).await.expect("the Secret to be deleted");
    }

    pub async fn secret_version(&self, name: &str) -> String {
        self.secrets().get(name).await.expect("the Secret").resource_version().expect("a version")
    }
}

/// What a controller is started with.
pub struct Setup {
    pub clock: TestClock,
    pub faults: Faults,
    /// Another identity than the operator's own.
    pub token: Option<String>,
    pub wait_until_ready: bool,
    pub metrics_max_keys: usize,
    pub peer_lifetime: Duration,
    pub handover: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            clock: TestClock::default(),
            faults: Faults::default(),
            token: None,
            wait_until_ready: true,
            metrics_max_keys: 100,
            peer_lifetime: Duration::from_secs(600),
            handover: ledger::ORPHAN_AGE,
        }
    }
}

/// A controller at work.
pub struct Operator {
    /// What reached the API server.
    pub requests: Requests,
    /// What it tried to send.
    pub attempts: Requests,
    pub faults: Faults,
    pub metrics: Metrics,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    /// Ends it where it stands, as a crash would.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Shuts it down and waits until it has ended.
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .expect("the controller ends within 10 s")
            .expect("the controller does not panic");
    }
}

/// The wall clock, moved.
#[derive(Clone, Default)]
pub struct TestClock {
    ahead_milliseconds: Arc<AtomicI64>,
}

impl TestClock {
    /// Moves the clock while it runs.
    pub fn step(&self, by: chrono::Duration) {
        self.ahead_milliseconds.fetch_add(by.num_milliseconds(), Ordering::Relaxed);
    }

    /// A clock that reads `moment` now.
    pub fn reading(moment: DateTime<Utc>) -> Self {
        let ahead = (moment - Utc::now()).num_milliseconds();
        Self { ahead_milliseconds: Arc::new(AtomicI64::new(ahead)) }
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::milliseconds(self.ahead_milliseconds.load(Ordering::Relaxed))
    }
}

pub fn manifest(name: &str, spec: &str) -> String {
    format!("{{apiVersion: setupkey.dev/v1alpha1, kind: SetupKey, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

/// The digest by which a key is recognised.
pub fn digest(value: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(value))
}

pub fn condition<'a>(status: &'a SetupKeyStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Status and reason of a condition; empty when there is none.
pub fn says(status: &SetupKeyStatus, type_: &str) -> String {
    condition(status, type_).map(|condition| format!("{} {}", condition.status, condition.reason)).unwrap_or_default()
}

/// Tries until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets the controller do what it would do, if it were to do something.
pub async fn let_it_settle() {
    tokio::time::sleep(Duration::from_millis(1500)).await;
}

/// The control plane of this test run, with the CRDs and the operator's ServiceAccount.
fn control_plane() -> &'static control_plane::Access {
    static SHARED: OnceLock<control_plane::Access> = OnceLock::new();
    SHARED.get_or_init(|| {
        let options = control_plane::Options { crds: vec![crds()], ..Default::default() };
        let access = control_plane::shared(options).unwrap_or_else(|error| panic!("{error}"));
        let mut apply = Command::new(access.kubectl());
        apply.arg("--kubeconfig").arg(access.kubeconfig()).args(["apply", "--server-side", "-f"]);
        apply.arg(crds()).arg("-f").arg(repository().join("deploy/rbac.yaml"));
        let applied = run_to_end(apply.arg("-f").arg(repository().join("deploy/enrollment-rbac.yaml")));
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        access
    })
}

/// The folder with the files of the control plane.
pub fn control_plane_folder() -> &'static Path {
    control_plane().dir()
}

/// The kubeconfig of the administrator.
pub fn admin_kubeconfig() -> &'static Path {
    control_plane().kubeconfig()
}

/// kubectl as the administrator.
pub fn kubectl() -> Command {
    let access = control_plane();
    let mut command = Command::new(access.kubectl());
    command.arg("--kubeconfig").arg(access.kubeconfig());
    command
}

pub async fn admin_config() -> Config {
    let kubeconfig = Kubeconfig::read_from(control_plane().kubeconfig()).expect("a kubeconfig");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a client configuration")
}

pub async fn config_of(token: String) -> Config {
    let mut config = admin_config().await;
    config.auth_info = Default::default();
    config.auth_info.token = Some(token.into());
    config
}

/// A token of the operator's ServiceAccount, which has the rights of deploy/rbac.yaml.
pub fn operator_token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| token_of("setupkey-operator"))
}

/// A token of the enrollment service's ServiceAccount, which has the rights of deploy/enrollment-rbac.yaml.
pub fn enrollment_token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| token_of("setupkey-operator-enrollment"))
}

fn token_of(account: &str) -> String {
    let mut command = kubectl();
    command.args(["--namespace", "setupkey-system", "create", "token", account, "--duration", "2h"]);
    let output = run_to_end(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a token").trim().to_owned()
}

/// A kubeconfig with the operator's own token, in this folder.
pub fn operator_kubeconfig(folder: &Path) -> PathBuf {
    kubeconfig(folder, operator_token())
}

/// A kubeconfig with this token, in this folder.
pub fn kubeconfig(folder: &Path, token: &str) -> PathBuf {
    let administrator = kubectl().args(["config", "view", "--raw", "-o", "json"]).output().unwrap();
    let mut kubeconfig: Value = serde_json::from_slice(&administrator.stdout).unwrap();
    kubeconfig["users"][0]["user"] = serde_json::json!({ "token": token });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    path
}

fn run_to_end(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("kubectl runs")
}

fn run(mut command: Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("kubectl runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}
