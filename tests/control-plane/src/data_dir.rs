//! The folder with the keys, the database and the logs of one control plane, and the janitor that
//! removes it.
//!
//! The control plane of a test binary sits in a static, and statics are not dropped; a killed
//! process drops nothing at all. So the folder belongs to a shell that waits for the end of its
//! standard input. The kernel closes that pipe when we let go of it or when we die, by whatever
//! signal.

use std::{
    fs::{OpenOptions, Permissions},
    io::{self, Write},
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::Error;

/// The second attempt is for a dying etcd that created a file while the first one was deleting.
const REMOVE_AT_END_OF_INPUT: &str = r#"read -r _; rm -rf -- "$0" || { sleep 1; rm -rf -- "$0"; }"#;

#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    janitor: Child,
}

impl DataDir {
    pub fn create() -> Result<Self, Error> {
        let parent = std::env::temp_dir();
        // Only its owner may read it, which matters for the keys and the token.
        let folder = tempfile::Builder::new()
            .prefix("setupkey-control-plane-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|source| Error::Write { path: parent, source })?;
        let janitor = Command::new("/bin/sh")
            .args(["-c", REMOVE_AT_END_OF_INPUT])
            .arg(folder.path())
            .stdin(Stdio::piped())
            // A reader of our output must not wait for the janitor.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal reaches its whole process group; the janitor has work to do
            // after that.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program: "/bin/sh".into(), source })?;
        Ok(Self { path: folder.keep(), janitor })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, contents: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        OpenOptions::new()
            .create_new(true)
            .write(true)
            // The folder is closed to others, but tools warn about a kubeconfig that looks
            // readable.
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(contents.as_bytes()))
            .map_err(|source| Error::Write { path, source })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // `wait` closes the pipe first. There is nothing left to do about a failure.
        let _: io::Result<_> = self.janitor.wait();
    }
}
