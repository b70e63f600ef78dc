//! The folder with the keys, the database and the logs of one control plane, or of one NetBird server.

use std::{
    fs::{OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{Error, janitor::Janitor};

/// The second attempt is for a dying etcd that created a file during the first deletion.
const REMOVE: &str = r#"rm -rf -- "$0" || { sleep 1; rm -rf -- "$0"; }"#;

#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _janitor: Janitor,
}

impl DataDir {
    pub fn create(prefix: &str) -> Result<Self, Error> {
        let parent = std::env::temp_dir();
        // Only the owner may read it, because of the keys and the token.
        let folder = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|source| Error::Write { path: parent, source })?;
        let janitor = Janitor::start(REMOVE, folder.path().as_os_str())?;
        Ok(Self { path: folder.keep(), _janitor: janitor })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, contents: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        OpenOptions::new()
            .create_new(true)
            .write(true)
            // The folder is closed to other users, but tools warn about a kubeconfig that looks readable.
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(contents.as_bytes()))
            .map_err(|source| Error::Write { path, source })
    }
}
