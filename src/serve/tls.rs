//! The certificate of a service, from files that somebody else renews.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum_server::tls_rustls::RustlsConfig;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// How often the files are looked at. A mounted Secret is a minute late anyway, and certificates are renewed days before
/// they expire.
const PERIOD: Duration = Duration::from_secs(10);

/// A certificate chain and its private key, PEM, and the files they come from.
pub struct Certificate {
    files: Files,
    config: RustlsConfig,
    found: Found,
    period: Duration,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What the files held. Compared whole: the kubelet swaps a symlink, so the time of a file tells nothing.
#[derive(Eq, PartialEq)]
struct Found {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Why a certificate cannot be used. The content of the files is not quoted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of the certificate holds none.
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// The file of the key holds none.
    #[error("{} holds no private key in PEM", .0.display())]
    NoKey(PathBuf),
    /// They do not belong together, or are of a kind that is not known.
    #[error("the certificate of {} and the key of {} cannot be used: {source}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Certificate {
    /// Reads both files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let found = files.read()?;
        let config = RustlsConfig::from_config(Arc::new(files.parse(&found)?));
        Ok(Self { files, config, found, period: PERIOD })
    }

    /// Looks at the files this often.
    pub fn looking_every(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    pub(super) fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Takes up whatever the files come to hold. What cannot be used is said once, and the last that could stays.
    pub(super) async fn follow(mut self) {
        let mut complaint = String::new();
        loop {
            tokio::time::sleep(self.period).await;
            match self.take_up() {
                Ok(false) => complaint.clear(),
                Ok(true) => {
                    tracing::info!("the certificate was renewed");
                    complaint.clear();
                }
                Err(error) => {
                    let said = std::mem::replace(&mut complaint, error.to_string());
                    if said != complaint {
                        tracing::error!(%error, "the certificate changed and is not taken up; the last one stays in use");
                    }
                }
            }
        }
    }

    /// Whether there was something new.
    fn take_up(&mut self) -> Result<bool, Error> {
        let found = self.files.read()?;
        if found == self.found {
            return Ok(false);
        }
        // Between the two reads the files may have been swapped; then they do not fit, and do next time.
        self.config.reload_from_config(Arc::new(self.files.parse(&found)?));
        self.found = found;
        Ok(true)
    }
}

impl Files {
    fn read(&self) -> Result<Found, Error> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source });
        Ok(Found { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn parse(&self, found: &Found) -> Result<ServerConfig, Error> {
        let chain = CertificateDer::pem_slice_iter(&found.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| Error::NoCertificate(self.certificate.clone()))?;
        let key = PrivateKeyDer::from_pem_slice(&found.key).map_err(|_| Error::NoKey(self.key.clone()))?;
        let unusable =
            |source| Error::Unusable { certificate: self.certificate.clone(), key: self.key.clone(), source };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}
