//! The raw client: the least that a program must do for a key. The operator is compared with it.
//!
//! It watches the SetupKeys as the operator does, and makes the operator's two writes for each new key, 32 at a time.
//! It keeps no cache, watches no Secrets, decides nothing, records no events and retries nothing. Like the operator, it
//! is a process of its own, with a ServiceAccount that has the same rights.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, header::ACCEPT};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams},
    core::Request,
    runtime::watcher,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use setupkey_operator::api::{
    SetupKey,
    metadata::{KEY_LABEL, MANAGER},
};
use tokio::sync::mpsc;

use crate::{
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

/// What the operator wrote for one key. The raw client writes the same bytes for all keys, except names and versions.
/// So the comparison stays fair when the operator's writes change.
#[derive(Deserialize, Serialize)]
pub struct Model {
    secret: Secret,
    status: Value,
}

/// Notes what the operator has written for the first key of this namespace.
pub async fn take_model(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let key = cluster.keys(namespace).get(&key_name(0)).await.context("could not read the model key")?;
    let secrets: Api<Secret> = Api::namespaced(cluster.admin.clone(), namespace);
    let mut secret = secrets.get(&key_name(0)).await.context("could not read the model's Secret")?;
    let ObjectMeta { labels, annotations, .. } = secret.metadata;
    secret.metadata = ObjectMeta { labels, annotations, ..ObjectMeta::default() };
    let mut status = serde_json::to_value(key.status)?;
    // The API server defaults it to 0, and the operator sends only what it changes.
    status.as_object_mut().context("the model key has no status")?.remove("usedTimes");
    let model = Model { secret, status };
    fs::write(cluster.file(MODEL), serde_json::to_vec(&model)?).context("could not write the model")
}

/// The file that holds the model.
const MODEL: &str = "model.json";

impl Model {
    /// The model that was taken last on this cluster.
    pub fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        Self::read(&cluster.file(MODEL))
    }

    fn read(file: &Path) -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(file).context("could not read the model")?)?)
    }
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
    let model = Model::read(model)?;
    let kubeconfig = std::env::var_os("KUBECONFIG").context("KUBECONFIG is not set")?;
    let client = client(Path::new(&kubeconfig)).await?;

    // The watch must not wait for the writes, or the API server would end it.
    let (appeared, keys) = mpsc::unbounded_channel();
    let watching = tokio::spawn(watch(Api::namespaced(client.clone(), namespace), appeared));
    let keys = futures::stream::unfold(keys, |mut keys| async { keys.recv().await.map(|key| (Ok(key), keys)) });
    keys.try_for_each_concurrent(CONCURRENCY, |key| two_writes(&client, &model, key)).await?;
    watching.await?
}

async fn watch(keys: Api<SetupKey>, appeared: mpsc::UnboundedSender<SetupKey>) -> anyhow::Result<()> {
    let mut events = watcher(keys, watcher::Config::default()).boxed();
    while let Some(event) = events.try_next().await.context("the watch failed")? {
        match event {
            watcher::Event::InitDone => println!("{WATCHES}"),
            // The event of our own status write has an id.
            watcher::Event::Apply(key) if key.status.as_ref().is_none_or(|status| status.id.is_none()) => {
                appeared.send(key)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the operator's two writes for this key.
pub async fn two_writes(client: &Client, model: &Model, key: SetupKey) -> anyhow::Result<()> {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    let mut secret = model.secret.clone();
    secret.metadata.name = Some(name.clone());
    secret.metadata.owner_references = key.controller_owner_ref(&()).map(|owner| vec![owner]);
    secret.labels_mut().insert(KEY_LABEL.to_owned(), name.clone());
    // The API server stores the field manager with each object, so it must be as long as the operator's.
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let request = Request::new(Secret::url_path(&(), Some(&namespace)));
    let mut request = request.create(&parameters, serde_json::to_vec(&secret)?)?;
    request.headers_mut().insert(ACCEPT, METADATA_ONLY);
    let written: PartialObjectMeta<Secret> =
        client.request(request).await.with_context(|| format!("could not create Secret {name}"))?;

    let mut status = model.status.clone();
    status["secret"]["name"] = name.clone().into();
    status["secret"]["resourceVersion"] = written.metadata.resource_version.into();
    let patch = json!({ "metadata": { "resourceVersion": key.metadata.resource_version }, "status": status });
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let keys: Api<SetupKey> = Api::namespaced(client.clone(), &namespace);
    let patched = keys.patch_status(&name, &parameters, &Patch::Merge(&patch)).await;
    patched.with_context(|| format!("could not write the status of SetupKey {name}"))?;
    Ok(())
}
