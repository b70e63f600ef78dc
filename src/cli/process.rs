//! A process that runs until a signal comes: its probes, and the order of its end.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use setupkey_operator::serve::admin::{self, Readiness};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{cancel_on_signal, listen};

/// Where the probes and the metrics are.
#[derive(clap::Args)]
pub struct ProbeFlags {
    /// Address for /healthz, /readyz and /metrics. [::] stands for every address of IPv6 and IPv4.
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:8081")]
    health_address: SocketAddr,
}

/// A process with probes and metrics, which SIGTERM or SIGINT shuts down.
///
/// The probes are served until the work is done, so that the kubelet sees a process that is ending, not one that hangs.
pub struct Process {
    shutdown: CancellationToken,
    end_of_probes: CancellationToken,
    probes: JoinHandle<io::Result<()>>,
}

impl Process {
    /// Serves the probes and the metrics, and handles signals from now on.
    ///
    /// `/readyz` returns what `readiness` says. After a signal the process is not ready in any case.
    pub async fn start(
        flags: &ProbeFlags,
        readiness: impl Fn() -> Readiness + Clone + Send + Sync + 'static,
        metrics: Arc<Registry>,
    ) -> anyhow::Result<Self> {
        let listener = listen("--health-address", flags.health_address)?;
        let (shutdown, end_of_probes) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(cancel_on_signal(shutdown.clone())?);
        let readiness = {
            let shutdown = shutdown.clone();
            move || if shutdown.is_cancelled() { Err("the process is shutting down") } else { readiness() }
        };
        let probes = tokio::spawn(admin::serve(listener, readiness, metrics, end_of_probes.clone()));
        Ok(Self { shutdown, end_of_probes, probes })
    }

    /// Cancelled by the first signal.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Ends the probes, once the work is done.
    pub async fn end(self) -> anyhow::Result<()> {
        self.end_of_probes.cancel();
        self.probes.await.context("the probe server panicked")?.context("the probe server failed")?;
        tracing::info!("shut down");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn readyz(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_health_address_that_is_taken_is_named_with_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let flags = ProbeFlags { health_address: taken.local_addr().unwrap() };
        let error = Process::start(&flags, || Ok("ok"), Arc::default()).await.err().expect("an error").to_string();
        assert!(error.starts_with(&format!("--health-address {} cannot", flags.health_address)), "{error}");
    }

    #[tokio::test]
    async fn the_probes_outlive_the_work_and_are_not_ready_while_it_ends() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let process = Process::start(&ProbeFlags { health_address: free }, || Ok("ok"), Arc::default()).await.unwrap();
        assert!(readyz(free).await.starts_with("HTTP/1.0 200"));
        process.shutdown().cancel();
        let answer = readyz(free).await;
        assert!(answer.starts_with("HTTP/1.0 503") && answer.ends_with("the process is shutting down"), "{answer}");
        process.end().await.unwrap();
        assert!(TcpStream::connect(free).await.is_err(), "the probes are still served");
    }
}
