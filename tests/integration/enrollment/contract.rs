//! The OpenAPI description against the service: each documented answer is given, and matches its description.

use std::{collections::BTreeSet, net::SocketAddr};

use axum::body::Bytes;
use http::header::AUTHORIZATION;
use http_body_util::Full;
use kube::ResourceExt;
use serde_json::{Value, json};
use setupkey_operator::{api::Peer, enrollment};

use super::{Answer, Machine, Replica, Setup, known_to, post, send};
use crate::harness::{Cluster, any_key, eventually};

/// Checks answers, and notes which ones were given.
struct Contract {
    document: Value,
    given: BTreeSet<String>,
}

impl Contract {
    fn check(&mut self, method: &str, path: &str, answer: &Answer) {
        let status = answer.status.to_string();
        let described = &self.document["paths"][path][method]["responses"][&status];
        assert!(described.is_object(), "{method} {path} answered {status}, which is not described");
        let schema = &described["content"]["application/json"]["schema"];
        let is_json = answer.headers.get("content-type").is_some_and(|found| found == "application/json");
        assert_eq!(is_json, schema.is_object(), "{method} {path} {status}: JSON, and whether it is described");
        if schema.is_object() {
            let schema = json!({ "$ref": schema["$ref"], "components": self.document["components"] });
            let validator = jsonschema::validator_for(&schema).unwrap();
            let errors: Vec<_> = validator.iter_errors(&answer.json()).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{method} {path} {status}: {errors:?}");
        }
        for header in described["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            assert!(answer.headers.contains_key(header.to_lowercase()), "{method} {path} {status} lacks {header}");
        }
        self.given.insert(format!("{method} {path} {status}"));
    }

    fn described(&self) -> BTreeSet<String> {
        let paths = self.document["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation))
        });
        let answers = operations.flat_map(|(path, method, operation)| {
            let statuses = operation["responses"].as_object().unwrap().keys();
            statuses.map(move |status| format!("{method} {path} {status}"))
        });
        answers.collect()
    }
}

const ENROLL: &str = "/v1/enroll";

/// The calls of a peer: method and path.
const CALLS: [(&str, &str); 4] = [
    ("post", "/v1/namespaces/{namespace}/peers/{name}/heartbeat"),
    ("delete", "/v1/namespaces/{namespace}/peers/{name}"),
    ("post", "/v1/peers/{name}/heartbeat"),
    ("delete", "/v1/peers/{name}"),
];

/// Makes a call of a peer with these headers Authorization and this body.
async fn call(at: SocketAddr, (method, path): (&str, &str), of: &Peer, tokens: &[&str], body: &[u8]) -> Answer {
    let path = path.replace("{namespace}", &of.namespace().unwrap()).replace("{name}", &of.name_any());
    let request = http::Request::builder().method(method.to_uppercase().as_str()).uri(format!("http://{at}{path}"));
    let request =
        tokens.iter().fold(request, |request, token| request.header(AUTHORIZATION, format!("Bearer {token}")));
    send(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let cluster = Cluster::for_test("contract").await;
    let replica = Replica::start(&cluster).await;
    let address = replica.address;
    let served = send(http::Request::get(format!("http://{address}/openapi.json")).body(Default::default()).unwrap());
    let document = served.await.unwrap().json();
    assert_eq!(document, serde_json::to_value(enrollment::document()).unwrap());
    let mut contract = Contract { document, given: BTreeSet::new() };

    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    let machine = Machine::new();
    // The service accepts what the document accepts.
    let request = &contract.document["paths"][ENROLL]["post"]["requestBody"]["content"]["application/json"]["schema"];
    let schema = json!({ "$ref": request["$ref"], "components": contract.document["components"] });
    assert!(jsonschema::is_valid(&schema, &machine.body(&key)));
    let mut wrong = machine.body(&key);
    wrong["hostname"] = json!("");
    assert!(!jsonschema::is_valid(&schema, &wrong));

    let joined = machine.enroll(address, &key).await;
    let name = joined.name();
    contract.check("post", ENROLL, &joined);
    contract.check("post", ENROLL, &post(address, ENROLL, "[").await.unwrap());
    contract.check("post", ENROLL, &Machine::new().enroll(address, &any_key()).await);
    let thief = Machine { token: Machine::new().token, ..machine.clone() };
    contract.check("post", ENROLL, &thief.enroll(address, &key).await);
    contract.check("post", ENROLL, &post(address, ENROLL, vec![b' '; 9000]).await.unwrap());
    let unprocessable = post(address, ENROLL, wrong.to_string()).await.unwrap();
    assert_eq!(unprocessable.json()["field"], "hostname");
    contract.check("post", ENROLL, &unprocessable);

    eventually("the peer to be known", || async {
        (machine.heartbeat(address, &name).await.status == 204).then_some(())
    })
    .await;
    let peer = cluster.peers().get(&name).await.unwrap();
    for of_peer in CALLS {
        let (method, path) = of_peer;
        for (tokens, body, status) in [
            (vec![], vec![], 401),
            (vec![machine.token.as_str(), &machine.token], vec![], 401),
            (vec![&thief.token], vec![], 404),
            (vec![&machine.token], vec![b' '; 9000], 413),
        ] {
            let answer = call(address, of_peer, &peer, &tokens, &body).await;
            assert_eq!(answer.status, status, "{method} {path} {answer:?}");
            contract.check(method, path, &answer);
        }
        if method == "post" {
            contract.check(method, path, &call(address, of_peer, &peer, &[&machine.token], b"").await);
        }
    }

    // A foreign finalizer holds the Peer, so a machine that asks again has to wait.
    let hold = kube::api::Patch::Merge(json!({ "metadata": { "finalizers": ["example.com/held"] } }));
    cluster.peers().patch(&name, &Default::default(), &hold).await.unwrap();
    for of_peer in CALLS.into_iter().filter(|(method, _)| *method == "delete") {
        contract.check(of_peer.0, of_peer.1, &call(address, of_peer, &peer, &[&machine.token], b"").await);
    }
    let leaving = eventually("the peer to be leaving", || async {
        let answer = machine.enroll(address, &key).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    contract.check("post", ENROLL, &leaving);
    replica.stop().await;

    // A replica whose caches never fill answers 503.
    let cold = Replica::start_cold(&cluster).await;
    for of_peer in CALLS {
        contract.check(of_peer.0, of_peer.1, &call(cold.address, of_peer, &peer, &[&machine.token], b"").await);
    }
    cold.stop().await;

    let strict = Replica::start_with(&cluster, Setup { failures_per_minute: 1, ..Setup::default() }).await;
    assert_eq!(Machine::new().enroll(strict.address, &any_key()).await.status, 403);
    contract.check("post", ENROLL, &Machine::new().enroll(strict.address, &any_key()).await);
    for of_peer in CALLS {
        contract.check(of_peer.0, of_peer.1, &call(strict.address, of_peer, &peer, &[&thief.token], b"").await);
    }
    strict.stop().await;

    // Another namespace has a Peer of the same name and token.
    let other = Cluster::for_test("contract-other").await;
    let further = vec![other.namespace.clone()];
    let both = Replica::start_with(&cluster, Setup { further, ..Setup::default() }).await;
    let twin = Peer::new(&name, peer.spec.clone());
    other.unguarded_peers().create(&Default::default(), &twin).await.unwrap();
    for of_peer in CALLS.into_iter().filter(|(_, path)| path.starts_with("/v1/peers")) {
        let ambiguous = eventually("both to be known", || async {
            let answer = call(both.address, of_peer, &peer, &[&machine.token], b"").await;
            (answer.status == 409).then_some(answer)
        });
        contract.check(of_peer.0, of_peer.1, &ambiguous.await);
    }
    both.stop().await;

    let described = contract.described();
    let missing: Vec<_> = described.difference(&contract.given).collect();
    assert!(missing.is_empty(), "described, and never given: {missing:?}");
}
