//! A token and a key appear nowhere except in the data of their Secrets.

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use serde_json::json;

use super::world::{AUTHORITY, World};
use crate::{
    harness::{
        eventually,
        netbird::{Canned, Fault, Which, on},
        says,
    },
    process::Process,
};

const CREATE: &str = "POST /api/setup-keys";

/// Runs the real program as in production, with everything logged.
#[tokio::test(flavor = "multi_thread")]
async fn netbird_token_never_leaks() {
    let world = World::new("netbird_leaks").await;
    let (cluster, proxy) = (&world.cluster, &world.netbird.proxy);
    let token = world.netbird.admin.token.expose_secret().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let flags = ["--log", "trace", "--health-address", &address, "--allow-insecure-authorities"];
    let mut operator = Process::start(cluster, folder.path(), "operator", &flags);

    let mut secrets = vec![token.clone()];
    let first = world.issue("office", json!({ "usageLimit": 3 })).await;
    secrets.push(cluster.value("office", "setup-key").await);
    cluster.delete_secret("office").await;
    let second =
        cluster.status_when("office", "reissued", |now| now.id != first.id && says(now, "Valid") == "True Valid").await;
    secrets.push(cluster.value("office", "setup-key").await);
    for revoked in [true, false] {
        cluster.patch_spec("office", json!({ "revoked": revoked })).await;
        let valid = if revoked { "False Revoked" } else { "True Valid" };
        world.key_says("office", "Valid", valid).await;
    }
    cluster.status_when("office", "reissued", |now| now.id != second.id).await;
    secrets.push(cluster.value("office", "setup-key").await);

    // NetBird, or what stands in its place, quotes the token and a key.
    let quoted = format!("no: {token} and {} and {}", secrets[1], secrets[1].to_lowercase());
    for (name, answer) in [
        ("refused", Canned::refusal(422, &quoted)),
        ("failing", Canned::refusal(500, &quoted)),
        ("rubbish", Canned::new(200, "application/json", json!({ "key": secrets[1], "token": token }).to_string())),
        ("page", Canned::new(200, "text/html", quoted.clone())),
    ] {
        let fault = proxy.inject(on(CREATE), Which::Every, Fault::Answer(answer));
        world.create(name, json!({})).await;
        fault.hit(2).await;
        fault.remove();
        cluster.ready(name).await;
        secrets.push(cluster.value(name, "setup-key").await);
    }
    // The Secret is refused after the key was created.
    cluster.kubectl_ok(&["create", "quota", "none", "--hard=secrets=0"], "");
    eventually("the quota to be enforced", || async {
        let hard = cluster.kubectl_ok(&["get", "quota", "none", "-o", "jsonpath={.status.hard.secrets}"], "");
        (hard == "0").then_some(())
    })
    .await;
    world.create("no-secret", json!({})).await;
    world.key_says("no-secret", "Ready", "False SecretRefused").await;
    let wrong = json!({ "stringData": { "NB_API_KEY": "nbp_wrongwrongwrongwrongwrongwrongwrongw" } });
    cluster.patch_secret(AUTHORITY, wrong).await;
    secrets.push("nbp_wrongwrongwrongwrongwrongwrongwrongw".to_owned());
    let refused = proxy.inject(on("GET /api/setup-keys"), Which::Every, Fault::Answer(Canned::refusal(401, &quoted)));
    world.authority_says(AUTHORITY, "False TokenRefused").await;
    refused.remove();

    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let metrics = std::io::read_to_string(&mut stream).unwrap();
    assert!(metrics.contains("setupkey_authority_requests_total"), "{metrics}");
    operator.stop().await;

    let everything = [
        ("log", operator.log()),
        ("stdout", operator.stdout()),
        ("metrics", metrics),
        ("SetupKeys", cluster.kubectl_ok(&["get", "sk,ska", "-o", "json"], "")),
        ("tables", cluster.kubectl_ok(&["get", "sk,ska", "-o", "wide"], "")),
        ("events", cluster.kubectl_ok(&["get", "events", "-o", "json"], "")),
        ("metadata of Secrets", {
            let secrets = cluster.kubectl_ok(&["get", "secret", "-o", "json"], "");
            let mut secrets: serde_json::Value = serde_json::from_str(&secrets).unwrap();
            secrets["items"].as_array_mut().unwrap().iter_mut().for_each(|secret| secret["data"] = json!(null));
            secrets.to_string()
        }),
    ];
    assert!(everything[0].1.contains("TRACE"), "the log was not at trace");
    assert!(everything[0].1.contains("Reissued"), "the log is not the operator's");
    for secret in &secrets {
        assert!(secret.len() >= 36);
        let encoded = BASE64_STANDARD.encode(secret);
        for form in [secret.as_str(), &secret.to_lowercase(), &secret[9..], encoded.as_str(), &encoded[..24]] {
            for (place, text) in &everything {
                let found = text.find(form);
                let line = found.map(|at| &text[text[..at].rfind('\n').map_or(0, |start| start + 1)..at]);
                assert!(found.is_none(), "a key or a token is in the {place}, after {line:?}");
            }
        }
    }
}
