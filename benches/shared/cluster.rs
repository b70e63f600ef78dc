//! The control plane that is measured on, its accounts, and the load on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use control_plane::{ControlPlane, Options};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Secret},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use setupkey_operator::{
    api::{SetupKey, SetupKeySpec},
    cluster::{connect, tuned},
};

use super::{audit::Window, process::Usage};

/// Namespace of the operator's and the raw client's ServiceAccounts.
const SYSTEM: &str = "setupkey-system";
/// Requests in flight while keys are created, for the operator and the raw client alike.
const CREATORS: usize = 64;
/// Requests in flight for any other load.
const WRITERS: usize = 32;
/// How long the deletion of a namespace may take.
const DELETION_LIMIT: Duration = Duration::from_secs(300);

pub struct Cluster {
    /// Dropping it ends the programs.
    control_plane: ControlPlane,
    /// The administrator's client: the load and the observer.
    pub admin: Client,
    pub operator: Identity,
    /// The enrollment service.
    pub enrollment: Identity,
    pub raw_client: Identity,
    /// For example v1.37.2.
    pub version: String,
}

/// The kernel's figures for the programs below the operator.
pub struct ControlPlaneUsage {
    pub store: Usage,
    pub api_server: Usage,
}

/// A ServiceAccount with the operator's rights.
pub struct Identity {
    pub kubeconfig: PathBuf,
    /// The name in the audit log.
    pub user: String,
}

impl Cluster {
    /// A control plane with the CRDs and the rights of the operator and its services. A second ServiceAccount has the
    /// operator's rights. With it, the raw client passes through the same authentication and authorization, but is
    /// counted separately.
    pub async fn start() -> anyhow::Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let control_plane = ControlPlane::start(Options {
            audit_log: true,
            crds: vec![repository.join("crds")],
            // One worker, the default, would need minutes to empty a namespace of ten thousand keys.
            api_server_args: vec!["--delete-collection-workers=16".to_owned()],
            ..Options::default()
        })?;
        let kubectl = |arguments: &[&str]| kubectl(&control_plane, arguments);
        for rights in ["deploy/rbac.yaml", "deploy/enrollment-rbac.yaml"] {
            kubectl(&["apply", "--server-side", "-f", &repository.join(rights).display().to_string()])?;
        }
        kubectl(&["create", "serviceaccount", "raw-client", "--namespace", SYSTEM])?;
        let role = format!("--clusterrole=setupkey-operator.{SYSTEM}.controller");
        let subject = format!("--serviceaccount={SYSTEM}:raw-client");
        kubectl(&["create", "clusterrolebinding", "raw-client", &role, &subject])?;

        let admin = client(&control_plane.kubeconfig()).await?;
        let version =
            admin.apiserver_version().await.context("could not ask for the API server's version")?.git_version;
        let operator = identity(&control_plane, "setupkey-operator")?;
        let enrollment = identity(&control_plane, "setupkey-operator-enrollment")?;
        let raw_client = identity(&control_plane, "raw-client")?;
        Ok(Self { admin, operator, enrollment, raw_client, version, control_plane })
    }

    /// A file in the folder of the control plane, which is deleted with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.control_plane.dir().join(name)
    }

    /// The address of the store below the API server.
    pub fn store_url(&self) -> String {
        self.control_plane.store_url()
    }

    pub fn usage(&self) -> anyhow::Result<ControlPlaneUsage> {
        let [store, api_server] = self.control_plane.process_ids().map(Usage::of);
        Ok(ControlPlaneUsage { store: store?, api_server: api_server? })
    }

    /// Counts the requests of this identity from now on.
    pub fn requests_of(&self, identity: &Identity) -> anyhow::Result<Window> {
        Window::open(self.control_plane.audit_log(), &identity.user)
    }

    pub fn keys(&self, namespace: &str) -> Api<SetupKey> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    pub async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        let created = namespaces.create(&PostParams::default(), &namespace).await;
        created.with_context(|| format!("could not create namespace {name}"))?;
        Ok(())
    }

    /// Deletes a namespace and waits until nothing of it is left.
    pub async fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        let deleted = namespaces.delete(name, &DeleteParams::default()).await;
        deleted.with_context(|| format!("could not delete namespace {name}"))?;
        let begun = Instant::now();
        while namespaces.get_opt(name).await?.is_some() {
            ensure!(begun.elapsed() < DELETION_LIMIT, "namespace {name} was not gone within {DELETION_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Gives the garbage collector time to notice the deletions.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(())
    }

    /// Creates the keys 0 to `count`.
    pub async fn create_keys(&self, namespace: &str, count: usize, spec: &SetupKeySpec) -> anyhow::Result<()> {
        let keys = self.keys(namespace);
        let (keys, parameters) = (&keys, &PostParams::default());
        each(count, CREATORS, |number| async move {
            let name = key_name(number);
            let key = SetupKey::new(&name, spec.clone());
            keys.create(parameters, &key).await.with_context(|| format!("could not create SetupKey {name}"))?;
            Ok(())
        })
        .await
    }

    /// Merges a change into each of the keys 0 to `count`.
    pub async fn patch_keys(
        &self,
        namespace: &str,
        count: usize,
        of: Part,
        patch: impl Fn(usize) -> Value,
    ) -> anyhow::Result<()> {
        let keys = self.keys(namespace);
        let (keys, parameters) = (&keys, &PatchParams::default());
        each(count, WRITERS, |number| {
            let patch = Patch::Merge(patch(number));
            async move {
                let name = key_name(number);
                let patched = match of {
                    Part::Spec => keys.patch(&name, parameters, &patch).await,
                    Part::Status => keys.patch_status(&name, parameters, &patch).await,
                };
                patched.with_context(|| format!("could not change SetupKey {name}"))?;
                Ok(())
            }
        })
        .await
    }

    /// Creates Secrets of 32 KiB that do not have the operator's label.
    pub async fn create_foreign_secrets(&self, namespace: &str, count: usize) -> anyhow::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), namespace);
        let (secrets, parameters) = (&secrets, &PostParams::default());
        each(count, WRITERS, |number| async move {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(format!("foreign-{number}")), ..ObjectMeta::default() },
                data: Some([("data".to_owned(), ByteString(vec![b'x'; 32 << 10]))].into()),
                ..Secret::default()
            };
            secrets.create(parameters, &secret).await.context("could not create a foreign Secret")?;
            Ok(())
        })
        .await
    }
}

/// As in the README's example, with this limit; 0 means none.
pub fn key_spec(usage_limit: i64) -> SetupKeySpec {
    let spec = json!({ "usageLimit": usage_limit, "expiresIn": "2160h", "autoGroups": ["office", "printers"] });
    serde_json::from_value(spec).expect("the spec of a SetupKey")
}

/// Which part of a key is changed.
#[derive(Clone, Copy)]
pub enum Part {
    Spec,
    Status,
}

/// All names have the same length, so all keys have the same size.
pub fn key_name(number: usize) -> String {
    format!("key-{number:05}")
}

/// A client like the operator's: the same limits, and no hidden retries.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).context("could not read the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let client = connect(tuned(config.context("the kubeconfig cannot be used")?)).context("could not make a client")?;
    Ok(client.build())
}

/// Runs the action for each number, `at_a_time` at once.
async fn each<F>(count: usize, at_a_time: usize, action: impl Fn(usize) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    stream::iter(0..count).map(Ok).try_for_each_concurrent(at_a_time, action).await
}

/// The administrator's kubeconfig with the token of a ServiceAccount.
fn identity(control_plane: &ControlPlane, account: &str) -> anyhow::Result<Identity> {
    let token = kubectl(control_plane, &["create", "token", account, "--namespace", SYSTEM, "--duration", "4h"])?;
    let text = fs::read_to_string(control_plane.kubeconfig()).context("could not read the kubeconfig")?;
    let mut config: Value = serde_yaml::from_str(&text).context("the kubeconfig is not YAML")?;
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let kubeconfig = control_plane.dir().join(format!("{account}.kubeconfig"));
    fs::write(&kubeconfig, config.to_string()).with_context(|| format!("could not write {}", kubeconfig.display()))?;
    Ok(Identity { kubeconfig, user: format!("system:serviceaccount:{SYSTEM}:{account}") })
}

fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(control_plane.kubectl());
    command.arg("--kubeconfig").arg(control_plane.kubeconfig()).args(arguments).stdin(Stdio::null());
    let output = command.output().context("could not run kubectl")?;
    if !output.status.success() {
        bail!("kubectl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
