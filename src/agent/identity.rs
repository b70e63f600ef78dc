//! The key pair and the token by which a machine is known, in a file that only its owner may read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rand::{TryRng, rngs::SysRng};
use secrecy::{
    ExposeSecret, SecretString,
    zeroize::{Zeroize, Zeroizing},
};
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, StaticSecret};

/// A key pair as WireGuard has it, and a token.
pub struct Identity {
    private_key: StaticSecret,
    token: SecretString,
}

/// The content of the file.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    /// As `wg genkey` prints it.
    private_key: String,
    token: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.private_key.zeroize();
        self.token.zeroize();
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("the state file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not one of ours. Its content is not quoted.
    #[error("the state file {} holds no key pair and token; move it away to join as a new machine", .0.display())]
    NotOurs(PathBuf),
    /// The file cannot be written.
    #[error("the state file {} cannot be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system has no random bytes to give.
    #[error("no random bytes for a key pair: {0}")]
    Random(#[from] rand::rngs::SysError),
}

impl Identity {
    /// Reads the identity, or makes one and writes it. A crash after that costs no second use of a key.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match fs::read(path).map(Zeroizing::new) {
            Ok(text) => Self::parse(&text).ok_or_else(|| Error::NotOurs(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Self::create()?;
                identity.store(path).map_err(|source| Error::Unwritable { path: path.to_owned(), source })?;
                Ok(identity)
            }
            Err(source) => Err(Error::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// The public key, as `wg pubkey` prints it.
    pub fn public_key(&self) -> String {
        BASE64_STANDARD.encode(PublicKey::from(&self.private_key).as_bytes())
    }

    /// The token.
    pub fn token(&self) -> &SecretString {
        &self.token
    }

    fn create() -> Result<Self, Error> {
        let (mut key, mut token) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        SysRng.try_fill_bytes(key.as_mut())?;
        SysRng.try_fill_bytes(token.as_mut())?;
        Ok(Self { private_key: (*key).into(), token: BASE64_STANDARD.encode(*token).into() })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(text).ok()?;
        let key = Zeroizing::new(BASE64_STANDARD.decode(stored.private_key.as_str()).ok()?);
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(key.as_slice().try_into().ok()?);
        Some(Self { private_key: (*key).into(), token: stored.token.as_str().into() })
    }

    /// Writes the file as a whole or not at all, even in a crash.
    fn store(&self, path: &Path) -> io::Result<()> {
        let stored = Stored {
            private_key: BASE64_STANDARD.encode(self.private_key.as_bytes()),
            token: self.token.expose_secret().to_owned(),
        };
        let text = Zeroizing::new(serde_json::to_vec(&stored)?);
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        // It may be left over from a crash, with another mode.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_the_same_after_a_restart_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.public_key(), second.public_key());
        assert!(first.token().expose_secret() == second.token().expose_secret());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_left_over_from_a_crash_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state.new"), "half a").unwrap();
        assert!(Identity::load_or_create(&folder.path().join("state")).is_ok());
    }

    #[test]
    fn a_foreign_file_is_neither_overwritten_nor_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "their secret").unwrap();
        let error = Identity::load_or_create(&path).err().unwrap().to_string();
        assert!(error.contains("move it away") && !error.contains("their"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "their secret");
    }

    #[test]
    fn the_public_key_is_wireguards() {
        // wg genkey | tee /dev/stderr | wg pubkey; the pair of RFC 7748, 6.1
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let stored = format!("{{\"privateKey\": \"{private}\", \"token\": \"t\"}}");
        let identity = Identity::parse(stored.as_bytes()).unwrap();
        assert_eq!(identity.public_key(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }
}
