//! What a machine is given to join with, as people have it: the file with the key, its own name, what a service says.

use std::{net::TcpListener, os::unix::ffi::OsStrExt, path::Path, process::Command};

use axum::{Json, Router, routing::post as on_post};
use http::StatusCode;
use serde_json::json;

use super::{
    Machine, Replica, known_to,
    machine::{Process, enroll, url},
    post,
};
use crate::harness::{Cluster, any_key, eventually};

/// An address that must not be called.
struct Uncalled(TcpListener);

impl Uncalled {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Runs the command, which must end with exit code 1 and must not have called. Returns what it says.
    async fn refusal(&self, what: &str, command: Command, folder: &Path) -> String {
        let mut process = Process::spawn(command, folder, "refused");
        // A machine that calls waits for an answer.
        let status = eventually(&format!("an end with {what}"), || {
            assert!(self.0.accept().is_err(), "called with {what}");
            let status = process.ended();
            async move { status }
        })
        .await;
        let said = process.log();
        assert_eq!(status.code(), Some(1), "{what}: {said}");
        assert!(self.0.accept().is_err(), "called with {what}");
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_surrounds_the_key_in_its_file_does_not_count() {
    let cluster = Cluster::for_test("key-file").await;
    let replica = Replica::start(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let key_file = folder.path().join("setup-key");
    let contents = [
        key.to_lowercase(),
        format!(" {key}\n"),
        format!("\t{key}\r\n"),
        format!("\n\n{key}\n\n"),
        format!("\u{feff}{key}\n"),
        format!("\u{feff} \u{a0}{key}\u{2028}\u{85}"),
    ];
    for (number, content) in contents.into_iter().enumerate() {
        std::fs::write(&key_file, &content).unwrap();
        let state = format!("state-{number}");
        let mut command = enroll(folder.path(), &url(&replica), &key_file, &state);
        command.args(["--hostname", "worker"]);
        let mut machine = Process::spawn(command, folder.path(), &state);
        eventually(&format!("a machine to join with {content:?}"), || async {
            machine.log().contains("joined").then_some(())
        })
        .await;
        machine.terminate();
        assert!(machine.end().await.success(), "{}", machine.log());
    }
    assert_eq!(cluster.used("office").await, 6);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_hold_a_key_is_named_before_anything_is_sent() {
    let (folder, service, key) = (tempfile::tempdir().unwrap(), Uncalled::new(), any_key());
    let key_file = folder.path().join("setup-key");
    let contents: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\xef\xbb\xbf \n".to_vec(),
        format!("\"{key}\"\n").into(),
        format!("'{key}'").into(),
        format!("NB_SETUP_KEY={key}\n").into(),
        format!("{} {}", &key[..8], &key[9..]).into(),
        format!("{key}\n{key}\n").into(),
        format!("ä{key}").into(),
        key.repeat(2).into(),
        key.repeat(100).into(),
        [b"\xff\xfe".as_slice(), &key.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat(),
    ];
    for content in contents {
        let what = String::from_utf8_lossy(&content).into_owned();
        std::fs::write(&key_file, content).unwrap();
        let mut command = enroll(folder.path(), &service.url(), &key_file, "state");
        command.args(["--hostname", "worker"]);
        let said = service.refusal(&what, command, folder.path()).await;
        assert!(said.contains(&format!("--key-file {} ", key_file.display())), "{what}: {said}");
        assert!(!said.contains(&key[9..23]), "the key is shown: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_machine_can_have_is_refused_before_anything_is_sent() {
    let (folder, service) = (tempfile::tempdir().unwrap(), Uncalled::new());
    let key_file = folder.path().join("setup-key");
    std::fs::write(&key_file, any_key()).unwrap();
    let long = "a".repeat(254);
    for name in ["ada laptop", "ada's-laptop", "büro-1", "büro".to_uppercase().as_str(), "a,b", "ada!", &long] {
        for source in ["--hostname", "HOSTNAME"] {
            let mut command = enroll(folder.path(), &service.url(), &key_file, "state");
            match source {
                "HOSTNAME" => command.env("HOSTNAME", name),
                _ => command.args([source, name]),
            };
            let said = service.refusal(&format!("{source} {name:?}"), command, folder.path()).await;
            let sentence = "a hostname has 1 to 253 letters, digits, dots, hyphens and underscores";
            assert!(said.contains(source) && said.contains(sentence), "{name}: {said}");
        }
    }
    let mut command = enroll(folder.path(), &service.url(), &key_file, "state");
    command.args(["--hostname", ""]);
    assert!(service.refusal("an empty flag", command, folder.path()).await.contains("--hostname is empty"));
    let mut command = enroll(folder.path(), &service.url(), &key_file, "state");
    command.env("HOSTNAME", std::ffi::OsStr::from_bytes(b"b\xfcro"));
    assert!(service.refusal("Latin-1", command, folder.path()).await.contains("HOSTNAME"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_name_in_its_variable_has_that_of_the_system() {
    let cluster = Cluster::for_test("hostname").await;
    let replica = Replica::start(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let key = cluster.issue("office", json!({})).await;
    let key_file = folder.path().join("setup-key");
    std::fs::write(&key_file, key).unwrap();
    let of_system = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for (state, value, name) in [("a", "", of_system.trim()), ("b", " ", of_system.trim()), ("c", " ada\n", "ada")] {
        let mut command = enroll(folder.path(), &url(&replica), &key_file, state);
        command.env("HOSTNAME", value).args(["--leave", "always"]);
        let mut machine = Process::spawn(command, folder.path(), state);
        let peer = eventually(&format!("a Peer with HOSTNAME={value:?}"), || async {
            let peer = cluster.peers_of("office").await.pop()?;
            cluster.peers().get_opt(&peer).await.unwrap()
        })
        .await;
        assert_eq!(peer.spec.hostname, name, "{value:?}");
        machine.terminate();
        assert!(machine.end().await.success(), "{}", machine.log());
        eventually("the Peer to be gone", || async { cluster.peers_of("office").await.is_empty().then_some(()) }).await;
    }
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn white_space_around_the_key_in_a_body_does_not_count() {
    let cluster = Cluster::for_test("key-in-body").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    for sent in [format!("{key}\n"), format!("\t {key}\r\n"), format!("\u{feff}{}\u{a0}", key.to_lowercase())] {
        let answer = Machine::new().enroll(replica.address, &sent).await;
        assert_eq!(answer.status, 200, "{sent:?}: {answer:?}");
    }
    for sent in ["", " \n", "\u{feff}"] {
        let answer = post(replica.address, "/v1/enroll", Machine::new().body(sent).to_string()).await.unwrap();
        assert_eq!((answer.status, answer.json()["field"].as_str()), (422, Some("setupKey")), "{sent:?}");
    }
    assert_eq!(cluster.used("office").await, 3);
    replica.stop().await;
}

/// A service that a machine was sent to by mistake.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_says_stays_in_its_line_of_the_log() {
    let (folder, key) = (tempfile::tempdir().unwrap(), any_key());
    let key_file = folder.path().join("setup-key");
    std::fs::write(&key_file, key).unwrap();
    let message = "no\n2026-11-27T00:00:00Z  INFO joined\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\u{7}end";
    let answer = (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "message": message })));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/enroll", on_post(async move || answer));
    let service = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    for format in ["text", "json"] {
        let mut command = enroll(folder.path(), &server, &key_file, "state");
        command.args(["--hostname", "worker", "--log-format", format]);
        let mut machine = Process::spawn(command, folder.path(), format);
        assert_eq!(machine.end().await.code(), Some(3));
        let log = machine.log();
        assert!(log.lines().any(|line| line.contains("not admitted: no") && line.contains("end")), "{log}");
        let odd: Vec<_> = log.chars().filter(|&c| c != '\n' && (c.is_control() || !c.is_ascii())).collect();
        assert!(odd.is_empty(), "{odd:?}: {log:?}");
        if format == "json" {
            let line = log.lines().find(|line| line.contains("not admitted")).unwrap();
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["message"], format!("not admitted: {message}"));
        }
    }
    service.abort();
}
