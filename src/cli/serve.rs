//! Flags of the subcommands that serve clients, and the server that they describe.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::anyhow;
use setupkey_operator::serve::{Certificate, Limits, Server};

use super::{listen, values};

/// Where a service listens, and with which certificate.
#[derive(clap::Args)]
pub struct ServeFlags {
    /// Address for clients. [::] stands for every address of IPv6 and IPv4.
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:8080")]
    address: SocketAddr,

    /// PEM file with the certificate chain, for HTTPS. It is reloaded when it changes. Without it, clients use plain HTTP.
    #[arg(long, value_name = "PATH", value_parser = values::path(), requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the certificate.
    #[arg(long, value_name = "PATH", value_parser = values::path(), requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl ServeFlags {
    /// Loads the certificate, if there is one, and listens on `--address`.
    pub async fn bind(&self, limits: Limits) -> anyhow::Result<Server> {
        let certificate = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(
                Certificate::load(certificate, key)
                    .map_err(|error| anyhow!("--tls-cert and --tls-key do not work: {error}"))?,
            ),
            _ => None,
        };
        let listener = listen("--address", self.address)?;
        if certificate.is_none() {
            tracing::warn!(
                address = %self.address,
                "plain HTTP: keys and tokens are readable on the network; use --tls-cert and --tls-key"
            );
        }
        Ok(Server::new(listener, certificate, limits))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn error_of(flags: ServeFlags) -> String {
        flags.bind(Limits::default()).await.err().expect("an error").to_string()
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named_with_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = error_of(ServeFlags { address, tls_cert: None, tls_key: None }).await;
        assert!(error.starts_with(&format!("--address {address} cannot be listened on: ")), "{error}");
    }

    #[tokio::test]
    async fn a_certificate_that_does_not_work_is_named_with_its_flags() {
        let address = "127.0.0.1:0".parse().unwrap();
        let missing = ServeFlags { address, tls_cert: Some("/none.crt".into()), tls_key: Some("/none.key".into()) };
        let error = error_of(missing).await;
        assert!(error.starts_with("--tls-cert and --tls-key do not work: /none.crt cannot be read: "), "{error}");
    }
}
