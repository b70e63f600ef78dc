//! The machine's side over HTTPS: it sends the key only to a service whose certificate it trusts.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use setupkey_operator::serve::Certificate;
use tempfile::TempDir;

use super::{
    Replica, Setup,
    machine::{Process, enroll},
};
use crate::{
    connections::relay::{Kind, Relay},
    harness::{Cluster, eventually},
};

/// A certificate authority in a file, as `--ca-file` takes it. All authorities have the same name.
struct Authority {
    file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path, file: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "enrollment authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let file = folder.join(file);
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { file, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, folder: &Path, name: &str) -> Certificate {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        std::fs::write(&certificate, params.signed_by(&pair, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        Certificate::load(&certificate, &key).unwrap()
    }
}

struct Service {
    folder: TempDir,
    authority: Authority,
    replica: Replica,
    key: String,
}

/// A replica with a certificate for the name `localhost`, and a key.
async fn service(cluster: &Cluster) -> Service {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca.crt");
    let certificate = Some(authority.certify(folder.path(), "localhost"));
    let replica = Replica::start_with(cluster, Setup { certificate, ..Setup::default() }).await;
    let key = cluster.issue("office", json!({ "ephemeral": true })).await;
    Service { folder, authority, replica, key }
}

impl Service {
    /// A machine that connects to this host name and trusts this authority.
    fn machine(&self, host: &str, authority: &Authority, state: &str) -> Process {
        let server = format!("https://{host}:{}", self.replica.address.port());
        let flags = ["--ca-file", authority.file.to_str().unwrap()];
        Process::start(self.folder.path(), &server, &self.key, state, &flags)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_given_the_authority_joins_and_leaves_over_https() {
    let cluster = Cluster::for_test("https").await;
    let service = service(&cluster).await;
    let mut machine = service.machine("localhost", &service.authority, "machine");
    eventually("the machine to join", || async { machine.log().contains(": joined").then_some(()) }).await;
    assert_eq!(cluster.peers_of("office").await.len(), 1);
    machine.terminate();
    assert!(machine.end().await.success());
    let log = machine.log();
    assert!(log.contains("left") && !log.contains("plain HTTP"), "{log}");
    service.replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_through_a_proxy() {
    let cluster = Cluster::for_test("https-proxy").await;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca.crt");
    // Only the proxy finds a host with this name.
    let host = "enroll.example.invalid";
    let certificate = Some(authority.certify(folder.path(), host));
    let replica = Replica::start_with(&cluster, Setup { certificate, ..Setup::default() }).await;
    let proxy = Relay::start(Kind::Http, replica.address).await;
    let key_file = folder.path().join("setup-key");
    std::fs::write(&key_file, cluster.issue("office", json!({})).await).unwrap();
    let mut command = enroll(folder.path(), &format!("https://{host}"), &key_file, "machine");
    command.args(["--hostname", "worker", "--ca-file"]).arg(&authority.file);
    command.env("HTTPS_PROXY", format!("http://{}", proxy.address));
    let mut machine = Process::spawn(command, folder.path(), "machine");
    eventually("the machine to join", || async { machine.log().contains(": joined").then_some(()) }).await;
    assert_eq!((cluster.peers_of("office").await.len(), proxy.connections() > 0), (1, true));
    machine.terminate();
    assert!(machine.end().await.success());
    replica.stop().await;
}

/// Another authority with the same name, and a host name that the certificate does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_shows_its_key_to_no_service_that_it_cannot_tell() {
    let cluster = Cluster::for_test("https-others").await;
    let service = service(&cluster).await;
    let other = Authority::new(service.folder.path(), "other.crt");
    for (state, host, authority, why) in [
        ("authority", "localhost", &other, "invalid peer certificate: BadSignature"),
        ("name", "127.0.0.1", &service.authority, "certificate not valid for name"),
    ] {
        let mut machine = service.machine(host, authority, state);
        eventually("the machine to try twice", || {
            let tried = machine.log().matches("cannot be reached").count() > 1;
            async move { tried.then_some(()) }
        })
        .await;
        let log = machine.log();
        assert!(log.contains(why) && !log.contains(": joined"), "{log}");
        machine.terminate();
        assert!(machine.end().await.success(), "the machine did not retry");
    }
    assert_eq!((cluster.used("office").await, cluster.peers_of("office").await.len()), (0, 0));
    service.replica.stop().await;
}
