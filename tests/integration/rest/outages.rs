//! An API server that is not available, or fails in the middle of a creation.

use std::{future::pending, time::Duration};

use axum::{
    Json, Router,
    routing::{get, post},
};
use kube::Config;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpListener};

use super::{PATIENCE, Rest, a_key};
use crate::harness::TestClock;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const KEYS: &str = "/apis/setupkey.dev/v1alpha1/namespaces/default/setupkeys";

async fn listener() -> (TcpListener, Config) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    (listener, config)
}

/// Access reviews that let every caller get Secrets.
fn reviews() -> Router {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {}, "spec": {},
        "status": { "allowed": true },
    });
    Router::new().route(REVIEWS, post(|| async { Json(review) }))
}

/// The service, with an API server that gives these answers.
async fn on(api_server: Router, patience: Duration) -> Rest {
    let (listener, config) = listener().await;
    tokio::spawn(async { axum::serve(listener, api_server).await });
    Rest::at(&config, "default", patience, TestClock::default())
}

#[tokio::test]
async fn an_api_server_that_is_away_is_told_to_the_client() {
    let (listener, config) = listener().await;
    drop(listener);
    let answer = Rest::at(&config, "default", PATIENCE, TestClock::default())
        .ask("any", "GET /api/setup-keys", Value::Null)
        .await;
    assert_eq!(answer.refused(503), "could not list SetupKeys of namespace default: kubernetes cannot be reached");
}

#[tokio::test]
async fn an_api_server_that_asks_for_patience_gets_it_from_the_client() {
    let busy = json!({ "kind": "Status", "code": 429, "message": "busy", "details": { "retryAfterSeconds": 7 } });
    let busy = move || async { (axum::http::StatusCode::TOO_MANY_REQUESTS, Json(busy)) };
    let rest = on(Router::new().route(KEYS, get(busy)), PATIENCE).await;
    let answer = rest.ask("any", "GET /api/setup-keys", Value::Null).await;
    assert_eq!((answer.refused(429), &answer.headers["Retry-After"]), ("too many requests", &"7".parse().unwrap()));
}

#[tokio::test]
async fn a_key_that_cannot_be_read_hides_no_other() {
    let key = |name: &str, key_type: &str| {
        json!({
            "metadata": { "name": name }, "spec": { "type": key_type }, "status": { "id": "dc2dqmtqmd2tbgsp86m0" },
        })
    };
    let keys = json!({ "metadata": {}, "items": [key("future", "from-the-future"), key("present", "reusable")] });
    let rest = on(Router::new().route(KEYS, get(|| async { Json(keys) })), PATIENCE).await;
    let listed = rest.ask("any", "GET /api/setup-keys", Value::Null).await.granted();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("present")));
}

#[tokio::test]
async fn who_turns_out_not_to_see_the_key_is_told_where_it_is() {
    let forbidden = |what: &str| {
        let status = json!({ "kind": "Status", "code": 403, "message": format!("{what} is forbidden") });
        move || async { (axum::http::StatusCode::FORBIDDEN, Json(status)) }
    };
    let key = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
        "metadata": { "name": "office-x7k2p", "namespace": "default", "uid": "u" }, "spec": {},
        "status": { "digest": "d", "id": "dc2dqmtqmd2tbgsp86m0", "expires": "2099-01-01T00:00:00Z" },
    });
    let found = key.clone();
    // The access review itself is forbidden, so the missing right shows only at the end.
    let api_server = Router::new()
        .route(REVIEWS, post(forbidden("the review")))
        .route(KEYS, post(|| async { Json(key) }))
        .route(&format!("{KEYS}/office-x7k2p"), get(|| async { Json(found) }))
        .route("/api/v1/namespaces/default/secrets/office-x7k2p", get(forbidden("the Secret")));
    let answer = on(api_server, PATIENCE).await.ask("any", "POST /api/setup-keys", a_key("office")).await;
    let sentence = "the setup key was created as SetupKey default/office-x7k2p, do not create it again; permission denied: the Secret is forbidden; once the SetupKey is ready, Secret default/office-x7k2p holds the key";
    assert_eq!(answer.refused(403), sentence);
}

#[tokio::test]
async fn an_api_server_that_falls_silent_after_a_creation_costs_no_more_than_the_wait() {
    let created = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
        "metadata": { "name": "office-x7k2p", "namespace": "default", "uid": "u" }, "spec": {},
    });
    let silent = reviews()
        .route(KEYS, post(|| async { Json(created) }))
        .route(&format!("{KEYS}/office-x7k2p"), get(pending::<()>));
    let rest = on(silent, Duration::from_millis(200)).await;
    let answer = rest.ask("any", "POST /api/setup-keys", a_key("office")).await;
    // The limit of a single call is longer than this wait, and has a different message.
    let sentence = "the setup key was created as SetupKey default/office-x7k2p, do not create it again; it is not issued yet; once the SetupKey is ready, Secret default/office-x7k2p holds the key";
    assert_eq!(answer.refused(504), sentence);
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_told_to_be_in_doubt() {
    // The API server answers the access review on one connection. It breaks the next one in the middle of the request.
    let (listener, config) = listener().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut begun = vec![0; 4096];
            let read = stream.read(&mut begun).await.unwrap();
            if String::from_utf8_lossy(&begun[..read]).contains(REVIEWS) {
                let body = r#"{"metadata":{},"spec":{},"status":{"allowed":true}}"#;
                let head =
                    format!("HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{head}{body}").as_bytes()).await.unwrap();
            }
        }
    });
    let rest = Rest::at(&config, "default", PATIENCE, TestClock::default());
    let answer = rest.ask("any", "POST /api/setup-keys", a_key("office")).await;
    let said = answer.refused(503);
    assert!(said.ends_with("whether it was created is not known, so list the keys before you try again"), "{said}");
}
