//! The cluster to work with: that of the kubeconfig, or the one in which the process runs.
//!
//! kube's own loader is not used, because it fails or goes astray where a proxy is in the environment; see
//! [`proxy`](super::proxy).

use std::{ffi::OsString, io, path::PathBuf};

use kube::{
    Config,
    config::{AuthInfo, ExecAuthCluster, Kubeconfig, KubeconfigError},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::proxy::{InvalidProxy, ProxyVariables, proxy};

/// Why there is no cluster to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is neither a kubeconfig nor a ServiceAccount.
    #[error("no cluster to work with: set KUBECONFIG to a kubeconfig file, or run in a pod with a ServiceAccount")]
    None,
    /// The kubeconfig cannot be used.
    #[error("{place} cannot be used: {complaint}")]
    Unusable {
        /// The variable with its value, or the default file.
        place: String,
        /// Why.
        complaint: Complaint,
    },
}

/// What is wrong with a kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum Complaint {
    /// It cannot be read, or it lacks what it names.
    #[error(transparent)]
    Invalid(#[from] KubeconfigError),
    /// There is no context with this name.
    #[error("it has no context {name:?}; it has {}", listed(there))]
    Context {
        /// The name.
        name: String,
        /// The names of the contexts that are there.
        there: Vec<String>,
    },
    /// The context names a cluster that is not there.
    #[error("it has no cluster {0:?}")]
    Cluster(String),
    /// The certificate authority is not in PEM.
    #[error("the certificate authority of the cluster is not in PEM")]
    CertificateAuthority,
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
}

/// What a person has chosen on the command line.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The kubeconfig file, in place of `KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The context, in place of the current one.
    pub context: Option<String>,
}

/// Finds the cluster of a process that has no choice to make; see [`choose`].
pub fn find() -> Result<Config, Error> {
    choose(&Choice::default())
}

/// Finds the cluster: that of the chosen file, or else of `KUBECONFIG`, if this is set, or else of `~/.kube/config`, if it
/// names one, or else the one in which the process runs.
///
/// A file or a context that was chosen and cannot be used is an error, and so is such a `KUBECONFIG`: the process would
/// otherwise work in a cluster that was not meant. An empty variable counts as not set, as everywhere in Kubernetes. In a pod,
/// no proxy is used.
pub fn choose(choice: &Choice) -> Result<Config, Error> {
    let variable = std::env::var_os("KUBECONFIG").filter(|files| !files.is_empty());
    let is_open = variable.is_none() && choice.kubeconfig.is_none() && choice.context.is_none();
    let unusable = |complaint: Complaint| Error::Unusable { place: place(choice, variable.as_ref()), complaint };
    let kubeconfig = match read(choice) {
        Ok(kubeconfig) => kubeconfig,
        Err(error) if is_open && is_missing(&error) => return in_cluster(),
        Err(error) => return Err(unusable(error.into())),
    };
    match config_of(&kubeconfig, choice.context.as_deref(), &ProxyVariables::of_process()) {
        Err(Complaint::Invalid(KubeconfigError::CurrentContextNotSet)) if is_open => in_cluster(),
        found => found.map_err(unusable),
    }
}

/// The contexts that can be chosen.
pub fn contexts(choice: &Choice) -> Result<Vec<String>, Error> {
    let variable = std::env::var_os("KUBECONFIG").filter(|files| !files.is_empty());
    match read(choice) {
        Ok(kubeconfig) => Ok(names_of_contexts(&kubeconfig)),
        Err(error) => Err(Error::Unusable { place: place(choice, variable.as_ref()), complaint: error.into() }),
    }
}

fn read(choice: &Choice) -> Result<Kubeconfig, KubeconfigError> {
    choice.kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from)
}

fn names_of_contexts(kubeconfig: &Kubeconfig) -> Vec<String> {
    kubeconfig.contexts.iter().map(|context| context.name.clone()).collect()
}

/// A few names for a sentence.
fn listed(names: &[String]) -> String {
    const MOST: usize = 10;
    let shown: Vec<_> = names.iter().take(MOST).map(|name| format!("{name:?}")).collect();
    match names.len().checked_sub(MOST) {
        _ if names.is_empty() => "none".to_owned(),
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

fn place(choice: &Choice, variable: Option<&OsString>) -> String {
    match (&choice.kubeconfig, variable) {
        (Some(file), _) => format!("--kubeconfig {}", file.display()),
        (None, Some(files)) => format!("KUBECONFIG {}", files.display()),
        (None, None) => "~/.kube/config".to_owned(),
    }
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn in_cluster() -> Result<Config, Error> {
    Config::incluster().map_err(|_| Error::None)
}

/// The configuration of this context, or of the current one.
fn config_of(kubeconfig: &Kubeconfig, context: Option<&str>, variables: &ProxyVariables) -> Result<Config, Complaint> {
    let current = context.or(kubeconfig.current_context.as_deref()).filter(|name| !name.is_empty());
    let name = current.ok_or(KubeconfigError::CurrentContextNotSet)?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == name);
    let context = context.and_then(|context| context.context.as_ref());
    let context =
        context.ok_or_else(|| Complaint::Context { name: name.to_owned(), there: names_of_contexts(kubeconfig) })?;
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let cluster = cluster
        .and_then(|cluster| cluster.cluster.as_ref())
        .ok_or_else(|| Complaint::Cluster(context.cluster.clone()))?;
    let server = cluster.server.as_deref().ok_or(KubeconfigError::MissingClusterUrl)?;

    let mut config = Config::new(server.parse().map_err(KubeconfigError::ParseClusterUrl)?);
    if let Some(namespace) = context.namespace.clone().filter(|namespace| !namespace.is_empty()) {
        config.default_namespace = namespace;
    }
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
    config.tls_server_name = cluster.tls_server_name.clone();
    config.disable_compression = cluster.disable_compression.unwrap_or_default();
    config.proxy_url = match cluster.proxy_url.as_deref().filter(|url| !url.is_empty()) {
        // As with kubectl, NO_PROXY is about the variables only.
        Some(url) => Some(proxy(url, "proxy-url")?),
        None => variables.proxy_of(&config.cluster_url)?,
    };
    let for_plugin = ExecAuthCluster::try_from(cluster)?;
    config.root_cert = for_plugin.certificate_authority_data.as_deref().map(certificates).transpose()?;
    config.auth_info = user(kubeconfig, context.user.as_deref(), for_plugin);
    Ok(config)
}

/// As with kubectl, a user that is not there is one without credentials.
fn user(kubeconfig: &Kubeconfig, name: Option<&str>, cluster: ExecAuthCluster) -> AuthInfo {
    let found = kubeconfig.auth_infos.iter().find(|user| Some(user.name.as_str()) == name);
    let mut user = found.and_then(|user| user.auth_info.clone()).unwrap_or_default();
    if let Some(plugin) = user.exec.as_mut().filter(|plugin| plugin.provide_cluster_info) {
        plugin.cluster = Some(cluster);
    }
    user
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, Complaint> {
    let read =
        CertificateDer::pem_slice_iter(pem).map(|one| Ok(one.map_err(|_| Complaint::CertificateAuthority)?.to_vec()));
    let read: Vec<_> = read.collect::<Result<_, Complaint>>()?;
    if read.is_empty() { Err(Complaint::CertificateAuthority) } else { Ok(read) }
}
