//! Serving HTTP to untrusted clients, in the same way for every service of this program.
//!
//! A service is an axum [`Router`], and [`Server`] serves it on a socket. Connections, headers, bodies, handlers and slow
//! readers all have a limit ([`Limits`]), so no client can block the process, and no address can take all connections
//! ([`places`]). A certificate is reloaded when its files change ([`tls`]). A shutdown waits for requests in progress. Probes
//! and metrics have their own address ([`admin`]), so they need no certificate and are not exposed to clients.

mod address;
pub mod admin;
mod connections;
mod listen;
pub mod metrics;
mod places;
mod tls;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub use address::network;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::CONNECTION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use axum_server::{Handle, Server as Http, tls_rustls::RustlsAcceptor};
use http_body_util::BodyExt;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{
    limit::RequestBodyLimitLayer,
    timeout::{DeadlineBody, TimeoutError, TimeoutLayer},
};

use connections::{BoundedListener, ClientAddress};
pub use listen::listen;
use places::Places;
pub use tls::{Certificate, CertificateError};

/// Limits on one client, and on all of them together.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Concurrent connections. An address gets no more of them than are free.
    pub connections: usize,
    /// Time for the headers of a request, from the start of the connection or the end of the last request on it.
    pub headers: Duration,
    /// How long a client may read nothing of an answer before its connection is closed.
    pub stalled_answer: Duration,
    /// Time for the rest of a request, from the end of its headers to the answer.
    pub request: Duration,
    /// Largest body, in bytes.
    pub body: usize,
    /// Time for a body, from the end of the headers. It is a part of the time for the request.
    pub body_time: Duration,
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
            body_time: Duration::from_secs(10),
            shutdown: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// Adds the limits on bodies (413, checked first) and on times (503) to a router.
    ///
    /// Both answers are empty or plain text. A service with its own form of errors maps them.
    pub fn apply(&self, router: Router) -> Router {
        // The limit on bytes is inside the one on time: axum knows its error only if nothing wraps it.
        router
            .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, self.request))
            .layer(RequestBodyLimitLayer::new(self.body))
            .layer(from_fn_with_state(self.body_time, limit_body_time))
    }
}

/// Reads a body for so long, and answers 503 if a handler then still waits for it.
///
/// The handler sees an error of the body, which looks like any other to it. So its answer is replaced.
async fn limit_body_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let late = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&late);
    let request = request.map(|body| {
        Body::new(DeadlineBody::new(limit, body).map_err(move |error| {
            noted.fetch_or(error.is::<TimeoutError>(), Ordering::Relaxed);
            error
        }))
    });
    let response = next.run(request).await;
    if late.load(Ordering::Relaxed) { StatusCode::SERVICE_UNAVAILABLE.into_response() } else { response }
}

/// Ends a connection with its answer while places are scarce. Otherwise machines that wait for their next request hold them.
async fn end_if_scarce(State(places): State<Places>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if places.are_scarce() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A listening socket, and how it is served.
pub struct Server {
    listener: TcpListener,
    certificate: Option<Certificate>,
    limits: Limits,
    turned_away: Counter,
}

impl Server {
    /// HTTPS on this socket with a certificate, plain HTTP without.
    pub fn new(listener: TcpListener, certificate: Option<Certificate>, limits: Limits) -> Self {
        Self { listener, certificate, limits, turned_away: Counter::default() }
    }

    /// Counts the connections that get no place here.
    pub fn counting_in(self, turned_away: &Counter) -> Self {
        Self { turned_away: turned_away.clone(), ..self }
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
        let places = Places::new(self.limits.connections);
        let router = router.layer(from_fn_with_state(places.clone(), end_if_scarce));
        let listener = BoundedListener::new(self.listener, places, self.limits.stalled_answer, self.turned_away);
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
