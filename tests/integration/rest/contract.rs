//! NetBird's contract, row by row, and where this API deviates on purpose.

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    PATIENCE, Rest, a_change, a_key, path,
    tokens::{EVERYTHING, token_of},
};
use crate::harness::{Cluster, TestClock, any_key};

/// A body that is not JSON is a string here, so that the table shows what is sent.
fn sent(body: &Value) -> String {
    body.as_str().map_or_else(|| body.to_string(), str::to_owned)
}

fn create(change: Value) -> Value {
    let mut body = a_key("new");
    for (field, value) in change.as_object().expect("fields") {
        body[field] = value.clone();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_contract_holds() {
    const KEYS: &str = "/api/setup-keys";
    const UNKNOWN: &str = "/api/setup-keys/0123456789abcdefghij";
    const NO_ID: &str = "/api/setup-keys/NoSuch";
    const NOT_JSON: &str = "couldn't parse JSON request";
    const RANGE: &str = "expires_in must be from 86400 to 31536000 seconds";
    const LIMIT: &str = "usage_limit must be from 0";
    let cluster = Cluster::for_test("rest_contract").await;
    let operator = cluster.start_operator().await;
    let rest = Rest::of(&cluster).await;
    let token = format!("Token {}", token_of(&cluster, "user", EVERYTHING));
    assert_eq!(rest.send(Some(&token), "GET /api/setup-keys", "").await.granted(), json!([]));
    let key = rest.send(Some(&token), "POST /api/setup-keys", &sent(&a_key("office"))).await.granted();
    let this = path(&key["id"]);

    let long = "x".repeat(256);
    for (call, body, code, message) in [
        // Bodies that are not valid. NetBird drops the connection at a `null`.
        (format!("POST {KEYS}"), json!("{"), 400, NOT_JSON),
        (format!("POST {KEYS}"), json!(""), 400, NOT_JSON),
        (format!("POST {KEYS}"), json!("null"), 400, NOT_JSON),
        (format!("POST {KEYS}"), json!([a_key("k")]), 400, NOT_JSON),
        (format!("POST {KEYS}"), create(json!({ "expires_in": "86400" })), 400, NOT_JSON),
        (format!("PUT {this}"), json!("null"), 400, NOT_JSON),
        (format!("PUT {this}"), json!({ "revoked": "yes", "auto_groups": [] }), 400, NOT_JSON),
        // Values that are refused.
        (format!("POST {KEYS}"), create(json!({ "name": "" })), 422, "setup key name shouldn't be empty"),
        (format!("POST {KEYS}"), create(json!({ "type": "Weird" })), 422, "unknown setup key type weird"),
        (format!("POST {KEYS}"), create(json!({ "type": null })), 422, "unknown setup key type "),
        (
            format!("POST {KEYS}"),
            create(json!({ "type": "one-off", "usage_limit": 5 })),
            422,
            "usage_limit 5 is not valid for a one-off setup key, which can be used once; use type reusable",
        ),
        (format!("POST {KEYS}"), create(json!({ "expires_in": -1 })), 422, "expiresin can not be in the past"),
        (format!("PUT {this}"), json!({ "revoked": true }), 422, "setup key autogroups field is invalid"),
        (format!("PUT {this}"), json!({ "auto_groups": null }), 422, "setup key autogroups field is invalid"),
        // NetBird accepts these.
        (format!("POST {KEYS}"), create(json!({ "expires_in": 0 })), 422, RANGE),
        (format!("POST {KEYS}"), create(json!({ "expires_in": null })), 422, RANGE),
        (format!("POST {KEYS}"), create(json!({ "expires_in": 1 })), 422, RANGE),
        (format!("POST {KEYS}"), create(json!({ "expires_in": 315_360_000 })), 422, RANGE),
        (format!("POST {KEYS}"), create(json!({ "expires_in": 9_300_000_000_i64 })), 422, RANGE),
        (format!("POST {KEYS}"), create(json!({ "usage_limit": -5 })), 422, LIMIT),
        (format!("POST {KEYS}"), create(json!({ "name": long })), 422, "setup key name must be at most 255 characters"),
        // Groups are names here, not ids. Where NetBird does not find a group, this API refuses what cannot be a name.
        (
            format!("POST {KEYS}"),
            create(json!({ "auto_groups": ["no spaces"] })),
            422,
            "invalid auto groups: no group can be called \"no",
        ),
        (
            format!("PUT {this}"),
            a_change(false, &["ok", "no/slash"]),
            422,
            "invalid auto groups: no group can be called \"no",
        ),
        // Keys that do not exist.
        (format!("GET {UNKNOWN}"), json!(""), 404, "setup key: 0123456789abcdefghij not found"),
        (format!("PUT {UNKNOWN}"), a_change(true, &[]), 404, "setup key: 0123456789abcdefghij not found"),
        (format!("DELETE {UNKNOWN}"), json!(""), 404, "setup key: 0123456789abcdefghij not found"),
        // What cannot be an id. It may be a key, so it is not quoted.
        (format!("GET {NO_ID}"), json!(""), 404, "setup key not found"),
        (format!("PUT {NO_ID}"), a_change(true, &[]), 404, "setup key not found"),
        (format!("DELETE {NO_ID}"), json!(""), 404, "setup key not found"),
        (format!("GET {KEYS}/%ff"), json!(""), 404, "setup key not found"),
        (format!("GET {this},status.state=valid"), json!(""), 404, "setup key not found"),
    ] {
        let answer = rest.send(Some(&token), &call, &sent(&body)).await;
        let said = answer.refused(code);
        assert!(said.starts_with(message), "{call} {body}: {said}");
    }
    for (call, page) in [
        (format!("PATCH {this}"), "404 page not found\n"),
        (format!("GET {KEYS}/"), "404 page not found\n"),
        (format!("PUT {KEYS}"), "404 page not found\n"),
        (format!("HEAD {KEYS}"), ""),
        (format!("HEAD {this}"), ""),
    ] {
        let answer = rest.send(Some(&token), &call, "").await;
        assert_eq!((answer.status.as_u16(), &answer.body), (404, &json!(page)), "{call}");
    }
    let untouched = rest.send(Some(&token), &format!("GET {this}"), "").await.granted();
    assert_eq!((&untouched["revoked"], &untouched["auto_groups"]), (&json!(false), &json!([])));

    // Bodies that are accepted.
    for body in [
        create(json!({ "colour": "red" })),
        create(json!({ "auto_groups": null })),
        create(json!({ "auto_groups": ["a", "b", "a"] })),
        create(json!({ "type": "one-off" })),
        create(json!({ "type": "one-off", "usage_limit": 1 })),
        create(json!({ "expires_in": 31_536_000, "usage_limit": 2_147_483_647 })),
        create(json!({ "name": "事務所" })),
    ] {
        let made = rest.send(Some(&token), "POST /api/setup-keys", &sent(&body)).await.granted();
        assert_eq!((&made["state"], &made["name"]), (&json!("valid"), &body["name"]), "{body}");
        let call = format!("DELETE {}", path(&made["id"]));
        assert_eq!(rest.send(Some(&token), &call, "").await.granted(), json!({}));
        assert_eq!(rest.send(Some(&token), &call, "").await.status, 404);
    }
    // An update ignores the fields that it cannot change.
    let body = json!({ "name": "other", "expires_in": 1, "usage_limit": 9, "revoked": true, "auto_groups": ["a"] });
    let changed = rest.send(Some(&token), &format!("PUT {this}"), &sent(&body)).await.granted();
    let mut expected = untouched.clone();
    for (field, value) in
        [("revoked", json!(true)), ("auto_groups", json!(["a"])), ("state", json!("revoked")), ("valid", json!(false))]
    {
        expected[field] = value;
    }
    expected["updated_at"] = changed["updated_at"].clone();
    assert_eq!(changed, expected);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_in_netbirds_form() {
    let cluster = Cluster::for_test("rest_large").await;
    let rest = Rest::of(&cluster).await;
    let body = create(json!({ "name": "x".repeat(100_000) }));
    assert_eq!(rest.ask("any", "POST /api/setup-keys", body).await.refused(413), "the request body is too large");
}

/// The API server cannot be reached, so an answer other than 503 was made without it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_id_is_not_asked_for() {
    let cluster = Cluster::for_test("rest_no_id").await;
    let mut config = crate::harness::admin_config().await;
    config.cluster_url = "https://127.0.0.1:9".parse().unwrap();
    let rest = Rest::at(&config, &cluster.namespace, PATIENCE, TestClock::default());
    let key = any_key();
    for id in [key.as_str(), &key.to_lowercase(), "NoSuch", "%ff", "0123456789abcdefghi", "0123456789abcdefghij,a=b"] {
        for call in ["GET", "DELETE"] {
            let answer = rest.ask("any", &format!("{call} /api/setup-keys/{id}"), Value::Null).await;
            assert_eq!(answer.refused(404), "setup key not found", "{call} {id}");
        }
        let answer = rest.ask("any", &format!("PUT /api/setup-keys/{id}"), a_change(true, &[])).await;
        assert_eq!(answer.refused(404), "setup key not found", "PUT {id}");
    }
    rest.ask("any", "GET /api/setup-keys/0123456789abcdefghij", Value::Null).await.refused(503);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_headers_authorization_are_none() {
    let cluster = Cluster::for_test("rest_two_headers").await;
    let (rest, token) = (Rest::of(&cluster).await, token_of(&cluster, "user", EVERYTHING));
    for second in [token.as_str(), "another"] {
        let request = Request::get("/api/setup-keys").header("Authorization", format!("Bearer {token}"));
        let request = request.header("Authorization", format!("Bearer {second}")).body(Body::empty()).unwrap();
        let answer = rest.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 401);
    }
    rest.ask(&token, "GET /api/setup-keys", Value::Null).await.granted();
}

/// A client that breaks off in the middle of a body.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_body_is_refused_in_netbirds_form() {
    let cluster = Cluster::for_test("rest_half").await;
    let rest = Rest::of(&cluster).await;
    let broken = Body::from_stream(futures::stream::iter([Ok("{"), Err("broken")]));
    let request = Request::post("/api/setup-keys").header("Authorization", "Bearer any").body(broken).unwrap();
    let answer = rest.router.oneshot(request).await.unwrap();
    let (status, body) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), &body["message"]), (400, &json!("couldn't parse JSON request")));
}
