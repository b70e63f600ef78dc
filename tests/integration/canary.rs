//! A known key appears nowhere except in the data of its Secret.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use setupkey_operator::api::State;

use crate::{
    harness::{Cluster, condition, eventually, says},
    process::Process,
};

/// Runs the real program as in production, with everything logged.
#[tokio::test(flavor = "multi_thread")]
async fn canary_leak() {
    let cluster = Cluster::for_test("canary").await;
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let flags = ["--log", "trace", "--health-address", &address];
    let mut operator = Process::start(&cluster, folder.path(), "operator", &flags);

    let mut values = Vec::new();
    cluster.apply("office", "usageLimit: 1, secret: {aliases: [NB_SETUP_KEY]}");
    let issued = cluster.ready("office").await;
    values.push(cluster.value("office", "setup-key").await);

    // Every way to get a new value, and every state.
    cluster.delete_secret("office").await;
    let again = cluster.status_when("office", "issued again", |status| status.digest != issued.digest).await;
    values.push(cluster.value("office", "setup-key").await);
    let planted = "563A1F41-DB48-43E6-B871-0EF6B9304390";
    cluster.patch_secret("office", json!({ "stringData": { "setup-key": planted } })).await;
    cluster.status_when("office", "issued again", |status| status.digest != again.digest).await;
    values.push(cluster.value("office", "setup-key").await);
    values.push(planted.to_owned());
    // An alias is copied from the key.
    let before = cluster.ready("office").await;
    cluster.patch_secret("office", json!({ "stringData": { "NB_SETUP_KEY": "altered" } })).await;
    cluster.status_when("office", "put right", |status| status.secret != before.secret).await;
    assert!(values.contains(&cluster.value("office", "NB_SETUP_KEY").await), "the alias is not put back");
    // The API server refuses a write that carries a key.
    cluster.kubectl_ok(&["create", "quota", "none", "--hard=secrets=0"], "");
    eventually("the quota to be enforced", || async {
        let hard = cluster.kubectl_ok(&["get", "quota", "none", "-o", "jsonpath={.status.hard.secrets}"], "");
        (hard == "0").then_some(())
    })
    .await;
    cluster.apply("refused", "");
    cluster.status_when("refused", "refused", |status| says(status, "Ready") == "False SecretRefused").await;
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    cluster.status_when("office", "revoked", |status| status.state == Some(State::Revoked)).await;
    cluster.event("office", "Revoked").await;
    assert!(condition(&cluster.ready("office").await, "Stalled").is_none());

    // The probes answer, and reveal nothing.
    let probe = |path: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        std::io::Write::write_all(&mut stream, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        std::io::read_to_string(&mut stream).ok()
    };
    for path in ["/healthz", "/readyz"] {
        let answer = probe(path).expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 200"), "{path}: {answer}");
    }

    operator.stop().await;

    let everything = [
        ("log", operator.log()),
        ("stdout", operator.stdout()),
        ("SetupKeys", cluster.kubectl_ok(&["get", "sk", "-o", "json"], "")),
        ("table", cluster.kubectl_ok(&["get", "sk"], "")),
        ("events", cluster.kubectl_ok(&["get", "events", "-o", "json"], "")),
        ("metadata of Secrets", {
            let secrets = cluster.kubectl_ok(&["get", "secret", "-o", "json"], "");
            let mut secrets: serde_json::Value = serde_json::from_str(&secrets).unwrap();
            secrets["items"].as_array_mut().unwrap().iter_mut().for_each(|secret| secret["data"] = json!(null));
            secrets.to_string()
        }),
    ];
    assert!(everything[0].1.contains("TRACE"), "the log was not at trace");
    assert!(everything[0].1.contains("KeyRegenerated"), "the log is not the operator's");
    let started = std::time::Instant::now();
    for value in &values {
        assert_eq!(value.len(), 36);
        let encoded = BASE64_STANDARD.encode(value);
        // Half a key is enough to find a key that was split.
        for form in [value.as_str(), &value.to_lowercase(), &value[9..], encoded.as_str(), &encoded[..24]] {
            for (place, text) in &everything {
                assert!(!text.contains(form), "a key is in the {place}");
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(60));
}
