//! What holds for every service: limits, certificates, shutdown.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::ConnectInfo, routing::get};
use control_plane::tie_to_this_thread;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use setupkey_operator::serve::{Certificate, Limits, Server};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Longer than any wait takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
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
        self.answer_from("127.0.0.1", bytes).await
    }

    /// The answer to a client with this address.
    async fn answer_from(&self, address: &str, bytes: &str) -> String {
        let mut stream = connect_from(address, self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        rest_of(&mut stream).await
    }
}

/// A connection from one of the addresses of this machine; all of 127.0.0.0/8 are.
async fn connect_from(address: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0))?;
    socket.connect(to).await
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
async fn a_client_that_says_nothing_is_cut() {
    let server = serve(hello(), Limits { headers: SHORT, ..Limits::default() }).await;
    assert_eq!(server.answer_to("").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_finish_its_body_is_cut_before_a_handler_would_be() {
    let slow = get(|| async {
        tokio::time::sleep(SHORT * 3).await;
        "slow"
    });
    let router = hello().route("/slow", slow);
    let server = serve(router, Limits { body_time: SHORT, request: PATIENCE * 2, ..Limits::default() }).await;
    let request = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf";
    assert!(server.answer_to(request).await.starts_with("HTTP/1.1 503"));
    assert!(server.answer_to(&REQUEST.replace("/ ", "/slow ")).await.ends_with("slow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_its_body_byte_by_byte_gets_no_more_time() {
    let server = serve(hello(), Limits { body_time: SHORT * 2, ..Limits::default() }).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let drip = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 4).await
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = drip => panic!("the connection ended without an answer"),
        read = timeout(PATIENCE, reader.read_exact(&mut answer)) => { read.expect("an answer").unwrap(); }
    }
    assert_eq!(&answer, b"HTTP/1.1 503");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_for_its_next_request_ends_once_places_are_scarce() {
    let server = serve(hello(), Limits { connections: 8, headers: PATIENCE * 2, ..Limits::default() }).await;
    let ask = async || {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        (stream, String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let (stream, answer) = ask().await;
        assert!(!answer.contains("connection: close"), "{answer}");
        waiting.push(stream);
    }
    for _ in 0..10 {
        let (mut stream, answer) = ask().await;
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(rest_of(&mut stream).await, "");
    }
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
    let clients: Vec<_> = (1..7).map(|number| format!("127.0.0.{number}")).collect();
    let answers = futures::future::join_all(clients.iter().map(|client| server.answer_from(client, REQUEST))).await;
    assert!(answers.iter().all(|answer| answer.ends_with("done")), "{answers:?}");
    assert_eq!(observed.load(Ordering::SeqCst), 2);
}

/// A client that opens connections without end, asks on each, and sends nothing of the body.
fn hog(server: SocketAddr, address: &'static str, connections: usize) -> JoinSet<()> {
    const UNFINISHED: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\n";
    (0..connections)
        .map(|_| async move {
            loop {
                if let Ok(mut stream) = connect_from(address, server).await {
                    let _ = stream.write_all(UNFINISHED.as_bytes()).await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
                tokio::time::sleep(SHORT).await;
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_all_the_connections_it_can_holds_up_no_other_address() {
    let server = serve(hello(), setupkey_operator::enrollment::limits()).await;
    let _hog = hog(server.address, "127.0.0.1", 1100);
    tokio::time::sleep(SHORT * 10).await;
    for _ in 0..20 {
        let started = Instant::now();
        assert!(server.answer_from("127.0.0.2", REQUEST).await.ends_with("hello"));
        assert!(started.elapsed() < SHORT * 10, "{:?}", started.elapsed());
    }
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

/// The program with its probes on a port, and nothing else that works.
struct Probed {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Probed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Probed {
    /// Starts the program, which may open so many files.
    async fn start(files: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let nowhere = "{apiVersion: v1, kind: Config, current-context: c, \
            clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}], \
            users: [{name: c, user: {}}], contexts: [{name: c, context: {cluster: c, user: c}}]}";
        fs::write(&kubeconfig, nowhere).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut command = Command::new("sh");
        let child = tie_to_this_thread(&mut command)
            .args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_setupkey-operator")])
            .args(["api", "--address=127.0.0.1:0", &format!("--health-address={address}")])
            .env("KUBECONFIG", kubeconfig)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self { child, address, _folder: folder };
        let up = async {
            while !started.is_alive().await {
                tokio::time::sleep(SHORT).await
            }
        };
        timeout(PATIENCE, up).await.expect("a probe");
        started
    }

    /// What the kubelet asks, from its own address and within its time.
    async fn is_alive(&self) -> bool {
        let ask = async {
            let mut stream = connect_from("127.0.0.2", self.address).await.ok()?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: kubelet\r\nConnection: close\r\n\r\n").await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer.starts_with("HTTP/1.1 200"))
        };
        matches!(timeout(Duration::from_secs(1), ask).await, Ok(Some(true)))
    }

    /// Resident memory, in KiB.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_thousands_of_connections_neither_fills_the_memory_nor_stops_the_probes() {
    for files in [16_384, 1024] {
        let program = Probed::start(files).await;
        let before = program.resident();
        let mut connections = Vec::new();
        while connections.len() < 3000 {
            // Without an answer, the kernel's queue is full, and further connections would harm no more.
            let Ok(connection) = timeout(SHORT, connect_from("127.0.0.1", program.address)).await else { break };
            connections.push(connection.unwrap());
        }
        let alive = program.is_alive().await;
        assert!(alive && program.is_alive().await);
        assert!(program.resident() < before + 8 * 1024, "{before} KiB have become {} KiB", program.resident());
    }
}
