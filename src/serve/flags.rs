//! The flags of every service, and what is said when one of them does not work.

use std::{io, net::SocketAddr, path::PathBuf};

use tokio::net::TcpListener;

use super::{Certificate, Limits, Server, tls};

/// Where a service listens.
#[derive(clap::Args, Clone, Debug)]
pub struct Flags {
    /// Address that clients connect to.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    pub address: SocketAddr,

    /// File with the certificate chain in PEM, for HTTPS; read again when it changes. Without it, plain HTTP.
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// File with the private key of the certificate in PEM.
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8081")]
    pub health_address: SocketAddr,
}

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has the address, or it is not of this machine.
    #[error("{flag} {address} cannot be listened on: {source}")]
    Address {
        /// The flag.
        flag: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("--tls-cert and --tls-key do not work: {0}")]
    Certificate(#[from] tls::Error),
}

impl Flags {
    /// Listens on `--address`.
    pub async fn listen(&self, limits: Limits) -> Result<Server, Error> {
        let certificate = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(Certificate::load(certificate, key)?),
            _ => None,
        };
        let listener = listen("--address", self.address).await?;
        if certificate.is_none() {
            tracing::warn!(
                address = %self.address,
                "plain HTTP: keys and tokens are readable on the way; give --tls-cert and --tls-key"
            );
        }
        Ok(Server::new(listener, certificate, limits))
    }

    /// Listens on `--health-address`.
    pub async fn listen_for_probes(&self) -> Result<TcpListener, Error> {
        listen("--health-address", self.health_address).await
    }
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Address { flag, address, source })
}
