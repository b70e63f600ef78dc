//! Expiry, to the second.

use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::json;
use setupkey_operator::{
    api::{State, Timestamp},
    cluster::Clock,
};

use crate::harness::{Cluster, TestClock, eventually, says};

#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_shown_within_a_second() {
    let cluster = Cluster::for_test("expiry").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "expiresIn: 24h");
    let issued = cluster.ready("office").await;
    let expires = issued.expires.unwrap();
    operator.stop().await;

    let clock = TestClock::reading(expires.moment() - chrono::Duration::seconds(6));
    let operator = cluster.start_operator_at(clock.clone()).await;
    // Any change of the key cancels its timer, so the timer must be set again.
    cluster.kubectl_ok(&["annotate", "sk", "office", "note=x"], "");
    assert_eq!(cluster.ready("office").await.state, Some(State::Valid), "it expired before its moment");
    let expired = cluster.status_when("office", "expired", |status| status.state == Some(State::Expired)).await;
    let late = clock.now() - expires.moment();
    assert!(late <= chrono::Duration::seconds(1), "shown {late} after the moment");
    assert!(late >= chrono::Duration::zero(), "shown {late} before the moment");
    assert_eq!(expired.expires, Some(expires));
    assert_eq!(says(&expired, "Valid"), "False Expired");
    assert_eq!(says(&expired, "Ready"), "True Reconciled");
    cluster.event("office", "Expired").await;
    assert_eq!(operator.requests.writes().len(), 1, "{:#?}", operator.requests.writes());
    assert_eq!(cluster.value("office", "setup-key").await.len(), 36, "running pods keep their Secret");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_while_the_operator_was_down() {
    let cluster = Cluster::for_test("expired_down").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "expiresIn: 24h");
    let issued = cluster.ready("office").await;
    operator.stop().await;

    let later = TestClock::reading(issued.expires.unwrap().moment() + chrono::Duration::hours(5));
    let operator = cluster.start_operator_at(later).await;
    let expired = cluster.status_when("office", "expired", |status| status.state == Some(State::Expired)).await;
    assert_eq!(expired.expires, issued.expires);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_counts_from_the_moment_of_issue() {
    let cluster = Cluster::for_test("issued_late").await;
    cluster.apply("office", "expiresIn: 24h");
    // The operator first reconciles the key a day after its creation.
    let later = TestClock::reading(chrono::Utc::now() + chrono::Duration::hours(24));
    let operator = cluster.start_operator_at(later.clone()).await;
    let issued = cluster.ready("office").await;
    assert_eq!(issued.state, Some(State::Valid));
    let left = issued.expires.unwrap().moment() - later.now();
    assert!(left > chrono::Duration::from_std(Duration::from_secs(23 * 3600 + 3500)).unwrap(), "{left}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_clock_follows_steps_of_the_wall_clock() {
    let cluster = Cluster::for_test("clock_steps").await;
    let clock = TestClock::default();
    let operator = cluster.start_operator_at(clock.clone()).await;
    cluster.apply("office", "expiresIn: 8760h"); // far beyond the longest timer
    cluster.apply("near", "expiresIn: 24h");
    let issued = cluster.ready("office").await;
    let near = cluster.ready("near").await;

    // The clock steps to half an hour before the expiry, and the controller sleeps until then. The clock goes back
    // meanwhile, and nothing may happen.
    clock.step(near.expires.unwrap().moment() - clock.now() - chrono::Duration::minutes(30));
    tokio::time::sleep(Duration::from_secs(1)).await;
    clock.step(-chrono::Duration::hours(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.ready("near").await.state, Some(State::Valid), "the clock went back");
    // Two steps of an hour pass the expiry.
    clock.step(chrono::Duration::hours(1));
    clock.step(chrono::Duration::hours(1));
    let stepped = std::time::Instant::now();
    cluster.status_when("near", "expired", |status| status.state == Some(State::Expired)).await;
    assert!(stepped.elapsed() < Duration::from_secs(2), "noticed after {:?}", stepped.elapsed());
    assert_eq!(cluster.ready("office").await.state, Some(State::Valid));

    // A year later, the clock steps while the controller sleeps.
    clock.step(issued.expires.unwrap().moment() - clock.now() - chrono::Duration::milliseconds(1500));
    let waiting = std::time::Instant::now();
    cluster.status_when("office", "expired", |status| status.state == Some(State::Expired)).await;
    assert!(waiting.elapsed() > Duration::from_millis(1400), "expired {:?} after the step", waiting.elapsed());
    assert!(waiting.elapsed() < Duration::from_secs(4), "expired {:?} after the step", waiting.elapsed());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_clock_shows_a_thousand_expiries_of_one_second() {
    const KEYS: usize = 1000;
    let cluster = Cluster::for_test("many_expire").await;
    let operator = cluster.start_operator().await;
    let names: Vec<_> = (0..KEYS).map(|number| format!("key-{number}")).collect();
    stream::iter(&names).for_each_concurrent(32, |name| cluster.apply_quickly(name, json!({}))).await;
    let in_state = |state: State| {
        let cluster = &cluster;
        move || async move {
            let keys = cluster.keys().list(&Default::default()).await.unwrap();
            let of_state = keys.items.iter().filter(|key| key.status.as_ref().is_some_and(|s| s.state == Some(state)));
            (of_state.count() == KEYS).then_some(())
        }
    };
    eventually("all keys to be issued", in_state(State::Valid)).await;
    let moment = chrono::Utc::now() + chrono::Duration::seconds(45);
    let expires = Timestamp::from(moment);
    stream::iter(&names)
        .for_each_concurrent(32, |name| cluster.patch_status(name, json!({ "expires": expires })))
        .await;
    assert!(chrono::Utc::now() < expires.moment(), "the machine is too slow for this test");
    eventually("all keys to expire", in_state(State::Expired)).await;
    let early = cluster.keys().list(&Default::default()).await.unwrap().items.into_iter().any(|key| {
        let conditions = key.status.unwrap().conditions;
        let valid = conditions.into_iter().find(|condition| condition.type_ == "Valid").unwrap();
        Timestamp::from(&valid.last_transition_time) < expires
    });
    assert!(!early, "a key expired before its moment");
    operator.stop().await;
}
