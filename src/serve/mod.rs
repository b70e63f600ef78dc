//! Serving HTTP to untrusted clients, in the same way for every service of this program.
//!
//! A service is an axum [`Router`], and [`Server`] serves it on a socket. Connections, headers, bodies, handlers and slow
//! readers all have a limit ([`Limits`]), so no client can block the process. A certificate is reloaded when its files
//! change ([`tls`]). A shutdown waits for requests in progress. Probes and metrics have their own address ([`admin`]), so
//! they need no certificate and are not exposed to clients.

pub mod admin;
mod connections;
pub mod metrics;
mod tls;

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, http::StatusCode};
use axum_server::{Handle, Server as Http, tls_rustls::RustlsAcceptor};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer};

use connections::{BoundedListener, ClientAddress};
pub use tls::{Certificate, CertificateError};

/// Limits on one client, and on all of them together.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Concurrent connections. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// Time for the headers of a request, from the start of the connection or the end of the last request on it.
    pub headers: Duration,
    /// How long a client may read nothing of an answer before its connection is closed.
    pub stalled_answer: Duration,
    /// Time for the rest of a request, from the end of its headers to the answer.
    pub request: Duration,
    /// Largest body, in bytes.
    pub body: usize,
    /// How long a shutdown waits for requests in progress.
    pub shutdown: Duration,
}

/// Largest headers of one request, in bytes. A ServiceAccount token has about a thousand.
const HEADER_BYTES: usize = 32 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            headers: Duration::from_secs(10),
            stalled_answer: Duration::from_secs(10),
            request: Duration::from_secs(30),
            body: 64 * 1024,
            shutdown: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// Adds the limits on bodies (413, checked first) and on time (503) to a router.
    ///
    /// Both answers are empty or plain text. A service with its own form of errors maps them.
    pub fn apply(&self, router: Router) -> Router {
        router
            .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, self.request))
            .layer(RequestBodyLimitLayer::new(self.body))
    }
}

/// A listening socket, and how it is served.
pub struct Server {
    listener: TcpListener,
    certificate: Option<Certificate>,
    limits: Limits,
}

impl Server {
    /// HTTPS on this socket with a certificate, plain HTTP without.
    pub fn new(listener: TcpListener, certificate: Option<Certificate>, limits: Limits) -> Self {
        Self { listener, certificate, limits }
    }

    /// The address on which it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is cancelled and the requests in progress are answered or out of time.
    ///
    /// Handlers find the client's address in `ConnectInfo<SocketAddr>`. The caller adds [`Limits::apply`] to the router.
    pub async fn run(self, router: Router, shutdown: CancellationToken) -> io::Result<()> {
        let handle = Handle::new();
        let end = tokio::spawn({
            let (handle, shutdown, limit) = (handle.clone(), shutdown.clone(), self.limits.shutdown);
            async move {
                shutdown.cancelled().await;
                handle.graceful_shutdown(Some(limit));
            }
        });
        let listener = BoundedListener::new(self.listener, self.limits.connections, self.limits.stalled_answer);
        let mut http = Http::<ClientAddress>::from_listener(listener).handle(handle).http1_only();
        http.http_builder().http1().header_read_timeout(self.limits.headers).max_buf_size(HEADER_BYTES);
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        let served = match self.certificate {
            None => http.serve(router).await,
            Some(certificate) => {
                let tls = RustlsAcceptor::new(certificate.config()).handshake_timeout(self.limits.headers);
                let follow = tokio::spawn(certificate.follow());
                let served = http.acceptor(tls).serve(router).await;
                follow.abort();
                served
            }
        };
        end.abort();
        served
    }
}
