//! What Prometheus sees.

use serde_json::json;
use setupkey_operator::api::{State, Timestamp};

use crate::harness::{Cluster, Setup, TestClock, eventually, says};

/// The value of a series, which is given as in the text format.
fn value(text: &str, series: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_is_true_of_each_key() {
    let cluster = Cluster::for_test("metrics").await;
    let clock = TestClock::default();
    let operator = cluster.start_operator_at(clock.clone()).await;
    cluster.apply("office", "usageLimit: 3, expiresIn: 24h");
    cluster.apply("any", "");
    let status = cluster.ready("office").await;
    cluster.ready("any").await;
    cluster.patch_status("office", json!({ "usedTimes": 2, "lastUsed": "2026-11-24T06:00:00Z" })).await;
    let namespace = &cluster.namespace;
    let labels = format!("namespace=\"{namespace}\",name=\"office\"");
    let expose = || operator.metrics.expose().unwrap();
    let shows = async |series: &str, wanted: Option<&str>| {
        eventually(&format!("{series} to be {wanted:?}"), || async {
            (value(&expose(), series).as_deref() == wanted).then_some(())
        })
        .await;
    };
    shows(&format!("setupkey_used_times{{{labels}}}"), Some("2")).await;
    let text = expose();
    let of = |metric: &str| value(&text, &format!("{metric}{{{labels}}}"));
    let expires = status.expires.unwrap().moment().timestamp().to_string();
    assert_eq!(of("setupkey_expiration_timestamp_seconds"), Some(expires));
    assert_eq!(of("setupkey_usage_limit").as_deref(), Some("3"));
    assert_eq!(of("setupkey_last_used_timestamp_seconds").as_deref(), Some("1795500000"));
    assert_eq!(of("setupkey_ready").as_deref(), Some("1"));
    assert_eq!(of("setupkey_stalled").as_deref(), Some("0"));
    assert_eq!(value(&text, &format!("setupkey_usage_limit{{namespace=\"{namespace}\",name=\"any\"}}")), None);
    let state = |state: &str| format!("setupkey_state{{{labels},state=\"{state}\"}}");
    assert_eq!(value(&text, &state("valid")).as_deref(), Some("1"));
    assert_eq!(value(&text, &state("revoked")).as_deref(), Some("0"));
    assert!(text.ends_with("# EOF\n"));

    cluster.patch_spec("office", json!({ "revoked": true })).await;
    shows(&state("revoked"), Some("1")).await;
    shows(&state("valid"), Some("0")).await;

    // The series of a key disappear with the key.
    cluster.kubectl_ok(&["delete", "sk", "office"], "");
    shows(&format!("setupkey_used_times{{{labels}}}"), None).await;
    assert!(!expose().contains("name=\"office\""));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_revisions_and_count_rotations() {
    let cluster = Cluster::for_test("metrics_revisions").await;
    let clock = TestClock::default();
    let operator = cluster.start_operator_at(clock.clone()).await;
    cluster.apply("office", "expiresIn: 24h, rotation: {renewBefore: 2h, overlap: 3h}");
    cluster.apply("any", "");
    let first = cluster.ready("office").await;
    cluster.ready("any").await;
    let expose = || operator.metrics.expose().unwrap();
    let of = |metric: &str, name: &str| {
        value(&expose(), &format!("{metric}{{namespace=\"{}\",name=\"{name}\"}}", cluster.namespace))
    };
    let shows = async |metric: &str, wanted: Option<&str>| {
        let what = format!("{metric} to be {wanted:?}");
        eventually(&what, || async { (of(metric, "office").as_deref() == wanted).then_some(()) }).await;
    };
    let counts = async |schedule: &str, request: &str| {
        let rotations = |reason: &str| value(&expose(), &format!("setupkey_rotations_total{{reason=\"{reason}\"}}"));
        let what = format!("{schedule} rotations by schedule and {request} on request");
        let are = || (rotations("schedule"), rotations("request"));
        let wanted = (Some(schedule.to_owned()), Some(request.to_owned()));
        eventually(&what, || async { (are() == wanted).then_some(()) }).await;
    };
    let seconds = |moment: Option<Timestamp>| Some(moment.unwrap().moment().timestamp().to_string());
    shows("setupkey_revision", Some("1")).await;
    assert_eq!(of("setupkey_issued_timestamp_seconds", "office"), seconds(first.issued_at));
    assert_eq!(of("setupkey_rotate_at_timestamp_seconds", "office"), seconds(first.rotate_at));
    assert_eq!(of("setupkey_previous_keys", "office"), None);
    assert_eq!(of("setupkey_revision", "any").as_deref(), Some("1"));
    assert_eq!(of("setupkey_rotate_at_timestamp_seconds", "any"), None);
    counts("0", "0").await;

    cluster.request_rotation("office", first.issued_at.unwrap().plus_seconds(1)).await;
    shows("setupkey_revision", Some("2")).await;
    shows("setupkey_previous_keys", Some("1")).await;
    counts("0", "1").await;
    let second = cluster.status_when("office", "rotated", |status| status.revision == Some(2)).await;
    assert!(second.issued_at > first.issued_at);
    assert_eq!(of("setupkey_issued_timestamp_seconds", "office"), seconds(second.issued_at));
    assert_eq!(of("setupkey_rotate_at_timestamp_seconds", "office"), seconds(second.rotate_at));

    // The first key has ended by then, and the second one admits peers a while longer.
    clock.step(chrono::Duration::hours(22));
    shows("setupkey_revision", Some("3")).await;
    shows("setupkey_previous_keys", Some("1")).await;
    counts("1", "1").await;
    clock.step(chrono::Duration::hours(4));
    shows("setupkey_previous_keys", None).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_passes_and_requests_and_hold_no_key() {
    let cluster = Cluster::for_test("metrics_counts").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let status = cluster.ready("office").await;
    cluster.kubectl_ok(&["create", "secret", "generic", "taken"], "");
    cluster.apply("taken", "");
    cluster.status_when("taken", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    let counts = |series: &str| value(&operator.metrics.expose().unwrap(), series).unwrap_or_default();
    eventually("a stalled pass", || async {
        (!counts("setupkey_reconcile_total{result=\"stalled\"}").is_empty()).then_some(())
    })
    .await;
    assert_eq!(counts("setupkey_api_requests_total{verb=\"create\",resource=\"secrets\",code=\"201\"}"), "1");
    assert_eq!(counts("setupkey_api_requests_total{verb=\"create\",resource=\"secrets\",code=\"409\"}"), "1");
    assert_eq!(counts("setupkey_api_requests_total{verb=\"patch\",resource=\"setupkeys/status\",code=\"200\"}"), "2");
    assert_ne!(counts("setupkey_reconcile_total{result=\"settled\"}"), "");
    assert_eq!(counts("setupkey_leader"), "1");
    let text = operator.metrics.expose().unwrap();
    assert!(!text.contains(&cluster.value("office", "setup-key").await[..9]));
    assert!(!text.contains(&status.digest.unwrap()));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_many_keys_are_bounded() {
    let cluster = Cluster::for_test("metrics_bound").await;
    let operator = cluster.start_operator_with(Setup { metrics_max_keys: 2, ..Setup::default() }).await;
    for name in ["a", "b", "c"] {
        cluster.apply_quickly(name, json!({})).await;
        cluster.status_when(name, "valid", |status| status.state == Some(State::Valid)).await;
    }
    eventually("the third key to be left out", || async {
        let text = operator.metrics.expose().unwrap();
        (value(&text, "setupkey_series_omitted").as_deref() == Some("1")).then_some(())
    })
    .await;
    let text = operator.metrics.expose().unwrap();
    assert!(text.contains("name=\"b\"") && !text.contains("name=\"c\""), "{text}");
    operator.stop().await;
}
