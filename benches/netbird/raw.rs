//! The raw client: the least that a program must do for a key at NetBird. The operator is compared with it.
//!
//! It watches the SetupKeys as the operator does. For each new key it puts the finalizer on, creates the key at NetBird, creates
//! the Secret and writes the status, 32 keys at a time. It keeps no cache, watches no Secrets, lists nothing at NetBird, decides
//! nothing, records no events and retries nothing. Like the operator, it is a process of its own, with a ServiceAccount that
//! has the same rights.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use control_plane::netbird::{HttpClient, http_client};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, header::ACCEPT};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams},
    core::Request,
    runtime::watcher,
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use setupkey_operator::{
    api::{
        SetupKey,
        metadata::{AUTHORITY_FINALIZER, ID_ANNOTATION, KEY_LABEL, MANAGER},
    },
    key::{Digest, remote::marked_name},
};
use tokio::sync::mpsc;

use crate::{
    Bench,
    cluster::{Cluster, client, key_name},
    process::Process,
};

/// The argument by which this program is started as the raw client.
pub const COMMAND: &str = "raw-client";
/// The number of keys that the operator works on at the same time.
const CONCURRENCY: usize = 32;
/// For its writes, the operator also asks for metadata only.
const METADATA_ONLY: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
/// Logged once the watch runs.
const WATCHES: &str = "the raw client watches";
/// The file that holds the model.
const MODEL: &str = "model.json";

/// What the operator wrote for one key, and how NetBird is reached. The raw client writes the same for all keys, but for names,
/// versions and what NetBird answers. So the comparison stays fair when the operator's writes change.
#[derive(Deserialize, Serialize)]
struct Model {
    secret: Secret,
    status: Value,
    url: String,
    token: String,
    groups: Vec<String>,
}

/// What NetBird answers to a creation, as far as it matters.
#[derive(Deserialize)]
struct Created {
    id: String,
    key: String,
}

/// Notes what the operator has written for the first key of this namespace.
pub async fn take_model(bench: &Bench, namespace: &str) -> anyhow::Result<()> {
    let Bench { cluster, account, .. } = bench;
    let key = cluster.keys(namespace).get(&key_name(0)).await.context("could not read the model key")?;
    let secrets: Api<Secret> = Api::namespaced(cluster.admin.clone(), namespace);
    let mut secret = secrets.get(&key_name(0)).await.context("could not read the model's Secret")?;
    let ObjectMeta { labels, annotations, .. } = secret.metadata;
    secret.metadata = ObjectMeta { labels, annotations, ..ObjectMeta::default() };
    let mut status = serde_json::to_value(key.status)?;
    // The API server defaults it to 0, and the operator sends only what it changes.
    status.as_object_mut().context("the model key has no status")?.remove("usedTimes");
    let token = account.token.expose_secret().to_owned();
    let model = Model { secret, status, url: account.url(), token, groups: account.groups.clone() };
    fs::write(cluster.file(MODEL), serde_json::to_vec(&model)?).context("could not write the model")
}

/// Starts the raw client and waits until it works.
pub async fn start(cluster: &Cluster, namespace: &str) -> anyhow::Result<Process> {
    let program = std::env::current_exe().context("could not find out which program this is")?;
    let mut command = Command::new(program);
    command.args([COMMAND, namespace]).arg(cluster.file(MODEL));
    let log = cluster.file(&format!("raw-client-{namespace}.log"));
    let mut process = Process::start("the raw client", &mut command, &cluster.raw_client.kubeconfig, log)?;
    process.until("watch", |process| process.has_logged(WATCHES)).await?;
    Ok(process)
}

/// Runs as the raw client, until it is killed.
pub async fn run(namespace: &str, model: &Path) -> anyhow::Result<()> {
    let model: Model = serde_json::from_slice(&fs::read(model).context("could not read the model")?)?;
    let kubeconfig = std::env::var_os("KUBECONFIG").context("KUBECONFIG is not set")?;
    let raw = Raw { kubernetes: client(Path::new(&kubeconfig)).await?, netbird: http_client(""), model };

    // The watch must not wait for the writes, or the API server would end it.
    let (appeared, keys) = mpsc::unbounded_channel();
    let watching = tokio::spawn(watch(Api::namespaced(raw.kubernetes.clone(), namespace), appeared));
    let keys = futures::stream::unfold(keys, |mut keys| async { keys.recv().await.map(|key| (Ok(key), keys)) });
    keys.try_for_each_concurrent(CONCURRENCY, |key| raw.issue(key)).await?;
    watching.await?
}

async fn watch(keys: Api<SetupKey>, appeared: mpsc::UnboundedSender<SetupKey>) -> anyhow::Result<()> {
    let mut events = watcher(keys, watcher::Config::default()).boxed();
    while let Some(event) = events.try_next().await.context("the watch failed")? {
        match event {
            watcher::Event::InitDone => println!("{WATCHES}"),
            // The events of our own writes have a finalizer.
            watcher::Event::Apply(key) if key.metadata.finalizers.is_none() => appeared.send(key)?,
            _ => {}
        }
    }
    Ok(())
}

struct Raw {
    kubernetes: Client,
    netbird: HttpClient,
    model: Model,
}

impl Raw {
    async fn issue(&self, key: SetupKey) -> anyhow::Result<()> {
        let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
        let keys: Api<SetupKey> = Api::namespaced(self.kubernetes.clone(), &namespace);
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let version = &key.metadata.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": [AUTHORITY_FINALIZER] } });
        let held = keys.patch(&name, &parameters, &Patch::Merge(&patch)).await;
        let held = held.with_context(|| format!("could not put the finalizer on SetupKey {name}"))?;

        let created = self.create_at_netbird(&key).await?;
        let secret_version = self.create_secret(&key, &created).await?;

        let mut status = self.model.status.clone();
        for (field, value) in [
            ("id", created.id),
            ("key", format!("{}****", &created.key[..5])),
            ("digest", Digest::of(&created.key).to_string()),
        ] {
            status[field] = value.into();
        }
        status["secret"]["name"] = name.clone().into();
        status["secret"]["resourceVersion"] = secret_version.into();
        let patch = json!({ "metadata": { "resourceVersion": held.metadata.resource_version }, "status": status });
        let patched = keys.patch_status(&name, &parameters, &Patch::Merge(&patch)).await;
        patched.with_context(|| format!("could not write the status of SetupKey {name}"))?;
        Ok(())
    }

    async fn create_at_netbird(&self, key: &SetupKey) -> anyhow::Result<Created> {
        let body = json!({
            "name": marked_name(key, 1), "type": "reusable", "expires_in": key.spec.expires_in.as_secs(),
            "auto_groups": self.model.groups, "usage_limit": key.spec.usage_limit, "ephemeral": false,
            "allow_extra_dns_labels": false,
        });
        let request = http::Request::post(format!("{}/api/setup-keys", self.model.url))
            .header("Authorization", format!("Token {}", self.model.token))
            .header("Content-Type", "application/json")
            .body(Full::from(body.to_string()))?;
        let (head, body) = self.netbird.request(request).await.context("NetBird did not answer")?.into_parts();
        ensure!(head.status.is_success(), "NetBird answered {}", head.status);
        Ok(serde_json::from_slice(&body.collect().await?.to_bytes())?)
    }

    /// Returns the version that was written.
    async fn create_secret(&self, key: &SetupKey, created: &Created) -> anyhow::Result<Option<String>> {
        let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
        let mut secret = self.model.secret.clone();
        secret.metadata.name = Some(name.clone());
        secret.metadata.owner_references = key.controller_owner_ref(&()).map(|owner| vec![owner]);
        secret.labels_mut().insert(KEY_LABEL.to_owned(), name.clone());
        secret.annotations_mut().insert(ID_ANNOTATION.to_owned(), created.id.clone());
        secret.data = Some([(key.secret_key().to_owned(), ByteString(created.key.clone().into_bytes()))].into());
        // The API server stores the field manager with each object, so it must be as long as the operator's.
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let request = Request::new(Secret::url_path(&(), Some(&namespace)));
        let mut request = request.create(&parameters, serde_json::to_vec(&secret)?)?;
        request.headers_mut().insert(ACCEPT, METADATA_ONLY);
        let written: PartialObjectMeta<Secret> =
            self.kubernetes.request(request).await.with_context(|| format!("could not create Secret {name}"))?;
        Ok(written.metadata.resource_version)
    }
}
