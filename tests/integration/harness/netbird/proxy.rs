//! A proxy between a client and the real NetBird server. It counts the calls, and faults are injected into it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use control_plane::Identity;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    calls::{Call, on},
    faults::{Fault, Injection, Which},
    traffic::Traffic,
};

/// How clients reach a proxy.
pub enum Front {
    Http,
    /// With this certificate, which need not be a good one.
    Https(Identity),
}

/// Where a proxy passes its calls on.
#[derive(Clone)]
pub struct Upstream {
    /// Without a slash at the end.
    pub url: String,
    /// What signed the certificate of an https server, PEM.
    pub authority: String,
}

/// A running proxy. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    traffic: Arc<Traffic>,
    /// Ends the listener and all connections. Nothing while the proxy is down.
    session: Mutex<Option<DropGuard>>,
}

impl Proxy {
    /// Listens at a free port of this address.
    pub async fn start(ip: Ipv4Addr, front: Front, upstream: &Upstream) -> Self {
        let tls = match front {
            Front::Http => None,
            Front::Https(identity) => Some(acceptor(&identity)),
        };
        let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            tls,
            traffic: Arc::new(Traffic::to(&upstream.url, &upstream.authority)),
            session: Mutex::default(),
        };
        proxy.serve(listener);
        proxy
    }

    /// Without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Some calls meet a fault from now on. If several faults are due, the one that was injected first counts.
    pub fn inject(
        &self,
        matches: impl Fn(&Call) -> bool + Send + Sync + 'static,
        which: Which,
        fault: Fault,
    ) -> Injection {
        let injection = Injection::new(matches, which, fault);
        self.traffic.injections.lock().unwrap().push(injection.clone());
        injection
    }

    /// The next call of this route, such as `POST /api/setup-keys`, meets the fault.
    pub fn once(&self, route: &'static str, fault: Fault) -> Injection {
        self.inject(on(route), Which::First(1), fault)
    }

    /// From now on, no call meets a fault.
    pub fn heal(&self) {
        for injection in self.traffic.injections.lock().unwrap().drain(..) {
            injection.remove();
            injection.release();
        }
    }

    /// All calls so far, or since the last [`Proxy::forget`], in the order of their arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.traffic.calls.lock().unwrap().clone()
    }

    /// The number of calls of this route, also of those that met a fault.
    pub fn count(&self, route: &'static str) -> usize {
        self.calls().iter().filter(|call| on(route)(call)).count()
    }

    /// The number of calls of this route that NetBird heard of.
    pub fn heard(&self, route: &'static str) -> usize {
        self.calls().iter().filter(|call| on(route)(call) && call.forwarded).count()
    }

    pub fn forget(&self) {
        self.traffic.calls.lock().unwrap().clear();
    }

    /// Refuses connections, and breaks those that exist.
    pub fn down(&self) {
        self.session.lock().unwrap().take();
    }

    /// Listens again, at the same address.
    pub async fn up(&self) {
        let started = Instant::now();
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return self.serve(listener),
                Err(error) => assert!(started.elapsed() < Duration::from_secs(10), "{}: {error}", self.address),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn serve(&self, listener: TcpListener) {
        let (tls, traffic, session) = (self.tls.clone(), Arc::clone(&self.traffic), CancellationToken::new());
        *self.session.lock().unwrap() = Some(session.clone().drop_guard());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = session.cancelled() => return,
                };
                let Ok((stream, _)) = stream else { continue };
                let (tls, traffic) = (tls.clone(), Arc::clone(&traffic));
                let connection = async move {
                    match tls {
                        None => traffic.serve(stream).await,
                        // A client that does not trust the certificate ends the handshake.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                traffic.serve(stream).await;
                            }
                        }
                    }
                };
                tokio::spawn(session.clone().run_until_cancelled_owned(connection));
            }
        });
    }
}

fn acceptor(identity: &Identity) -> TlsAcceptor {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a private key");
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions of TLS")
        .with_no_client_auth()
        .with_single_cert(chain.expect("certificates"), key)
        .expect("a key that fits the certificate");
    TlsAcceptor::from(Arc::new(config))
}
