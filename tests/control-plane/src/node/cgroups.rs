//! Control groups. They belong to no namespace, so each machine has one with its own name.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::Error;

const FOLDER: &str = "/sys/fs/cgroup";

/// Creates the group in which the kubelet creates all others.
pub fn create(name: &str) -> Result<(), Error> {
    // A kubelet needs these controllers in its group. With cgroup v2, a group has only those that the root passes down.
    // If one is not available, the kubelet reports it.
    for controller in ["cpu", "cpuset", "hugetlb", "memory", "pids"] {
        let _ = fs::write(Path::new(FOLDER).join("cgroup.subtree_control"), format!("+{controller}"));
    }
    for path in trees().map(|tree| tree.join(name)) {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Write { path, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the groups of machines that are gone. Such a group is left only if the janitor was killed, too: a living
/// janitor has the machine's name in its command line.
pub fn remove_orphans(prefix: &str) {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let commands: Vec<_> = processes.filter_map(|process| fs::read(process.join("cmdline")).ok()).collect();
    for group in uppermost() {
        let Some(name) = group.file_name().and_then(|name| name.to_str()).filter(|name| name.starts_with(prefix))
        else {
            continue;
        };
        if !commands.iter().any(|command| String::from_utf8_lossy(command).contains(name)) {
            remove(&group);
        }
    }
}

/// Groups that are in use stay.
fn remove(group: &Path) {
    for inner in folders(group) {
        remove(&inner);
    }
    let _ = fs::remove_dir(group);
}

/// The topmost groups of all trees.
pub fn uppermost() -> BTreeSet<PathBuf> {
    trees().flat_map(|tree| folders(&tree)).collect()
}

/// One tree (v2), or one for each controller (v1).
fn trees() -> impl Iterator<Item = PathBuf> {
    let is_tree = |folder: &PathBuf| folder.join("cgroup.procs").exists();
    let roots = if is_tree(&FOLDER.into()) { vec![FOLDER.into()] } else { folders(Path::new(FOLDER)) };
    roots.into_iter().filter(is_tree)
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
