//! What holds for every service: limits, certificates, shutdown.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::ConnectInfo, routing::get};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use setupkey_operator::serve::{Certificate, Limits, Server};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Longer than any wait takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// A running server on a port of its own.
struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    ended: JoinHandle<std::io::Result<()>>,
}

async fn serve(router: Router, limits: Limits) -> Running {
    serve_with(router, None, limits).await
}

async fn serve_with(router: Router, certificate: Option<Certificate>, limits: Limits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (router, shutdown) = (limits.apply(router), CancellationToken::new());
    let server = Server::new(listener, certificate, limits);
    let address = server.address().unwrap();
    Running { address, ended: tokio::spawn(server.run(router, shutdown.clone())), shutdown }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The answer to bytes, up to the end of the connection.
    async fn answer_to(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        rest_of(&mut stream).await
    }
}

async fn rest_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end of the connection") {
        // Bytes that the server did not read turn the end of the connection into a reset.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(answer).unwrap(),
    }
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }).post(|body: Bytes| async move { body.len().to_string() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_finish_its_headers_is_cut() {
    let server = serve(hello(), Limits { headers: SHORT, ..Limits::default() }).await;
    assert!(!server.answer_to("GET / HTTP/1.1\r\nHost:").await.contains("hello"));
    assert!(server.answer_to(REQUEST).await.ends_with("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_nothing_more_is_cut() {
    let server = serve(hello(), Limits { headers: SHORT, ..Limits::default() }).await;
    assert!(server.answer_to("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.ends_with("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_finish_its_body_gets_no_more_time_than_the_others() {
    let server = serve(hello(), Limits { request: SHORT, ..Limits::default() }).await;
    let request = "POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf";
    assert!(server.answer_to(request).await.starts_with("HTTP/1.1 503"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_answer_gives_up_its_place() {
    const MORE_THAN_ANY_BUFFER: usize = 64 * 1024 * 1024;
    let router = hello().route("/much", get(|| async { vec![b'x'; MORE_THAN_ANY_BUFFER] }));
    let server = serve(router, Limits { connections: 1, stalled_answer: SHORT, ..Limits::default() }).await;
    let mut idle = server.connect().await;
    idle.write_all(REQUEST.replace("/ ", "/much ").as_bytes()).await.unwrap();
    assert!(server.answer_to(REQUEST).await.ends_with("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_body_is_refused_before_it_is_sent() {
    let server = serve(hello(), Limits { body: 8, ..Limits::default() }).await;
    let post = |length: usize| {
        format!("POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
    };
    assert!(server.answer_to(&post(9)).await.starts_with("HTTP/1.1 413"));
    assert!(server.answer_to(&format!("{}12345678", post(8))).await.ends_with("\r\n8"));
    // Without a length, the server counts the body as it arrives.
    let chunked = "POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n";
    assert!(server.answer_to(chunked).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_headers_are_refused() {
    let server = serve(hello(), Limits::default()).await;
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Large: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert!(server.answer_to(&request).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_served_at_a_time_than_allowed() {
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let observed = Arc::clone(&peak);
    let busy = move || async move {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(SHORT).await;
        now.fetch_sub(1, Ordering::SeqCst);
        "done"
    };
    let server = serve(Router::new().route("/", get(busy)), Limits { connections: 2, ..Limits::default() }).await;
    let answers = futures::future::join_all((0..6).map(|_| server.answer_to(REQUEST))).await;
    assert!(answers.iter().all(|answer| answer.ends_with("done")), "{answers:?}");
    assert_eq!(observed.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_know_the_address_of_the_client() {
    let router = Router::new()
        .route("/", get(|ConnectInfo(address): ConnectInfo<SocketAddr>| async move { address.to_string() }));
    let server = serve(router, Limits::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    assert!(rest_of(&mut stream).await.ends_with(&stream.local_addr().unwrap().to_string()));
}

/// A route that signals when it is reached, and answers when the test lets it.
fn held() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (says, waits) = (Arc::clone(&reached), Arc::clone(&release));
    let handler = move || async move {
        says.notify_one();
        waits.notified().await;
        "finished"
    };
    (Router::new().route("/", get(handler)), reached, release)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_a_request_under_way_and_lets_nobody_in() {
    let (router, reached, release) = held();
    let server = serve(router, Limits::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    timeout(PATIENCE, reached.notified()).await.unwrap();
    server.shutdown.cancel();
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("new connections to be refused");
    assert!(!server.ended.is_finished());
    release.notify_one();
    assert!(rest_of(&mut stream).await.ends_with("finished"));
    timeout(PATIENCE, server.ended).await.expect("an end").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_nobody_for_ever() {
    let (router, reached, _release) = held();
    let server = serve(router, Limits { shutdown: SHORT, request: PATIENCE * 2, ..Limits::default() }).await;
    let mut stream = server.connect().await;
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    timeout(PATIENCE, reached.notified()).await.unwrap();
    server.shutdown.cancel();
    timeout(PATIENCE, server.ended).await.expect("an end").unwrap().unwrap();
}

/// A folder as the kubelet mounts a Secret: the files are links through `..data`, which is swapped.
struct MountedSecret {
    folder: TempDir,
}

impl MountedSecret {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), folder.path().join(file)).unwrap();
        }
        Self { folder }
    }

    fn swap(&self, version: &str, certificate: &str, key: &str) {
        let data = self.folder.path().join(version);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("tls.crt"), certificate).unwrap();
        fs::write(data.join("tls.key"), key).unwrap();
        let link = self.folder.path().join("..data_tmp");
        symlink(version, &link).unwrap();
        fs::rename(link, self.folder.path().join("..data")).unwrap();
    }

    fn load(&self) -> Certificate {
        let path = |file: &str| self.folder.path().join(file);
        Certificate::load(&path("tls.crt"), &path("tls.key")).unwrap().looking_every(Duration::from_millis(20))
    }
}

fn new_certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// The certificate that the server shows to a client that trusts all of these.
async fn shown(server: &Running, trusted: &[&CertifiedKey<KeyPair>]) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.cert.der().clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let mut stream = connector.connect("localhost".try_into().unwrap(), server.connect().await).await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.ends_with("hello"), "{answer}");
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let (first, second) = (new_certificate(), new_certificate());
    let secret = MountedSecret::new();
    secret.swap("1", &first.cert.pem(), &first.signing_key.serialize_pem());
    let server = serve_with(hello(), Some(secret.load()), Limits::default()).await;
    assert_eq!(&shown(&server, &[&first, &second]).await, first.cert.der());

    // A failed renewal changes nothing, however often the server checks.
    secret.swap("2", &second.cert.pem(), &first.signing_key.serialize_pem());
    tokio::time::sleep(SHORT).await;
    assert_eq!(&shown(&server, &[&first, &second]).await, first.cert.der());

    secret.swap("3", &second.cert.pem(), &second.signing_key.serialize_pem());
    let renewed = async { while shown(&server, &[&first, &second]).await != *second.cert.der() {} };
    timeout(PATIENCE, renewed).await.expect("the second certificate");
}
