//! The folders that a kubelet and containerd insist on, in memory and for this machine alone.

use std::{fs, os::unix::fs::symlink, path::Path};

use rustix::mount::{MountFlags, mount, mount_bind_recursive};

use crate::Error;

/// Must be called in the new mount namespace: its mounts are not visible outside.
pub fn raise() -> Result<(), Error> {
    // Sockets of containerd's shims, network namespaces of pods, and the host's own sockets, which pods must not see.
    in_memory("/run")?;
    // Logs of pods.
    in_memory("/var/log")?;
    spare("/var/lib", &["kubelet", "cni"])
}

fn in_memory(path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), c"mode=0755").map_err(|error| failed(path, error.into()))
}

/// Replaces this folder by one in memory with the same content, except for `ours`. Mounting over `ours` in place is no
/// option: a missing folder would have to be created first, and would stay.
fn spare(folder: &str, ours: &[&str]) -> Result<(), Error> {
    let (folder, original) = (Path::new(folder), Path::new("/run/original"));
    fs::create_dir(original).map_err(|source| failed(original, source))?;
    mount_bind_recursive(folder, original).map_err(|error| failed(original, error.into()))?;
    in_memory(folder)?;
    for entry in fs::read_dir(original).map_err(|source| failed(original, source))? {
        let entry = entry.map_err(|source| failed(original, source))?;
        if !ours.iter().any(|name| entry.file_name() == *name) {
            stand_in(&entry, &folder.join(entry.file_name()))?;
        }
    }
    for path in ours.iter().map(|name| folder.join(name)) {
        fs::create_dir(&path).map_err(|source| failed(&path, source))?;
    }
    Ok(())
}

fn stand_in(original: &fs::DirEntry, path: &Path) -> Result<(), Error> {
    let make = || {
        let kind = original.file_type()?;
        if kind.is_symlink() {
            return symlink(fs::read_link(original.path())?, path);
        }
        if kind.is_dir() {
            fs::create_dir(path)?
        } else {
            fs::write(path, "")?
        }
        Ok(mount_bind_recursive(original.path(), path)?)
    };
    make().map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Mount { path: path.to_owned(), source }
}
