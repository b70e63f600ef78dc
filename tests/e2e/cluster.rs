//! The cluster that the stories run on, and access to it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use setupkey_operator::api::{Peer, SetupKey};
use tokio::sync::OnceCell;

use crate::{authority::Authority, netbird::NetBird, release::Release};

/// Longer than any wait takes: a kubelet may retry a mount only after two minutes.
const PATIENCE: Duration = Duration::from_secs(180);

const CRDS: [&str; 4] =
    ["setupkeys.setupkey.dev", "peers.setupkey.dev", "authorities.setupkey.dev", "clusterauthorities.setupkey.dev"];

/// The folder that has the chart, the examples and the tools.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A user that the guards of our release exempt.
pub const UNGUARDED: &str = "unguarded";

pub struct Cluster {
    pub client: Client,
    /// The same rights, and no guards.
    pub unguarded: Client,
    /// The issuer of the certificates of the enrollment service and of NetBird.
    pub authority: Authority,
    netbird: OnceCell<NetBird>,
    kubeconfig: PathBuf,
    /// The folder of our own node's programs. `None` on another cluster.
    node: Option<PathBuf>,
    /// The suffix of all our namespaces' names.
    suffix: String,
    namespaces: Mutex<Vec<String>>,
}

impl Cluster {
    /// Refuses a cluster that has SetupKeys: the operator works in all namespaces, so it would change them.
    pub async fn connect() -> Self {
        let theirs = variable("E2E_KUBECONFIG");
        let (kubeconfig, node) = match theirs {
            Some(path) => (path, None),
            None => (
                variable("KUBECONFIG").expect("run `make e2e`, or set E2E_KUBECONFIG"),
                Some(variable("CONTROL_PLANE_DIR").expect("a node of ours: run `make e2e`, or set E2E_KUBECONFIG")),
            ),
        };
        let config = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a cluster");
        let mut unguarded = config.clone();
        unguarded.auth_info.impersonate = Some(UNGUARDED.to_owned());
        unguarded.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
        let unguarded = Client::try_from(unguarded).expect("a client");
        let client = Client::try_from(config).expect("a client");
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in CRDS {
            let present = crds.get_opt(crd).await.expect("an answer of the API server");
            assert!(present.is_none(), "this cluster has the CRD {crd} already; use one that has not");
        }
        let suffix = format!("{:06x}", rand::random::<u32>() >> 8);
        Self {
            client,
            unguarded,
            authority: Authority::new(),
            netbird: OnceCell::new(),
            kubeconfig: kubeconfig.into(),
            node: node.map(PathBuf::from),
            suffix,
            namespaces: Mutex::default(),
        }
    }

    pub fn is_ours(&self) -> bool {
        self.node.is_some()
    }

    /// The folder of the launcher, with the logs and the audit log.
    pub fn node_folder(&self) -> &Path {
        self.node.as_deref().expect("a story that needs hands on the node")
    }

    /// The image of the pods that use keys. It has a shell.
    pub fn shell_image(&self) -> String {
        let ours = if self.is_ours() { "localhost/setupkey-node:shell" } else { "busybox:1.37" };
        variable("E2E_SHELL_IMAGE").unwrap_or_else(|| ours.to_owned())
    }

    /// The operator's image. Machines that enroll run it, too.
    pub fn operator_image(&self) -> String {
        variable("E2E_IMAGE").unwrap_or_else(|| concat!("setupkey-operator:", env!("CARGO_PKG_VERSION")).to_owned())
    }

    /// The name of a namespace of ours.
    pub fn name(&self, purpose: &str) -> String {
        format!("e2e-{purpose}-{}", self.suffix)
    }

    /// A namespace for one story, with Pod Security *restricted* enforced.
    pub async fn namespace(&self, purpose: &str) -> Place<'_> {
        self.namespace_with(purpose, json!({ "pod-security.kubernetes.io/enforce": "restricted" })).await
    }

    pub async fn namespace_with(&self, purpose: &str, labels: serde_json::Value) -> Place<'_> {
        let name = self.name(purpose);
        self.namespaces().push(name.clone());
        let namespace = serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap();
        Api::<Namespace>::all(self.client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .expect("a namespace");
        Place { cluster: self, namespace: name }
    }

    fn namespaces(&self) -> MutexGuard<'_, Vec<String>> {
        self.namespaces.lock().expect("the lock is not poisoned")
    }

    /// The NetBird server that all stories share. The first story that needs it starts it.
    pub async fn netbird(&self) -> &NetBird {
        self.netbird.get_or_init(|| NetBird::start(self)).await
    }

    pub fn kubectl(&self) -> Command {
        self.tool("kubectl")
    }

    pub fn helm(&self) -> Command {
        self.tool("helm")
    }

    fn tool(&self, name: &str) -> Command {
        let built = repository().join("target/tools").join(name);
        let mut command = Command::new(if built.is_file() { built } else { name.into() });
        command.arg("--kubeconfig").arg(&self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// Every key and Secret in our namespaces with its version. Any write changes the result.
    pub async fn versions(&self) -> Vec<(String, String, String)> {
        let namespaces = self.namespaces().clone();
        let mut versions = Vec::new();
        for namespace in namespaces {
            for key in Api::<SetupKey>::namespaced(self.client.clone(), &namespace).list(&all()).await.expect("keys") {
                versions.push((namespace.clone(), format!("SetupKey {}", key.name_any()), version(&key)));
            }
            // Helm keeps its releases in Secrets, too.
            let ours = all().labels("setupkey.dev/key");
            for secret in Api::<Secret>::namespaced(self.client.clone(), &namespace).list(&ours).await.expect("Secrets")
            {
                versions.push((namespace.clone(), format!("Secret {}", secret.name_any()), version(&secret)));
            }
        }
        versions
    }

    /// The keys in the Secrets of our namespaces. Some hold the URL of an authority too.
    pub async fn key_values(&self) -> Vec<String> {
        let secrets: Api<Secret> = Api::all(self.client.clone());
        let secrets = secrets.list(&all().labels("setupkey.dev/key")).await.expect("Secrets");
        let data = secrets.items.into_iter().flat_map(|secret| secret.data.unwrap_or_default());
        let values = data.map(|(_, value)| String::from_utf8(value.0).expect("text"));
        values.filter(|value| !value.starts_with("http")).collect()
    }

    /// The Peers in our namespaces. The cluster had none before.
    pub async fn peers(&self) -> Vec<Peer> {
        Api::<Peer>::all(self.client.clone()).list(&all()).await.expect("Peers").items
    }

    /// The logs of all pods in our namespaces.
    pub fn logs(&self) -> String {
        let mut logs = String::new();
        for namespace in self.namespaces().iter() {
            let place = Place { cluster: self, namespace: namespace.clone() };
            for pod in place.kubectl(&["get", "pods", "-o", "name"], "").lines() {
                // A pod that has not started has no log.
                logs.push_str(&place.try_kubectl(&["logs", pod], "").unwrap_or_default());
            }
        }
        logs
    }

    /// For a story that failed: the objects and events of its namespaces, and the operator's log. Prints no Secret.
    pub fn tell_what_is_there(&self, story: &str) {
        eprintln!("--- what is there after {story} ---");
        for namespace in self.namespaces().iter() {
            for what in [["get", "setupkeys,peers,pods,deployments", "-o", "wide"].as_slice(), &["events"]] {
                let output = self.kubectl().args(["--namespace", namespace]).args(what).output();
                let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                eprintln!("{namespace}:\n{}", output.unwrap_or_default());
            }
        }
        let release = Release::of(self);
        let logs = ["logs", "--selector", Release::SELECTOR, "--tail=30", "--prefix"];
        let output = self.kubectl().args(["--namespace", &release.namespace]).args(logs).output();
        eprintln!("{}", output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default());
    }

    /// Removes everything of ours, unless the cluster itself is about to end.
    pub async fn leave(&self) {
        if self.is_ours() {
            return;
        }
        // Keys at an authority are held by a finalizer, which only a running operator takes off.
        for namespace in self.namespaces().iter() {
            let delete = ["--namespace", namespace, "delete", "setupkeys.setupkey.dev", "--all", "--timeout=60s"];
            let _ = self.kubectl().args(delete).output();
        }
        let release = Release::of(self);
        // The release may not exist.
        let _ = self.helm().args(["--namespace", &release.namespace, "uninstall", Release::NAME, "--wait"]).output();
        let namespaces = self.namespaces().clone();
        for namespace in &namespaces {
            let _ = Api::<Namespace>::all(self.client.clone()).delete(namespace, &DeleteParams::default()).await;
        }
        eventually("our namespaces to be gone", || async {
            let left = Api::<Namespace>::all(self.client.clone()).list(&all()).await.ok()?;
            left.iter().all(|namespace| !namespaces.contains(&namespace.name_any())).then_some(())
        })
        .await;
        // The cluster had no such CRDs before.
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for crd in CRDS {
            let _ = crds.delete(crd, &DeleteParams::default()).await;
        }
    }
}

/// A namespace of one story.
pub struct Place<'a> {
    pub cluster: &'a Cluster,
    pub namespace: String,
}

impl Place<'_> {
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// Runs kubectl in this namespace. Returns what it printed, or the error.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.cluster.kubectl();
        command.arg("--namespace").arg(&self.namespace).args(arguments);
        said(with_input(command, input))
    }

    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        self.try_kubectl(arguments, input).unwrap_or_else(|error| panic!("kubectl {arguments:?} failed: {error}"))
    }
}

pub fn said(output: Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn with_input(mut command: Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("kubectl runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}

/// An environment variable that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub fn all() -> ListParams {
    ListParams::default()
}

fn version<K: kube::Resource>(object: &K) -> String {
    object.meta().resource_version.clone().expect("a version")
}

/// Repeats the attempt until it returns something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
