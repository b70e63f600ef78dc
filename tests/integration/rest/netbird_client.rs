//! NetBird's own REST client, against the real program as in production.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

use control_plane::tie_to_this_thread;
use rcgen::generate_simple_self_signed;

use super::tokens::{EVERYTHING, token_of};
use crate::harness::{Cluster, admin_kubeconfig, eventually, tool};

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The service with TLS, started with the administrator's kubeconfig, with everything logged.
fn start_service(cluster: &Cluster, folder: &Path, port: u16, health_port: u16) -> Child {
    let certificate = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("tls.crt"), certificate.cert.pem()).unwrap();
    fs::write(folder.join("tls.key"), certificate.signing_key.serialize_pem()).unwrap();
    let mut service = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
    tie_to_this_thread(&mut service)
        .args(["api", "--log", "trace", "--namespace", &cluster.namespace])
        .args(["--address", &format!("127.0.0.1:{port}"), "--health-address", &format!("127.0.0.1:{health_port}")])
        .arg("--tls-cert")
        .arg(folder.join("tls.crt"))
        .arg("--tls-key")
        .arg(folder.join("tls.key"))
        .env("KUBECONFIG", admin_kubeconfig())
        .stdout(Stdio::null())
        .stderr(Stdio::from(File::create(folder.join("log")).unwrap()))
        .spawn()
        .unwrap()
}

pub fn probe(port: u16, path: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    std::io::read_to_string(&mut stream).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn netbirds_own_client_finds_all_as_it_expects() {
    let cluster = Cluster::for_test("rest_netbird").await;
    let operator = cluster.start_operator().await;
    let folder = tempfile::tempdir().unwrap();
    let (port, health_port) = (free_port(), free_port());
    let mut service = start_service(&cluster, folder.path(), port, health_port);
    eventually("the service to be ready", || async {
        probe(health_port, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.0 200")).then_some(())
    })
    .await;

    let token = token_of(&cluster, "user", EVERYTHING);
    let mut client = Command::new(tool("netbird-client"));
    let client = client.env("NETBIRD_URL", format!("https://localhost:{port}"));
    let client = client.env("NETBIRD_CA", folder.path().join("tls.crt"));
    let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    client.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let metrics = probe(health_port, "/metrics").unwrap();
    let counted = r#"setupkey_http_requests_total{method="POST",path="/api/setup-keys",code="200"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");

    // The service ends with success, and its log holds no secret.
    let terminated = Command::new("kill").args(["-TERM", &service.id().to_string()]).status().unwrap();
    assert!(terminated.success());
    let status = eventually("the service to end", || {
        let status = service.try_wait().unwrap();
        async move { status }
    })
    .await;
    assert!(status.success(), "the service ended with {status}");
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("TRACE"), "the log was not at trace");
    let signature = token.rsplit('.').next().unwrap();
    assert!(!log.contains(signature), "the token is in the log");
    let whole_key = regex::Regex::new("[0-9A-F]{8}-[0-9A-F]{4}-4[0-9A-F]{3}-[0-9A-F]{4}-[0-9A-F]{12}").unwrap();
    assert_eq!(whole_key.find(&log).map(|found| found.as_str()), None, "a key is in the log");
    operator.stop().await;
}
