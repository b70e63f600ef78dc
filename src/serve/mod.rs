//! Serving HTTP to people and machines that are not trusted: what is true of every service of this program.
//!
//! A service is an axum [`Router`]; this puts it on a socket. Nobody can hold the process up: connections, headers,
//! bodies, handlers and slow readers all have a limit ([`Limits`]). Certificates are taken up anew when their files
//! change ([`tls`]), and the end waits for requests under way. Probes and metrics have an address of their own
//! ([`admin`]), so that they need no certificate and are not open to clients.

pub mod admin;
mod connections;
mod flags;
pub mod metrics;
mod tls;

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, http::StatusCode};
use axum_server::{Handle, Server as Http, tls_rustls::RustlsAcceptor};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer};

use connections::{BoundedListener, Peer};
pub use flags::{Error, Flags};
pub use tls::Certificate;

/// What one client, and all of them together, may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at the same time. Further ones wait in the queue of the kernel.
    pub connections: usize,
    /// From the start of a connection, or the end of the last request on it, to the end of the next headers.
    pub headers: Duration,
    /// The longest that the client may let us wait with an answer that it does not read.
    pub stalled_answer: Duration,
    /// From the end of the headers to the answer: the body is read and the work is done within this.
    pub request: Duration,
    /// Bytes of a body.
    pub body: usize,
    /// How long the end waits for requests under way.
    pub shutdown: Duration,
}

/// Bytes of all headers together. A token of a ServiceAccount has about a thousand.
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
    /// The router within the limits on bodies (413, before anything else is looked at) and time (503).
    ///
    /// Both answers are empty or plain text; a service with a form of its own for errors maps them.
    pub fn apply(&self, router: Router) -> Router {
        router
            .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, self.request))
            .layer(RequestBodyLimitLayer::new(self.body))
    }
}

/// A socket that listens, and how it is served.
pub struct Server {
    listener: TcpListener,
    certificate: Option<Certificate>,
    limits: Limits,
}

impl Server {
    /// Serves on this socket: TLS with a certificate, plain HTTP without.
    pub fn new(listener: TcpListener, certificate: Option<Certificate>, limits: Limits) -> Self {
        Self { listener, certificate, limits }
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is cancelled, and then until the requests under way have their answers, or their time is up.
    ///
    /// Handlers find the address of the client in `ConnectInfo<SocketAddr>`. [`Limits::apply`] is up to the caller.
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
        let mut http = Http::<Peer>::from_listener(listener).handle(handle).http1_only();
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
