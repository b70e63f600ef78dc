//! Known keys and tokens appear nowhere except where they belong.

use std::{
    fs::File,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use control_plane::tie_to_this_thread;
use serde_json::json;

use super::{Machine, post};
use crate::harness::{Cluster, enrollment_token, eventually, kubeconfig};

/// A port that no process listens on at this moment.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The real program as in production, with everything logged.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_no_token_leaks_from_the_enrollment_service() {
    let cluster = Cluster::for_test("canary-enrollment").await;
    let folder = tempfile::tempdir().unwrap();
    let (address, probes) = (free_address(), free_address());
    let mut service = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
    let mut service: Child = tie_to_this_thread(&mut service)
        .args(["enrollment", "--log", "trace", "--namespace", &cluster.namespace])
        .args(["--address", &address.to_string(), "--health-address", &probes.to_string()])
        .env("KUBECONFIG", kubeconfig(folder.path(), enrollment_token()))
        .stdout(Stdio::from(File::create(folder.path().join("stdout")).unwrap()))
        .stderr(Stdio::from(File::create(folder.path().join("log")).unwrap()))
        .spawn()
        .unwrap();
    let key = cluster.issue("office", json!({ "usageLimit": 1 })).await;
    let (machine, refused) = (Machine::new(), Machine::new());
    let enroll = |machine: Machine, key: String| async move {
        post(address, "/v1/enroll", machine.body(&key).to_string()).await.filter(|answer| answer.status != 503)
    };
    let joined = eventually("the machine to join", || async {
        enroll(machine.clone(), key.clone()).await.filter(|answer| answer.status == 200)
    })
    .await;
    let name = joined.name();
    let mut answers = vec![joined];
    answers.push(enroll(refused.clone(), key.clone()).await.unwrap());
    for body in [
        format!("{{\"setupKey\": \"{key}\""),
        format!("{{\"setupKey\": [\"{key}\"], \"token\": \"{}\"}}", machine.token),
        format!("\"{key}\""),
        json!({ "setupKey": key, "token": format!("{} ", machine.token), "publicKey": key, "hostname": key })
            .to_string(),
    ] {
        answers.push(post(address, "/v1/enroll", body).await.unwrap());
    }
    answers.push(machine.heartbeat(address, &name).await);
    answers.push(refused.heartbeat(address, &name).await);
    let metrics = send_get(probes, "/metrics").await;
    answers.push(machine.leave(address, &name).await);

    let pid = service.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = eventually("the service to end", || {
        let status = service.try_wait().unwrap();
        async move { status }
    })
    .await;
    assert!(status.success(), "the service ended with {status}");

    let read = |file: &str| std::fs::read_to_string(folder.path().join(file)).unwrap();
    let mut everything = vec![
        ("log".to_owned(), read("log")),
        ("stdout".to_owned(), read("stdout")),
        ("metrics".to_owned(), metrics),
        ("SetupKeys".to_owned(), cluster.kubectl_ok(&["get", "sk", "-o", "json"], "")),
        ("Peers".to_owned(), cluster.kubectl_ok(&["get", "peers", "-o", "json"], "")),
        ("events".to_owned(), cluster.kubectl_ok(&["get", "events", "-o", "json"], "")),
    ];
    everything.extend(answers.iter().map(|answer| (format!("answer {answer:?}"), format!("{answer:?}"))));
    assert!(everything[2].1.contains("setupkey_"), "these are no metrics: {}", everything[2].1);
    assert!(everything[0].1.contains("TRACE") && everything[0].1.contains("enrollment"), "the log is not at trace");
    for (what, secret) in [("key", &key), ("token", &machine.token), ("token", &refused.token)] {
        let encoded = BASE64_STANDARD.encode(secret);
        let half = &secret[9..30];
        for form in [secret.as_str(), &secret.to_lowercase(), half, &encoded[..24]] {
            for (place, text) in &everything {
                assert!(!text.contains(form), "a {what} is in the {place:.200}");
            }
        }
    }
}

async fn send_get(address: SocketAddr, path: &str) -> String {
    let request = http::Request::get(format!("http://{address}{path}")).body(Default::default()).unwrap();
    String::from_utf8(super::send(request).await.expect("an answer").body.to_vec()).unwrap()
}
