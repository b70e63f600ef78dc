//! What a machine must have to run a node, and the sentence that says what it lacks.

use std::{env, path::Path};

use super::config::CNI_FOLDERS;
use crate::{Error, process::SYSTEM_PATH};

/// Programs, and the Debian packages that they are in.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("unshare", "util-linux"),
];

const PLUGINS: &[&str] = &["ptp", "host-local", "loopback"];

pub fn check() -> Result<(), Error> {
    if !cfg!(target_os = "linux") {
        return Err(Error::NoNode("a node needs Linux".into()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NoNode("a node needs root: it makes namespaces, mounts and control groups".into()));
    }
    let on_path =
        |program: &&(&str, &str)| env::split_paths(SYSTEM_PATH).any(|folder| folder.join(program.0).is_file());
    let mut packages: Vec<_> = PROGRAMS.iter().filter(|program| !on_path(program)).map(|program| program.1).collect();
    let has_plugins = |folder: &&str| PLUGINS.iter().all(|plugin| Path::new(folder).join(plugin).is_file());
    if !CNI_FOLDERS.iter().any(has_plugins) {
        packages.push("containernetworking-plugins");
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    Err(Error::NoNode(format!("a node needs these packages: {}", packages.join(" "))))
}
