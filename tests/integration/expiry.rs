//! Expiry, to the second.

use std::time::Duration;

use setupkey_operator::{api::State, controller::Clock};

use crate::harness::{Cluster, TestClock, says};

#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_shown_within_a_second() {
    let cluster = Cluster::for_test("expiry").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "expiresIn: 24h");
    let issued = cluster.ready("office").await;
    let expires = issued.expires.unwrap();
    operator.stop().await;

    let clock = TestClock::reading(expires.instant() - chrono::Duration::milliseconds(2500));
    let operator = cluster.start_operator_at(clock.clone()).await;
    // Anything that happens to the key takes the timer away; it must come back.
    cluster.kubectl_ok(&["annotate", "sk", "office", "note=x"], "");
    assert_eq!(cluster.ready("office").await.state, Some(State::Valid), "it expired before its moment");
    let expired = cluster.status_when("office", "expired", |status| status.state == Some(State::Expired)).await;
    let late = clock.now() - expires.instant();
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

    let later = TestClock::reading(issued.expires.unwrap().instant() + chrono::Duration::hours(5));
    let operator = cluster.start_operator_at(later).await;
    let expired = cluster.status_when("office", "expired", |status| status.state == Some(State::Expired)).await;
    assert_eq!(expired.expires, issued.expires);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_counts_from_the_moment_of_issue() {
    let cluster = Cluster::for_test("issued_late").await;
    cluster.apply("office", "expiresIn: 24h");
    // The operator comes to it a day after it was created.
    let later = TestClock::reading(chrono::Utc::now() + chrono::Duration::hours(24));
    let operator = cluster.start_operator_at(later.clone()).await;
    let issued = cluster.ready("office").await;
    assert_eq!(issued.state, Some(State::Valid));
    let left = issued.expires.unwrap().instant() - later.now();
    assert!(left > chrono::Duration::from_std(Duration::from_secs(23 * 3600 + 3500)).unwrap(), "{left}");
    operator.stop().await;
}
