//! The certificate of a service, reloaded when its files change.

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

/// How often the files are read. The kubelet updates a mounted Secret up to a minute late anyway, and certificates are
/// renewed days before they expire.
const PERIOD: Duration = Duration::from_secs(10);

/// A certificate chain and its private key, and the PEM files they come from.
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

/// The content of the files. Modification times do not show a change, because the kubelet swaps a symlink.
#[derive(Eq, PartialEq)]
struct Found {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Why a certificate cannot be used. The content of the files is not quoted.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificate file holds no certificate.
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// The key file holds no private key.
    #[error("{} holds no private key in PEM", .0.display())]
    NoKey(PathBuf),
    /// Certificate and key do not belong together, or are of an unsupported kind.
    #[error("the certificate of {} and the key of {} cannot be used: {source}", certificate.display(), key.display())]
    Unusable {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Certificate {
    /// Reads both files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let found = files.read()?;
        let config = RustlsConfig::from_config(Arc::new(files.parse(&found)?));
        Ok(Self { files, config, found, period: PERIOD })
    }

    /// Reads the files this often, instead of every 10 s.
    pub fn looking_every(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    pub(super) fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Reloads the files whenever they change. A change that cannot be used is logged once, and the last certificate stays
    /// in use.
    pub(super) async fn follow(mut self) {
        let mut reported = String::new();
        loop {
            tokio::time::sleep(self.period).await;
            match self.reload() {
                Ok(changed) => {
                    if changed {
                        tracing::info!("reloaded the certificate");
                    }
                    reported.clear();
                }
                Err(error) => {
                    let before = std::mem::replace(&mut reported, error.to_string());
                    if before != reported {
                        tracing::error!(%error, "cannot reload the certificate; the last one stays in use");
                    }
                }
            }
        }
    }

    /// Reads the files once. Returns whether they had changed.
    fn reload(&mut self) -> Result<bool, CertificateError> {
        let found = self.files.read()?;
        if found == self.found {
            return Ok(false);
        }
        // If the files were swapped between the two reads, they do not fit together until the next reload.
        self.config.reload_from_config(Arc::new(self.files.parse(&found)?));
        self.found = found;
        Ok(true)
    }
}

impl Files {
    fn read(&self) -> Result<Found, CertificateError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })
        };
        Ok(Found { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn parse(&self, found: &Found) -> Result<ServerConfig, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&found.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| CertificateError::NoCertificate(self.certificate.clone()))?;
        let key = PrivateKeyDer::from_pem_slice(&found.key).map_err(|_| CertificateError::NoKey(self.key.clone()))?;
        let unusable = |source| CertificateError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        };
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
