//! One control plane for all tests of a process, or of several processes.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{ControlPlane, Error, Options, flags::file, tools};

/// Names the kubeconfig of the control plane that [`shared`] hands out, if there is one already.
/// `control-plane run` sets it for its command.
pub const KUBECONFIG_ENV: &str = "CONTROL_PLANE_KUBECONFIG";

/// Access to a control plane that this value does not own.
#[derive(Debug, Clone)]
pub struct Access {
    kubeconfig: PathBuf,
    dir: PathBuf,
    kubectl: PathBuf,
}

impl Access {
    /// See [`ControlPlane::kubeconfig`].
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// See [`ControlPlane::dir`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// See [`ControlPlane::audit_log`].
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join(file::AUDIT_LOG)
    }

    /// See [`ControlPlane::kubectl`].
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }
}

/// The control plane named in the environment. If there is none, the first call starts one, which ends with this
/// process.
///
/// Tests share it, so each of them should keep to a namespace of its own. Only the `options` of the first call count,
/// and only if it starts a control plane.
pub fn shared(options: Options) -> Result<Access, &'static Error> {
    // The control plane is kept here and never dropped. The kernel and the janitor end it.
    static SHARED: OnceLock<Result<(Access, Option<ControlPlane>), Error>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| match env::var_os(KUBECONFIG_ENV).filter(|path| !path.is_empty()) {
        Some(kubeconfig) => Ok((given(kubeconfig.into())?, None)),
        None => {
            let control_plane = ControlPlane::start(options)?;
            Ok((access(&control_plane), Some(control_plane)))
        }
    });
    shared.as_ref().map(|(access, _)| access.clone())
}

fn given(kubeconfig: PathBuf) -> Result<Access, Error> {
    if !kubeconfig.is_file() {
        return Err(Error::Gone { path: kubeconfig });
    }
    Ok(Access { dir: kubeconfig.parent().unwrap_or(Path::new("/")).to_owned(), kubeconfig, kubectl: tools::kubectl()? })
}

fn access(control_plane: &ControlPlane) -> Access {
    Access {
        kubeconfig: control_plane.kubeconfig(),
        dir: control_plane.dir().to_owned(),
        kubectl: control_plane.kubectl().to_owned(),
    }
}
