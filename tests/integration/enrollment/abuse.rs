//! Hostile and broken clients.

use std::time::{Duration, Instant};

use chrono::Utc;
use futures::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{Machine, Replica, Setup, known_to, post};
use crate::harness::{Cluster, any_key, at_rest_for, eventually};

/// Sends bytes and returns what comes back until the connection is closed.
async fn raw(replica: &Replica, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(replica.address).await.unwrap();
    // The service may close the connection before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut answer)).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_abuse() {
    let cluster = Cluster::for_test("abuse").await;
    let replica = Replica::start(&cluster).await;
    let key = cluster.issue("office", json!({})).await;
    known_to(std::slice::from_ref(&replica), &key).await;
    replica.requests.clear();

    // A body of 1 GiB is refused by its Content-Length. A body without one is refused as soon as it is too long.
    let announced = b"POST /v1/enroll HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n";
    let refused = raw(&replica, announced).await;
    assert!(
        refused.starts_with("HTTP/1.1 413 ") && refused.ends_with(r#"{"message":"the body may have 8 KiB"}"#),
        "{refused}"
    );
    // A body with a broken chunk is not too long.
    let broken = b"POST /v1/enroll HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n";
    let refused = raw(&replica, broken).await;
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains(r#"{"message":"the body"#), "{refused}");
    let mut stream = TcpStream::connect(replica.address).await.unwrap();
    stream.write_all(b"POST /v1/enroll HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = [b"1000\r\n".as_slice(), &[b' '; 4096], b"\r\n"].concat();
    let mut sent = 0_u64;
    while sent < 1 << 30 && stream.write_all(&chunk).await.is_ok() {
        sent += 4096;
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    let mut answer = [0; 13];
    if stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 413 ");
    }

    // Invalid text, deep JSON, fields of the wrong type, and routes that do not exist.
    for (body, status) in [
        (b"{\"setupKey\": \"\xff\xfe\"}".to_vec(), 400),
        ([b"{\"setupKey\":".as_slice(), &b"[".repeat(8000)].concat(), 400),
        (b"{\"a\":".repeat(1500), 400),
        (vec![0; 8192], 400),
        (b"{\"setupKey\": {}}".to_vec(), 422),
        (b"{\"setupKey\": \"a\", \"token\": null}".to_vec(), 422),
    ] {
        assert_eq!(post(replica.address, "/v1/enroll", body).await.unwrap().status, status);
    }
    let nothing = post(replica.address, "/v1/nothing", "").await.unwrap();
    assert!(nothing.status == 404 && nothing.json()["message"].is_string(), "{nothing:?}");
    assert_eq!(post(replica.address, "/v1/peers/..%2f..%2fsecrets/heartbeat", "").await.unwrap().status, 401);
    assert!(raw(&replica, b"GET /v1/enroll HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.contains(" 405 "));
    assert!(raw(&replica, b"\x16\x03\x01 not HTTP\r\n\r\n").await.contains(" 400 "));

    // A request with endless headers is cut off, while other requests are served.
    let slow = async {
        let mut stream = TcpStream::connect(replica.address).await.unwrap();
        let started = Instant::now();
        stream.write_all(b"POST /v1/enroll HTTP/1.1\r\n").await.unwrap();
        while started.elapsed() < Duration::from_secs(60) {
            if stream.write_all(b"x: y\r\n").await.is_err() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        false
    };
    let machine = Machine::new();
    let (cut_off, served) = tokio::join!(slow, machine.enroll(replica.address, &key));
    assert!(cut_off, "headers may take for ever");
    assert_eq!(served.status, 200);

    // The API server got no requests except those for the machine that joined.
    assert!(replica.requests.swaps("office") > 0);
    let writes = replica.requests.writes();
    assert!(writes.iter().all(|write| write.contains("office/status") || write.contains("/peers")), "{writes:?}");
    assert_eq!((cluster.used("office").await, cluster.peers_of("office").await.len()), (1, 1));
    replica.stop().await;
}

/// An address with too many failures has to wait. A peer behind the same address does not.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_limited_and_those_with_a_right_token_are_not() {
    let cluster = Cluster::for_test("limited").await;
    let replica = Replica::start_with(&cluster, Setup { failures_per_minute: 20, ..Setup::default() }).await;
    let (key, address) = (cluster.issue("office", json!({})).await, replica.address);
    let machine = Machine::new();
    let name = eventually("the key to be known", || async {
        let answer = machine.enroll(address, &key).await;
        (answer.status == 200).then(|| answer.name())
    })
    .await;
    eventually("the peer to be known", || async {
        (machine.heartbeat(address, &name).await.status == 204).then_some(())
    })
    .await;
    replica.requests.clear();
    let answers = join_all((0..100).map(|_| async { Machine::new().enroll(address, &any_key()).await })).await;
    let of = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!(of(403) + of(429), 100);
    assert!((10..30).contains(&of(403)), "{} were refused", of(403));
    let limited = answers.iter().find(|answer| answer.status == 429).unwrap();
    let seconds: u64 = limited.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&seconds), "{seconds} s");
    assert_eq!(machine.heartbeat(address, &name).await.status, 204);
    assert_eq!(replica.requests.on_objects(), Vec::<String>::new());
    let text = replica.metrics.expose().unwrap();
    assert!(text.contains(&format!("\nsetupkey_failures_limited_total {}\n", of(429))), "{text}");
    replica.stop().await;
}

/// Clients behind one address: some fail all the time, and a machine with the right key comes from there too.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_good_key_is_not_turned_away_for_its_neighbours() {
    const MACHINES: usize = 30;
    let cluster = Cluster::for_test("neighbours").await;
    let replica = Replica::start_with(&cluster, Setup { failures_per_minute: 60, ..Setup::default() }).await;
    let (key, address) = (cluster.issue("office", json!({})).await, replica.address);
    known_to(std::slice::from_ref(&replica), &key).await;
    let done = CancellationToken::new();
    let neighbours = join_all((0..4).map(|_| async {
        let mut limited = 0;
        while !done.is_cancelled() {
            limited += usize::from(Machine::new().enroll(address, &any_key()).await.status == 429);
        }
        limited
    }));
    let machines = async {
        eventually("the address to be limited", || async {
            (Machine::new().enroll(address, &any_key()).await.status == 429).then_some(())
        })
        .await;
        let mut statuses = Vec::new();
        for _ in 0..MACHINES {
            statuses.push(Machine::new().enroll(address, &key).await.status);
        }
        done.cancel();
        statuses
    };
    let (limited, statuses) = tokio::join!(neighbours, machines);
    let turned_away = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!(
        turned_away, 0,
        "{turned_away} of {MACHINES} machines with the right key were answered 429: {statuses:?}"
    );
    assert_eq!(statuses, [200; MACHINES]);
    assert!(limited.iter().all(|limited| *limited > 0), "the neighbours were not limited: {limited:?}");
    replica.stop().await;
}

/// A client that was refused too often makes no further requests to the API server, whatever it sends.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_beyond_the_limit_cost_the_api_server_nothing() {
    let cluster = Cluster::for_test("refusals").await;
    let replica = Replica::start_with(&cluster, Setup { failures_per_minute: 5, ..Setup::default() }).await;
    let address = replica.address;
    let key = cluster.issue("office", json!({})).await;
    let revoked = cluster.issue("revoked", json!({ "revoked": true })).await;
    let used = cluster.issue("used", json!({ "usageLimit": 1 })).await;
    let expired = cluster.issue_until("expired", json!({}), Utc::now() - chrono::Duration::hours(1)).await;
    let (victim, last) = (Machine::new(), Machine::new());
    for (machine, key) in [(&victim, &key), (&last, &used)] {
        let name = eventually("the machine to join", || async {
            let answer = machine.enroll(address, key).await;
            (answer.status == 200).then(|| answer.name())
        })
        .await;
        eventually("the peer to be known", || async {
            (machine.heartbeat(address, &name).await.status == 204).then_some(())
        })
        .await;
    }
    eventually("the address to be limited", || async {
        (Machine::new().enroll(address, &any_key()).await.status == 429).then_some(())
    })
    .await;
    // The entries are cleared, and the Peers released, some seconds after the machines have joined.
    at_rest_for(&replica.requests, Duration::from_secs(6)).await;
    replica.requests.clear();

    // The public key of a peer is no secret.
    let thief = || Machine { token: Machine::new().token, ..victim.clone() };
    let mut labels = Machine::new().body(&key);
    labels["extraDnsLabels"] = json!(["db"]);
    let mut bodies = vec![labels.to_string(), "[".to_owned(), json!({ "setupKey": key }).to_string()];
    for key in [&key, &revoked, &used, &expired, &any_key()] {
        bodies.push(thief().body(key).to_string());
    }
    for key in [&revoked, &used, &expired, &any_key()] {
        bodies.push(Machine::new().body(key).to_string());
    }
    for body in &bodies {
        let answers =
            join_all((0..30).map(|_| async { post(address, "/v1/enroll", body.clone()).await.unwrap().status }));
        let statuses = answers.await;
        let limited = statuses.iter().filter(|status| **status == 429).count();
        assert!(limited >= 28, "{body:.60}: {statuses:?}");
    }
    assert_eq!(replica.requests.on_objects(), Vec::<String>::new());
    replica.stop().await;
}
