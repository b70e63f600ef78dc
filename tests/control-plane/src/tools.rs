//! Where the programs are: what `make control-plane` has built, or setup-envtest's folder.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::Error;

/// The folder that replaces `target/tools`.
const TOOLS_ENV: &str = "CONTROL_PLANE_TOOLS";

/// The folder that setup-envtest fills with etcd, kube-apiserver and kubectl.
const ASSETS_ENV: &str = "KUBEBUILDER_ASSETS";

#[derive(Debug)]
pub struct Tools {
    pub api_server: PathBuf,
    pub controller_manager: PathBuf,
    pub kubectl: PathBuf,
}

impl Tools {
    pub fn locate() -> Result<Self, Error> {
        Ok(Self {
            api_server: asset_or_built("kube-apiserver")?,
            controller_manager: built("kube-controller-manager")?,
            kubectl: kubectl()?,
        })
    }

    /// The folders to put first in `PATH`, so that scripts use the kubectl that fits this API
    /// server.
    pub fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<_> =
            [&self.kubectl, &self.controller_manager].into_iter().filter_map(|program| program.parent()).collect();
        folders.dedup();
        folders
    }
}

/// The programs that a node needs in addition to those of the control plane and the system.
#[derive(Debug)]
pub struct NodeTools {
    pub kubelet: PathBuf,
    pub scheduler: PathBuf,
    pub proxy: PathBuf,
    pub dns: PathBuf,
}

impl NodeTools {
    pub fn locate() -> Result<Self, Error> {
        Ok(Self {
            kubelet: built("kubelet")?,
            scheduler: built("kube-scheduler")?,
            proxy: built("kube-proxy")?,
            dns: built("coredns")?,
        })
    }
}

/// NetBird's servers and its agent.
#[derive(Debug)]
pub struct NetBirdTools {
    pub management: PathBuf,
    pub signal: PathBuf,
    pub combined: PathBuf,
    pub agent: PathBuf,
}

impl NetBirdTools {
    pub fn locate() -> Result<Self, Error> {
        Ok(Self {
            management: built("netbird-management")?,
            signal: built("netbird-signal")?,
            combined: built("netbird-combined")?,
            agent: built("netbird")?,
        })
    }
}

pub fn kubectl() -> Result<PathBuf, Error> {
    asset_or_built("kubectl")
}

pub fn asset_or_built(name: &str) -> Result<PathBuf, Error> {
    match env::var_os(ASSETS_ENV).filter(|folder| !folder.is_empty()) {
        Some(folder) => existing(Path::new(&folder).join(name)).map_err(|path| Error::MissingAsset { path }),
        None => built(name),
    }
}

pub fn built(name: &str) -> Result<PathBuf, Error> {
    let folder = match env::var_os(TOOLS_ENV).filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => workspace_root().join("target/tools"),
    };
    existing(folder.join(name)).map_err(|path| Error::MissingTool { path })
}

fn existing(path: PathBuf) -> Result<PathBuf, PathBuf> {
    // Children may run in other folders, so a relative path would break there.
    let path = std::path::absolute(&path).unwrap_or(path);
    if path.is_file() { Ok(path) } else { Err(path) }
}

fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate lies two folders below the workspace root")
}
