//! What every test starts from: a namespace of its own on the real control plane, and a controller that runs in it.

mod access;
mod clock;
mod cluster;
mod documentation;
mod entries;
pub mod helm;
mod keys;
pub mod netbird;
mod operator;
mod waiting;

use std::path::{Path, PathBuf};

pub use access::{
    admin_config, admin_kubeconfig, config_of, control_plane_folder, enrollment_token, kubeconfig, kubectl,
    operator_kubeconfig, operator_token, run,
};
pub use clock::TestClock;
pub use cluster::{Cluster, condition, manifest, says};
pub use documentation::page;
pub use entries::{any_peer, entry, is_held};
pub use keys::{any_key, digest};
pub use operator::{INTERVAL, Operator, Setup, environment};
pub use waiting::{QUIET, at_rest_for, eventually, exactly, no_write_for, quiet_for, wait_blindly};

/// Where manifests and examples are.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tool that the Makefile puts next to those of the control plane.
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
