//! The log as it is collected in production: each line is a JSON object, and each event of a key is one line.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::{Value, json};
use setupkey_operator::api::State;

use crate::{
    harness::{Cluster, says, wait_blindly},
    process::Process,
};

/// The chart's flags, except for a free port.
const FLAGS: [&str; 6] = ["--log-format", "json", "--log", "info,kube_runtime=warn", "--health-address", "127.0.0.1:0"];

/// Level and reason of each log line about a key, by the name of the key.
async fn lines_about_keys(cluster: &Cluster, log: &str) -> BTreeMap<String, Vec<String>> {
    let keys = cluster.keys().list(&Default::default()).await.unwrap();
    let uids: BTreeMap<_, _> = keys.iter().map(|key| (key.name_any(), key.uid().unwrap())).collect();
    let mut about: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        let text = |field: &str| object[field].as_str().map(str::to_owned);
        assert!(["timestamp", "level", "message"].iter().all(|field| text(field).is_some()), "{line}");
        let Some((name, _)) = uids.iter().find(|(name, uid)| {
            text("name").as_ref() == Some(name) || line.contains(uid.as_str()) || line.contains(&format!("\"{name}\""))
        }) else {
            continue;
        };
        assert_eq!(text("namespace").as_ref(), Some(&cluster.namespace), "{line}");
        assert_eq!(text("name").as_ref(), Some(name), "{line}");
        assert_eq!(text("uid").as_ref(), Some(&uids[name]), "{line}");
        let said = format!("{} {}", text("level").unwrap(), text("reason").unwrap_or_default());
        about.entry(name.clone()).or_default().push(said);
    }
    about
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transition_is_one_json_line_and_a_settled_key_is_silent() {
    let cluster = Cluster::for_test("log_lines").await;
    let folder = tempfile::tempdir().unwrap();
    let mut first = Process::start(&cluster, folder.path(), "first", &FLAGS);

    cluster.kubectl_ok(&["create", "secret", "generic", "taken", "--from-literal=password=theirs"], "");
    cluster.apply("taken", "");
    cluster.status_when("taken", "in conflict", |status| says(status, "Ready") == "False SecretConflict").await;
    cluster.apply("office", "usageLimit: 3");
    cluster.ready("office").await;
    for (revoked, state) in [(true, State::Revoked), (false, State::Valid)] {
        cluster.patch_spec("office", json!({ "revoked": revoked })).await;
        cluster.status_when("office", "in its new state", |status| status.state == Some(state)).await;
    }
    // The process has the clock of the machine, and a key lives at least a day. So the test moves the expiry.
    cluster.patch_status("office", json!({ "expires": "2026-01-01T00:00:00Z" })).await;
    cluster.status_when("office", "expired", |status| status.state == Some(State::Expired)).await;
    // A lasting conflict is retried again and again, and logged once. A status write for another reason logs nothing.
    for name in ["office", "taken"] {
        cluster.patch_spec(name, json!({ "autoGroups": ["printers"] })).await;
        cluster.status_when(name, "reconciled", |_| true).await;
    }
    wait_blindly().await;
    cluster.delete_secret("taken").await;
    cluster.ready("taken").await;
    look_at_all(&cluster).await;
    first.stop().await;
    let told = lines_about_keys(&cluster, &first.log()).await;
    let told: Vec<_> = told.iter().map(|(name, lines)| (name.as_str(), lines.join(", "))).collect();
    let office = "INFO Issued, INFO Revoked, INFO Unrevoked, WARN Expired".to_owned();
    assert_eq!(told, [("office", office), ("taken", "WARN SecretConflict, INFO Issued".to_owned())]);

    let mut second = Process::start(&cluster, folder.path(), "second", &FLAGS);
    second.logs("the caches are filled").await;
    look_at_all(&cluster).await;
    second.stop().await;
    assert_eq!(lines_about_keys(&cluster, &second.log()).await, BTreeMap::new(), "settled keys over a restart");
}

/// Gives the operator a reason to reconcile each key, and time to do so.
async fn look_at_all(cluster: &Cluster) {
    let touch = format!("example.com/touched={:x}", rand::random::<u32>());
    cluster.kubectl_ok(&["annotate", "setupkeys", "--all", "--overwrite", &touch], "");
    wait_blindly().await;
}
