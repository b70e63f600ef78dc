//! The proxy in front of NetBird: what a client sees of each fault, and what NetBird hears of it.

use std::time::Duration;

use control_plane::netbird::{Api, HttpClient, http_client};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::harness::{
    QUIET, eventually,
    netbird::{Canned, Fault, NetBird, Which, any_call, on},
};

const LIST: &str = "GET /api/setup-keys";
const CREATE: &str = "POST /api/setup-keys";

/// What a client gets: the answer to a call, or how the connection failed.
type Seen = Result<(u16, HeaderMap, Bytes), &'static str>;

/// A client that follows no redirect and tries nothing twice.
struct Client<'a> {
    netbird: &'a NetBird,
    client: HttpClient,
}

impl<'a> Client<'a> {
    fn of(netbird: &'a NetBird) -> Self {
        Self { netbird, client: http_client(netbird.authority()) }
    }

    async fn list(&self) -> Seen {
        self.call(Method::GET, Value::Null).await
    }

    async fn create(&self, name: &str) -> Seen {
        let body = json!({ "name": self.netbird.name(name), "type": "reusable", "auto_groups": [] });
        self.call(Method::POST, body).await
    }

    async fn call(&self, method: Method, body: Value) -> Seen {
        let token = self.netbird.admin.token.expose_secret();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/setup-keys", self.netbird.base_url))
            .header("authorization", format!("Token {token}"))
            .body(Full::from(body.to_string()))
            .unwrap();
        let answer = self.client.request(request).await.map_err(|_| "no answer")?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|_| "half an answer")?.to_bytes();
        Ok((head.status.as_u16(), head.headers, body))
    }

    /// How many keys of this name NetBird has.
    async fn made(&self, name: &str) -> usize {
        self.netbird.api.keys_named(&self.netbird.name(name)).await.len()
    }
}

fn status(seen: &Seen) -> Result<u16, &'static str> {
    seen.as_ref().map(|(status, ..)| *status).map_err(|failure| *failure)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_injects_each_fault_and_counts_the_calls() {
    let netbird = NetBird::for_test("faults").await;
    let (proxy, client) = (&netbird.proxy, Client::of(&netbird));
    assert_eq!(status(&client.create("plain").await), Ok(200));
    assert_eq!(client.made("plain").await, 1);
    assert_eq!((proxy.count(CREATE), proxy.heard(CREATE), proxy.count(LIST)), (1, 1, 0));

    proxy.once(CREATE, Fault::DropBefore);
    assert_eq!(status(&client.create("dropped before").await), Err("no answer"));
    assert_eq!(client.made("dropped before").await, 0);
    assert_eq!((proxy.count(CREATE), proxy.heard(CREATE)), (2, 1));

    proxy.once(CREATE, Fault::DropAfter);
    assert_eq!(status(&client.create("dropped after").await), Err("no answer"));
    assert_eq!(client.made("dropped after").await, 1);
    assert_eq!((proxy.count(CREATE), proxy.heard(CREATE)), (3, 2));
    assert_eq!(proxy.calls().last().unwrap().status, None);

    proxy.once(LIST, Fault::Cut);
    assert_eq!(status(&client.list().await), Err("half an answer"));

    proxy.once(LIST, Fault::Delay(Duration::from_millis(300)));
    assert_eq!(status(&client.list().await), Ok(200));
    let held = proxy.calls().last().unwrap().at.elapsed();
    assert!(held >= Duration::from_millis(300), "{held:?}");

    let silence = proxy.once(LIST, Fault::Silence);
    assert!(tokio::time::timeout(QUIET, client.list()).await.is_err(), "there was an answer");
    assert_eq!(silence.hits(), 1);

    proxy.forget();
    assert_eq!(status(&client.list().await), Ok(200));
    let calls: Vec<_> = proxy.calls().iter().map(ToString::to_string).collect();
    assert_eq!(calls, ["GET /api/setup-keys: 200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_invents_answers() {
    let netbird = NetBird::for_test("answers").await;
    let (proxy, client) = (&netbird.proxy, Client::of(&netbird));
    let answer = async |fault| {
        proxy.once(LIST, fault);
        client.list().await.unwrap()
    };

    let (status_code, headers, body) = answer(Fault::Answer(Canned::too_many_requests(Some("7")))).await;
    assert_eq!((status_code, headers["retry-after"].as_bytes()), (429, b"7".as_slice()));
    assert_eq!(body, r#"{"code":429,"message":"too many requests"}"#);
    let (status_code, headers, _) = answer(Fault::Answer(Canned::too_many_requests(None))).await;
    assert_eq!((status_code, headers.get("retry-after")), (429, None));
    assert_eq!(answer(Fault::Answer(Canned::refusal(503, "unavailable"))).await.0, 503);
    let (status_code, headers, body) = answer(Fault::Answer(Canned::page(200))).await;
    assert_eq!((status_code, headers["content-type"].as_bytes()), (200, b"text/html".as_slice()));
    assert!(body.starts_with(b"<!doctype html>"));
    let (status_code, headers, _) = answer(Fault::Answer(Canned::redirect("http://192.0.2.1/"))).await;
    assert_eq!((status_code, headers["location"].as_bytes()), (302, b"http://192.0.2.1/".as_slice()));
    let large = Canned::new(200, "application/json", vec![b' '; 10 << 20]);
    assert_eq!(answer(Fault::Answer(large)).await.2.len(), 10 << 20);
    assert_eq!(proxy.heard(LIST), 0);

    proxy.once(CREATE, Fault::Replace(Canned::new(200, "application/json", "rubbish")));
    assert_eq!(client.create("replaced").await.unwrap().2, "rubbish");
    assert_eq!(client.made("replaced").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_holds_a_call_before_or_after_netbird_hears_of_it() {
    let netbird = NetBird::for_test("pauses").await;
    let (proxy, client) = (&netbird.proxy, Client::of(&netbird));

    let before = proxy.once(CREATE, Fault::PauseBefore);
    let held = async {
        before.hit(1).await;
        assert_eq!(client.made("before").await, 0);
        before.release();
    };
    assert_eq!(status(&tokio::join!(client.create("before"), held).0), Ok(200));
    assert_eq!(client.made("before").await, 1);

    let after = proxy.once(CREATE, Fault::PauseAfter);
    let held = async {
        after.hit(1).await;
        assert_eq!(client.made("after").await, 1);
        assert_eq!(proxy.calls().last().unwrap().status, None);
        after.release();
    };
    assert_eq!(status(&tokio::join!(client.create("after"), held).0), Ok(200));

    // A client that dies while its call is held has never made it.
    let before = proxy.once(CREATE, Fault::PauseBefore);
    let dead = tokio::select! {
        answer = client.create("dead") => Some(answer),
        () = before.hit(1) => None,
    };
    assert!(dead.is_none());
    tokio::time::sleep(QUIET).await;
    before.release();
    tokio::time::sleep(QUIET).await;
    assert_eq!(client.made("dead").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_chosen_by_call_and_number() {
    let netbird = NetBird::for_test("choice").await;
    let (proxy, client) = (&netbird.proxy, Client::of(&netbird));

    let third_write = proxy.inject(|call| call.is_write(), Which::Nth(2), Fault::Answer(Canned::refusal(500, "no")));
    let mut seen = Vec::new();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(status(&client.list().await), Ok(200));
        seen.push(status(&client.create(name).await).unwrap());
    }
    assert_eq!((seen, third_write.hits()), (vec![200, 200, 500, 200], 1));

    let twice = proxy.inject(any_call, Which::First(2), Fault::Answer(Canned::refusal(502, "no")));
    let seen = [client.list().await, client.list().await, client.list().await].map(|seen| status(&seen).unwrap());
    assert_eq!((seen, twice.hits()), ([502, 502, 200], 2));

    let always = proxy.inject(any_call, Which::Every, Fault::DropBefore);
    assert_eq!(status(&client.list().await), Err("no answer"));
    always.remove();
    assert_eq!(status(&client.list().await), Ok(200));

    let lists = proxy.inject(on(LIST), Which::Every, Fault::PauseBefore);
    let healed = async {
        lists.hit(1).await;
        proxy.heal();
    };
    assert_eq!(status(&tokio::join!(client.list(), healed).0), Ok(200));
    assert_eq!(status(&client.list().await), Ok(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_down_refuses_and_is_up_again_at_the_same_address() {
    let netbird = NetBird::over_https("down").await;
    let (proxy, client) = (&netbird.proxy, Client::of(&netbird));
    assert_eq!(status(&client.list().await), Ok(200));
    proxy.down();
    eventually("the proxy to be down", || async { client.list().await.is_err().then_some(()) }).await;
    assert_eq!(proxy.count(LIST), 1);
    proxy.up().await;
    assert_eq!(status(&client.list().await), Ok(200));
    assert_eq!(proxy.count(LIST), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_hide_ids_and_calls_hold_no_token() {
    let netbird = NetBird::for_test("routes").await;
    let api = Api::new(&netbird.base_url, netbird.authority(), &netbird.admin.token);
    let key = api.create_key(&netbird.name("office"), json!({})).await;
    api.revoke_key(&key.id).await;
    api.delete_key(&key.id).await;
    let routes: Vec<_> = netbird.proxy.calls().iter().map(|call| call.route()).collect();
    assert_eq!(routes, [CREATE, LIST, "PUT /api/setup-keys/{id}", "DELETE /api/setup-keys/{id}"]);
    api.call(Method::GET, "/api/setup-keys?account=none", Value::Null).await.unwrap();
    assert_eq!(netbird.proxy.calls().last().unwrap().query, "account=none");
    let calls = format!("{:?}", netbird.proxy.calls());
    for secret in [&netbird.admin.token, &key.key] {
        assert!(!calls.contains(secret.expose_secret()));
    }
}
