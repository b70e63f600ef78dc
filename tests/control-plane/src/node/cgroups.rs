//! Control groups: they belong to no namespace of ours, so each machine has one of its own name.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::Error;

const FOLDER: &str = "/sys/fs/cgroup";

/// Makes the group in which the kubelet makes all others.
pub fn create(name: &str) -> Result<(), Error> {
    // A kubelet wants these controllers in its group, which has those that the root hands down (v2).
    // Where one cannot be had, the kubelet says so.
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

/// The uppermost groups of all trees.
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
