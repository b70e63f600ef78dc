//! Many lists at a time, sent to the real program.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use control_plane::tie_to_this_thread;
use futures::{StreamExt, stream};
use serde_json::json;

use super::{
    netbird_client::{free_port, probe},
    tokens::{EVERYTHING, token_of},
};
use crate::{
    harness::{Cluster, admin_kubeconfig, eventually},
    process::peak_mib,
};

const KEYS: usize = 400;
const LISTS: usize = 30;
/// Far below the chart's limit of 256 MiB, and below what thirty lists take that are not held back.
const MOST_MIB: usize = 90;

struct Service {
    process: Child,
    port: u16,
}

impl Service {
    async fn start(cluster: &Cluster) -> Self {
        let (port, health_port) = (free_port(), free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        let process = tie_to_this_thread(&mut command)
            .args(["api", "--namespace", &cluster.namespace])
            .args(["--address", &format!("127.0.0.1:{port}"), "--health-address", &format!("127.0.0.1:{health_port}")])
            .env("KUBECONFIG", admin_kubeconfig())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the service to be ready", || async {
            probe(health_port, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.0 200")).then_some(())
        })
        .await;
        Self { process, port }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a list, and returns the head and the body of its answer.
fn list(port: u16, token: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = "GET /api/setup-keys HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    write!(stream, "{head}Authorization: Bearer {token}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lists_at_a_time_are_answered_or_told_to_come_back() {
    let cluster = Cluster::for_test("lists").await;
    let groups: Vec<_> = (0..64).map(|number| format!("{number:063}")).collect();
    let spec = json!({ "autoGroups": groups });
    let issue = |number: usize| {
        let (cluster, spec) = (&cluster, spec.clone());
        async move { cluster.issue(&format!("key-{number}"), spec).await }
    };
    stream::iter(0..KEYS).map(issue).buffer_unordered(16).collect::<Vec<_>>().await;
    let token = token_of(&cluster, "user", EVERYTHING);
    let service = Service::start(&cluster).await;

    let lists: Vec<_> = (0..LISTS)
        .map(|_| {
            let (port, token) = (service.port, token.clone());
            tokio::task::spawn_blocking(move || list(port, &token))
        })
        .collect();
    let mut answered = 0;
    for answer in lists {
        let (head, body) = answer.await.unwrap();
        if head.starts_with("HTTP/1.1 200") {
            answered += 1;
            let keys: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(keys.as_array().unwrap().len(), KEYS);
        } else {
            assert!(head.starts_with("HTTP/1.1 503"), "{head} {body}");
            assert!(head.to_lowercase().contains("retry-after: 1"), "{head} {body}");
            assert!(body.contains("too many lists are under way"), "{body}");
        }
    }
    let peak = peak_mib(&service.process);
    println!("{answered} of {LISTS} lists answered, peak resident memory {peak} MiB");
    assert!(answered > 0);
    assert!(peak < MOST_MIB, "the service has taken {peak} MiB");
    // A later list finds room again.
    let (head, _) = list(service.port, &token);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}
