//! One request in five fails, or loses its answer.

use std::time::Duration;

use futures::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use setupkey_operator::api::State;

use crate::{
    faults::{Fault, Faults},
    harness::{Cluster, Setup, digest, says, wait_blindly},
    requests::Sent,
};

const SEEDS: u64 = 200;
const AT_ONCE: usize = 20;
/// The probability that a request gets a fault.
const PROBABILITY: f64 = 0.2;

fn faults(seed: u64) -> Faults {
    let mut random = SmallRng::seed_from_u64(seed);
    Faults::by(move |sent, _| random.random_bool(PROBABILITY).then(|| pick(&mut random, sent)))
}

fn pick(random: &mut SmallRng, sent: &Sent) -> Fault {
    let of_a_write = [Fault::LoseReply, Fault::LoseReply, Fault::Answer(409)];
    let of_a_list = [Fault::Answer(410), Fault::Answer(410)];
    let of_any = [
        Fault::Answer(500),
        Fault::Answer(503),
        Fault::TooManyRequests { retry_after: 1 },
        Fault::TimeOut(Duration::from_millis(200)),
    ];
    let mut faults = of_any.to_vec();
    if sent.is_write() {
        faults.extend(of_a_write);
    } else if sent.is_list() || sent.is_watch() {
        faults.extend(of_a_list);
    }
    faults[random.random_range(0..faults.len())]
}

async fn live_through(seed: u64) -> usize {
    let cluster = Cluster::for_test(&format!("api-faults-{seed}")).await;
    let operator = Setup { faults: faults(seed), wait_until_ready: false, ..Setup::default() };
    let operator = cluster.start_operator_with(operator).await;
    let context = format!("seed {seed}");

    cluster.apply_quickly("office", json!({ "usageLimit": 3 })).await;
    let issued = cluster.ready("office").await;
    cluster.delete_secret("office").await;
    let again = cluster.status_when("office", "issued again", |status| status.digest != issued.digest).await;
    assert_eq!((&again.id, again.expires), (&issued.id, issued.expires), "{context}");
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    cluster.status_when("office", "revoked", |status| status.state == Some(State::Revoked)).await;

    let (busiest, object) = operator.attempts.busiest_second();
    assert!(busiest <= 10, "{context}: {busiest} requests within a second on {object}");
    operator.stop().await;

    // The result is right: a controller without faults has nothing to do.
    let healthy = cluster.start_operator().await;
    let status = cluster.ready("office").await;
    assert_eq!(status.digest, Some(digest(&cluster.value("office", "setup-key").await)), "{context}");
    assert_eq!(says(&status, "Valid"), "False Revoked", "{context}");
    let secrets = cluster.secrets().list(&Default::default()).await.unwrap();
    assert_eq!(secrets.items.len(), 1, "{context}");
    healthy.stop().await;
    busiest
}

#[tokio::test(flavor = "multi_thread")]
async fn api_faults() {
    let busiest: Vec<usize> = stream::iter(0..SEEDS).map(live_through).buffer_unordered(AT_ONCE).collect().await;
    println!("api_faults: {SEEDS} seeds; at most {} requests per second and object", busiest.iter().max().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_asks_to_be_left_alone_is() {
    let cluster = Cluster::for_test("retry_after").await;
    let faults = Faults::by(|_, number| (number == Some(0)).then_some(Fault::TooManyRequests { retry_after: 3 }));
    let operator = cluster.start_operator_among(faults).await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    let tries = operator.attempts.secret_creations();
    assert_eq!(tries.len(), 2, "{:#?}", operator.attempts);
    let pause = tries[1] - tries[0];
    assert!(pause >= Duration::from_secs(3), "tried again after {pause:?}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_holds_up_one_key_for_ten_seconds_and_no_other() {
    let cluster = Cluster::for_test("hang").await;
    let faults = Faults::by(|_, number| (number == Some(0)).then_some(Fault::TimeOut(Duration::from_secs(3600))));
    let operator = cluster.start_operator_among(faults).await;
    cluster.apply("first", "");
    wait_blindly().await;
    let started = std::time::Instant::now();
    cluster.apply("second", "");
    cluster.ready("second").await;
    assert!(started.elapsed() < Duration::from_secs(5), "the second key waited {:?}", started.elapsed());
    cluster.ready("first").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_ever_new_words_is_no_hot_loop() {
    let cluster = Cluster::for_test("new_words").await;
    let refuse = |sent: &Sent, _| sent.path.ends_with("/secrets").then_some(Fault::Refusal);
    let faults = Faults::by(move |sent, number| number.and_then(|_| refuse(sent, number)));
    let operator = cluster.start_operator_among(faults).await;
    cluster.apply("office", "");
    cluster.status_when("office", "refused", |status| says(status, "Ready") == "False SecretRefused").await;
    // Each refusal has a new message. Each report of one is written and comes back through the watch.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (busiest, object) = operator.attempts.busiest_second();
    assert!(busiest <= 10, "{busiest} requests within a second on {object}");
    operator.stop().await;
}
