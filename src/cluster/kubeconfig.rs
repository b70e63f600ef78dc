//! The cluster to work with: that of the kubeconfig, or the one in which the process runs.
//!
//! kube's own loader is not used, because it fails or goes astray where a proxy is in the environment; see
//! [`proxy`](super::proxy).

use std::{ffi::OsString, io};

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
    #[error("it has no context {0:?}")]
    Context(String),
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

/// Finds the cluster: that of `KUBECONFIG`, if this is set, else that of `~/.kube/config`, if it names one, else the one in
/// which the process runs.
///
/// A `KUBECONFIG` that cannot be used is an error: the process would otherwise work in a cluster that was not meant. An empty
/// variable counts as not set, as everywhere in Kubernetes. In a pod, no proxy is used.
pub fn find() -> Result<Config, Error> {
    let files = std::env::var_os("KUBECONFIG").filter(|files| !files.is_empty());
    let unusable = |complaint: Complaint| Error::Unusable { place: place(files.as_ref()), complaint };
    let kubeconfig = match Kubeconfig::read() {
        Ok(kubeconfig) => kubeconfig,
        Err(error) if files.is_none() && is_missing(&error) => return in_cluster(),
        Err(error) => return Err(unusable(error.into())),
    };
    match config_of(&kubeconfig, &ProxyVariables::of_process()) {
        Err(Complaint::Invalid(KubeconfigError::CurrentContextNotSet)) if files.is_none() => in_cluster(),
        found => found.map_err(unusable),
    }
}

fn place(files: Option<&OsString>) -> String {
    files.map_or_else(|| "~/.kube/config".to_owned(), |files| format!("KUBECONFIG {}", files.display()))
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

/// The configuration of the current context.
fn config_of(kubeconfig: &Kubeconfig, variables: &ProxyVariables) -> Result<Config, Complaint> {
    let current = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    let name = current.ok_or(KubeconfigError::CurrentContextNotSet)?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == name);
    let context =
        context.and_then(|context| context.context.as_ref()).ok_or_else(|| Complaint::Context(name.to_owned()))?;
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
