//! What a machine needs to run a node, and the sentence that says what is missing.

use std::{env, os::unix::fs::PermissionsExt, path::Path};

use super::config::CNI_FOLDERS;
use crate::{Error, process::SYSTEM_PATH};

/// Programs, and the Debian packages that contain them.
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
    match missing_packages()?[..] {
        [] => Ok(()),
        ref packages => Err(Error::NoNode(format!("a node needs these packages: {}", packages.join(" ")))),
    }
}

/// The Debian packages that a node still needs. Fails if no package would help.
pub fn missing_packages() -> Result<Vec<&'static str>, Error> {
    if !cfg!(target_os = "linux") {
        return Err(Error::NoNode("a node needs Linux".into()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NoNode("a node needs root: it makes namespaces, mounts and control groups".into()));
    }
    let is_there =
        |(program, _): &&(&str, &str)| env::split_paths(SYSTEM_PATH).any(|folder| runs(&folder.join(program)));
    let mut packages: Vec<_> = PROGRAMS.iter().filter(|program| !is_there(program)).map(|program| program.1).collect();
    let has_plugins = |folder: &&str| PLUGINS.iter().all(|plugin| runs(&Path::new(folder).join(plugin)));
    if !CNI_FOLDERS.iter().any(has_plugins) {
        packages.push("containernetworking-plugins");
    }
    packages.dedup();
    Ok(packages)
}

fn runs(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
