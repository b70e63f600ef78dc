//! The reasons why a control plane or a NetBird server cannot start, as sentences.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no {}: run `make control-plane`, or `make node` for a node, or `make netbird` for NetBird, or `make kine` for kine, which builds it", path.display())]
    MissingTool { path: PathBuf },

    #[error("{} is {name:?}, and the stores are etcd and kine", crate::STORE_ENV)]
    UnknownStore { name: String },

    #[error(
        "there is no {}, although KUBEBUILDER_ASSETS is set: fill that folder with setup-envtest, \
         or unset the variable and run `make control-plane`",
        path.display()
    )]
    MissingAsset { path: PathBuf },

    #[error("could not write {}", path.display())]
    Write { path: PathBuf, source: io::Error },

    #[error("could not find free ports on 127.0.0.1")]
    Ports(#[source] io::Error),

    #[error("could not make the certificates of the server")]
    Certificates(#[from] rcgen::Error),

    #[error("{0}")]
    NoNode(String),

    #[error("{0}")]
    NoNetBird(String),

    #[error("NetBird answered {call} with {status}: {message}")]
    NetBird { call: String, status: u16, message: String },

    #[error("could not ask NetBird for {call}")]
    Unreachable { call: String, source: Box<dyn std::error::Error + Send + Sync> },

    #[error("the agent {hostname} neither joined nor was refused within {} s; its log ends with:\n{log_tail}", limit.as_secs())]
    Undecided { hostname: String, limit: Duration, log_tail: String },

    #[error("could not mount {} for the node", path.display())]
    Mount { path: PathBuf, source: io::Error },

    #[error("`{command}` failed: {stderr}")]
    Command { command: String, stderr: String },

    #[error("could not run {}", program.display())]
    Spawn { program: PathBuf, source: io::Error },

    #[error(
        "{name} ended ({status}) before it was ready; \
         its log ends with:\n{log_tail}"
    )]
    Ended { name: &'static str, status: ExitStatus, log_tail: String },

    #[error(
        "waited {} s for {awaited} in vain; the log of {name} ends with:\n{log_tail}",
        limit.as_secs()
    )]
    NotReady { awaited: &'static str, limit: Duration, name: &'static str, log_tail: String },

    #[error("could not install the CustomResourceDefinitions of {}: {stderr}", path.display())]
    Crds { path: PathBuf, stderr: String },

    #[error(
        "{} is set to {}, which does not exist: that control plane is gone, so unset the variable",
        crate::KUBECONFIG_ENV,
        path.display()
    )]
    Gone { path: PathBuf },
}

impl Error {
    /// With its causes.
    pub fn sentence(self) -> String {
        format!("{:#}", anyhow::Error::from(self))
    }

    /// Whether a start with other ports may succeed. Another process may take a free port after we have chosen it and
    /// before the program binds it.
    pub(crate) fn lost_a_port(&self) -> bool {
        matches!(self, Error::Ended { log_tail, .. } if log_tail.contains("address already in use"))
    }
}
