//! What a machine could leave behind, checked from outside.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{cgroups, machine::PREFIX};
use crate::{command::run, netbird::CABLE_PREFIX};

/// The namespaces of a running machine, such as `net:[4026531840]`.
#[derive(Debug, Default)]
pub struct Namespaces(BTreeSet<PathBuf>);

impl Namespaces {
    pub fn of(pid: &str) -> Self {
        let kinds = ["pid", "net", "mnt", "ipc", "uts"];
        Self(kinds.iter().filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()).collect())
    }
}

/// What existed before the machine and is not part of it.
#[derive(Debug)]
pub struct Before {
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl Before {
    pub fn look() -> Self {
        Self { links: links(), tables: tables(), cgroups: cgroups::uppermost() }
    }

    /// One line for each thing that is left of the machine with this folder and these namespaces.
    pub fn left_behind(&self, folder: &Path, namespaces: &Namespaces) -> Vec<String> {
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut left = Vec::new();
        left.extend(processes_in(namespaces).map(|process| format!("process {}", process.display())));
        left.extend(links().difference(&self.links).map(|link| format!("network interface {link}")));
        left.extend(tables().difference(&self.tables).map(|table| format!("nft {table}")));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let is_ours = |mount: &&str| {
            mount.contains(&id) || namespaces.0.iter().any(|namespace| mount.contains(&*namespace.to_string_lossy()))
        };
        left.extend(mounts.lines().filter(is_ours).map(|mount| format!("mount {mount}")));
        let groups = cgroups::uppermost();
        let of_another = |group: &Path| !group.ends_with(&id) && group.to_string_lossy().contains(PREFIX);
        let groups = groups.difference(&self.cgroups).filter(|group| !of_another(group));
        left.extend(groups.map(|group| format!("control group {}", group.display())));
        left.extend(folder.exists().then(|| format!("folder {}", folder.display())));
        left
    }
}

/// Without the cables of NetBird servers, which other runs may start and end meanwhile.
fn links() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .filter_map(|link| Some(link.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|link| !link.starts_with(CABLE_PREFIX))
        .collect()
}

fn tables() -> BTreeSet<String> {
    run("nft", &["list", "tables"]).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn processes_in(namespaces: &Namespaces) -> impl Iterator<Item = PathBuf> {
    let in_one = |process: &PathBuf| {
        let links = fs::read_dir(process.join("ns")).into_iter().flatten().flatten();
        links.filter_map(|link| fs::read_link(link.path()).ok()).any(|link| namespaces.0.contains(&link))
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()).filter(in_one)
}
