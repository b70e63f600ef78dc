//! Alerts and the dashboard query metrics that exist, the alerts fire when they should, and events name the objects that
//! they are about.

use std::{collections::BTreeSet, process::Command, time::Duration};

use serde_json::{Value, json};
use setupkey_operator::api::State;

use crate::{
    chart::template_ok,
    harness::{Cluster, TestClock, eventually, repository, tool},
};

/// The alert rules as the chart renders them.
fn alerts() -> Value {
    let rendered =
        template_ok(&["--show-only", "templates/monitoring.yaml", "--set", "metrics.prometheusRule.enabled=true"]);
    let rule: Value = serde_yaml::from_str(&rendered).unwrap();
    rule["spec"].clone()
}

fn text_of(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

fn rules() -> Vec<Value> {
    let groups = alerts()["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn every_alert_is_tested_and_explained() {
    let (tests, page) = (text_of("tests/alerts/alerts_test.yaml"), text_of("docs/operations.md"));
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
        assert!(page.contains(&format!("\n| {name} | ")), "{name} is in no table");
    }
}

#[test]
fn alerts_fire_when_they_should() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("alerts.yaml"), serde_yaml::to_string(&alerts()).unwrap()).unwrap();
    let tests = folder.path().join("alerts_test.yaml");
    std::fs::copy(repository().join("tests/alerts/alerts_test.yaml"), &tests).unwrap();
    let output = Command::new(tool("promtool")).args(["test", "rules"]).arg(&tests).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

/// What the names of the metrics of authorities begin with.
pub const ABOUT_AUTHORITIES: &str = "setupkey_authority_";

/// What the dashboard and the alerts ask Prometheus.
pub fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text_of("charts/setupkey-operator/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut queries: Vec<String> = queries.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let of_dashboard = queries.len();
    assert!(of_dashboard > 10);
    queries.extend(rules().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()));
    assert!(queries.len() > of_dashboard, "there are no alerts");
    queries
}

/// The names of the operator's metrics in a text.
pub fn metrics_in(text: &str) -> BTreeSet<String> {
    let word = regex::Regex::new(r"setupkey_[a-z_]+").unwrap();
    word.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

/// Each metric is in a table of the page for operators.
fn assert_documented(text: &str) {
    let page = text_of("docs/operations.md");
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        let names = [format!("`{name}`"), format!("`{name}_total`")];
        let mut rows = page.lines().filter(|line| line.starts_with("| `setupkey_"));
        assert!(rows.any(|row| names.iter().any(|name| row.contains(name))), "{name} is in no table");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_is_about_a_metric_that_is_exposed() {
    let cluster = Cluster::for_test("queries").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "usageLimit: 3, expiresIn: 24h, rotation: {renewBefore: 1h}");
    let issued = cluster.ready("office").await.issued_at.unwrap();
    cluster.request_rotation("office", issued.plus_seconds(1)).await;
    cluster.status_when("office", "rotated", |status| status.previous.len() == 1).await;
    cluster.patch_status("office", json!({ "usedTimes": 1, "lastUsed": "2026-11-24T06:00:00Z" })).await;
    cluster.status_when("office", "used", |status| status.used_times == 1).await;
    let shows_the_use = || operator.metrics.expose().unwrap().contains("setupkey_last_used_timestamp_seconds{");
    eventually("the metrics to show the use", || async { shows_the_use().then_some(()) }).await;
    let text = operator.metrics.expose().unwrap();
    assert_documented(&text);
    let mut exposed = metrics_in(&text);
    let service = setupkey_operator::enrollment::Metrics::default();
    service.enrolled("admitted");
    service.admitted_within(Duration::from_millis(9));
    exposed.extend(metrics_in(&service.expose().unwrap()));
    let queries = queries();
    // Those about authorities need one, which is in `netbird::metrics`.
    for query in queries.iter().filter(|query| !query.contains(ABOUT_AUTHORITIES)) {
        let asked = metrics_in(query);
        assert!(!asked.is_empty(), "{query}");
        assert!(asked.is_subset(&exposed), "{query} asks for {:?}", asked.difference(&exposed));
    }
    // Prometheus can parse each query.
    let expressions = queries.iter().enumerate().map(|(number, query)| {
        let query = query.replace("$__rate_interval", "5m").replace("$namespace", ".*");
        json!({ "record": format!("query:{number}"), "expr": query })
    });
    let rules = json!({ "groups": [{ "name": "queries", "rules": expressions.collect::<Vec<_>>() }] });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yaml");
    std::fs::write(&file, rules.to_string()).unwrap();
    let output = Command::new(tool("promtool")).args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    operator.stop().await;
}

/// The kind and name of what an event is related to, which must be in this namespace.
pub async fn related(cluster: &Cluster, name: &str, reason: &str) -> String {
    let event = cluster.event(name, reason).await;
    let related = event.related.unwrap_or_else(|| panic!("the event {reason} of {name} has nothing related"));
    assert_eq!(related.namespace.as_ref(), Some(&cluster.namespace), "{name}: {reason}");
    let kind = related.kind.unwrap();
    let version = if kind == "Secret" { "v1" } else { "setupkey.dev/v1alpha1" };
    assert_eq!(related.api_version.as_deref(), Some(version), "{name}: {reason}");
    format!("{kind} {}", related.name.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_name_its_secret() {
    let cluster = Cluster::for_test("related_secret").await;
    let clock = TestClock::default();
    let operator = cluster.start_operator_at(clock.clone()).await;
    let rotation = "expiresIn: 24h, rotation: {renewBefore: 2h, overlap: 1h}";
    for name in ["office", "revoked", "frozen"] {
        cluster.apply(name, &format!("{rotation}, secret: {{name: of-{name}}}"));
        cluster.ready(name).await;
    }
    let issued = cluster.ready("office").await.issued_at.unwrap();
    cluster.patch_spec("revoked", json!({ "revoked": true })).await;
    cluster.status_when("revoked", "revoked", |status| status.state == Some(State::Revoked)).await;
    cluster.patch_secret("of-frozen", json!({ "immutable": true })).await;
    let shows = async |name: &str, reason: &str| {
        assert_eq!(related(&cluster, name, reason).await, format!("Secret of-{name}"), "{reason}");
    };
    shows("office", "Issued").await;
    cluster.request_rotation("office", issued.plus_seconds(1)).await;
    shows("office", "Rotated").await;
    clock.step(chrono::Duration::hours(2));
    shows("office", "PreviousKeyEnded").await;
    clock.step(chrono::Duration::hours(20) + chrono::Duration::seconds(5));
    shows("revoked", "RotationSkipped").await;
    shows("frozen", "RotationFailed").await;

    // The events of the other API group, which kubectl shows, say the same.
    let events = cluster.kubectl_ok(&["events", "--for", "setupkeys.setupkey.dev/office", "--output", "json"], "");
    let events: Value = serde_json::from_str(&events).unwrap();
    let items = events["items"].as_array().unwrap();
    assert!(items.len() >= 3, "{items:#?}");
    for event in items {
        let related =
            json!({ "apiVersion": "v1", "kind": "Secret", "namespace": cluster.namespace, "name": "of-office" });
        assert_eq!(event["related"], related, "{event}");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_about_an_authority_name_it_or_its_token() {
    let cluster = Cluster::for_test("related_authority").await;
    let operator = cluster.start_operator().await;
    let authority = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
        "spec": { "netbird": { "url": "https://netbird.invalid", "tokenSecretRef": { "name": "token" } } },
    });
    cluster.kubectl_ok(&["apply", "-f", "-"], &authority.to_string());
    cluster.apply("lost", "authorityRef: {name: another}");
    cluster.apply("office", "authorityRef: {name: netbird}");
    assert_eq!(related(&cluster, "netbird", "TokenMissing").await, "Secret token");
    assert_eq!(related(&cluster, "lost", "AuthorityNotFound").await, "Authority another");
    assert_eq!(related(&cluster, "office", "AuthorityNotReady").await, "Authority netbird");
    operator.stop().await;
}
