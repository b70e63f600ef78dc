//! How Argo CD and Flux judge SetupKeys and authorities, with their own code: Argo CD's Lua scripts in a real interpreter, and kstatus
//! itself. Both judge objects from the API server.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use chrono::Utc;
use mlua::{Lua, LuaSerdeExt};
use serde_json::{Value, json};
use setupkey_operator::api::{State, Timestamp, metadata::ROTATE_ANNOTATION};

use crate::harness::{Cluster, TestClock, eventually, repository, says, tool};

/// The kinds with a health check.
const KINDS: [&str; 3] = ["SetupKey", "Authority", "ClusterAuthority"];

fn customizations(kind: &str) -> PathBuf {
    repository().join("gitops/argocd/resource_customizations/setupkey.dev").join(kind)
}

fn yaml(path: &PathBuf) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Runs one of the scripts of its kind as Argo CD does, with the object in the variable `obj`.
fn run_script(script: &str, object: &Value) -> Value {
    let lua = Lua::new();
    lua.globals().set("obj", lua.to_value(object).unwrap()).unwrap();
    let kind = object["kind"].as_str().unwrap();
    let text = std::fs::read_to_string(customizations(kind).join(script)).unwrap();
    let result: mlua::Value = lua.load(text).eval().unwrap_or_else(|error| panic!("{script}: {error}"));
    lua.from_value(result).unwrap()
}

fn argo_cd_health(object: &Value) -> (String, String) {
    let health = run_script("health.lua", object);
    (health["status"].as_str().unwrap().to_owned(), health["message"].as_str().unwrap().to_owned())
}

#[test]
fn argo_cd_health_is_as_its_test_file_says() {
    for (kind, least) in KINDS.into_iter().zip([11, 5, 5]) {
        let tests = yaml(&customizations(kind).join("health_test.yaml"));
        let tests = tests["tests"].as_array().unwrap();
        assert!(tests.len() >= least, "{kind}");
        for test in tests {
            let input = test["inputPath"].as_str().unwrap();
            let (status, message) = argo_cd_health(&yaml(&customizations(kind).join(input)));
            assert_eq!(status, test["healthStatus"]["status"].as_str().unwrap(), "{kind}: {input}");
            assert_eq!(message, test["healthStatus"]["message"].as_str().unwrap(), "{kind}: {input}");
        }
    }
}

#[test]
fn argo_cd_actions_are_as_their_test_file_says() {
    let folder = customizations("SetupKey").join("actions");
    let tests = yaml(&folder.join("action_test.yaml"));
    let list = |field: &str| tests[field].as_array().filter(|tests| !tests.is_empty()).expect(field);
    for test in list("discoveryTests") {
        let offered = run_script("actions/discovery.lua", &yaml(&folder.join(test["inputPath"].as_str().unwrap())));
        let actions = test["result"].as_array().unwrap();
        assert_eq!(actions.len(), offered.as_object().unwrap().len(), "{offered}");
        for action in actions {
            let name = action["name"].as_str().unwrap();
            assert_eq!(offered[name]["disabled"], action["disabled"], "{name}");
        }
    }
    for test in list("actionTests") {
        let action = test["action"].as_str().unwrap();
        let input = yaml(&folder.join(test["inputPath"].as_str().unwrap()));
        let expected = yaml(&folder.join(test["expectedOutputPath"].as_str().unwrap()));
        let output = run_script(&format!("actions/{action}/action.lua"), &input);
        assert_eq!(output["spec"], expected["spec"], "{action}");
        let (mut annotations, expected) =
            (output["metadata"]["annotations"].clone(), &expected["metadata"]["annotations"]);
        if action == "rotate" {
            let requested = std::mem::replace(&mut annotations[ROTATE_ANNOTATION], expected[ROTATE_ANNOTATION].clone());
            let requested: Timestamp = serde_json::from_value(requested).unwrap();
            assert!((Utc::now() - requested.moment()).num_seconds().abs() < 60, "{requested} is not now");
        }
        assert_eq!(annotations, *expected, "{action}");
    }
}

/// The verdict of kstatus on an object.
fn kstatus(object: &Value) -> String {
    let mut command = Command::new(tool("kstatus"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{object}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    said.split('\t').next().unwrap().to_owned()
}

/// An object, and the verdicts of Argo CD and Flux on it.
fn verdicts(cluster: &Cluster, kind: &str, name: &str) -> (Value, String, String) {
    let json = cluster.kubectl_ok(&["get", kind, name, "-o", "json"], "");
    let object: Value = serde_json::from_str(&json).unwrap();
    let (argo_cd, flux) = (argo_cd_health(&object).0, kstatus(&object));
    (object, argo_cd, flux)
}

/// Checks the verdicts on a key.
fn check(cluster: &Cluster, name: &str, argo_cd: &str, flux: &str) {
    let (object, argo, kstatus) = verdicts(cluster, "sk", name);
    assert_eq!((argo.as_str(), kstatus.as_str()), (argo_cd, flux), "{name}: {object}");
}

/// Every state, from a running operator, and the verdict of each tool.
#[tokio::test(flavor = "multi_thread")]
async fn argo_cd_and_flux_see_each_live_state_as_it_is() {
    let cluster = Cluster::for_test("gitops_health").await;
    cluster.apply("fresh", "");
    check(&cluster, "fresh", "Progressing", "InProgress");

    let operator = cluster.start_operator().await;
    for (name, spec) in [
        ("valid", ""),
        ("revoked", "revoked: true"),
        ("overused", "usageLimit: 3"),
        ("used-one-off", "type: one-off"),
        ("expired", "expiresIn: 24h"),
    ] {
        cluster.apply(name, spec);
        cluster.ready(name).await;
    }
    for (name, used) in [("overused", 3), ("used-one-off", 1)] {
        cluster.patch_status(name, json!({ "usedTimes": used })).await;
        cluster.status_when(name, "overused", |status| status.state == Some(State::Overused)).await;
    }
    cluster.kubectl_ok(&["create", "secret", "generic", "taken"], "");
    cluster.apply("taken", "");
    cluster.status_when("taken", "stalled", |status| !says(status, "Stalled").is_empty()).await;
    check(&cluster, "valid", "Healthy", "Current");
    check(&cluster, "revoked", "Suspended", "Current");
    check(&cluster, "overused", "Degraded", "Current");
    check(&cluster, "used-one-off", "Healthy", "Current");
    check(&cluster, "taken", "Degraded", "Failed");
    operator.stop().await;

    // A change that no controller has reconciled yet.
    cluster.patch_spec("valid", json!({ "revoked": true })).await;
    check(&cluster, "valid", "Progressing", "InProgress");

    let expires = cluster.keys().get("expired").await.unwrap().status.unwrap().expires.unwrap();
    let later = TestClock::reading(expires.moment() + chrono::Duration::seconds(1));
    let operator = cluster.start_operator_at(later).await;
    cluster.status_when("expired", "expired", |status| status.state == Some(State::Expired)).await;
    check(&cluster, "expired", "Degraded", "Current");
    operator.stop().await;
}

/// The action of Argo CD begins the next revision. Neither tool sees the key in trouble meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn argo_cd_rotates_a_key_that_stays_healthy() {
    let cluster = Cluster::for_test("argo_cd_rotates").await;
    // A request counts if it is later than the issue, in whole seconds.
    let clock = TestClock::reading(Utc::now() - chrono::Duration::seconds(2));
    let operator = cluster.start_operator_at(clock.clone()).await;
    for name in ["office", "frozen"] {
        cluster.apply(name, "expiresIn: 24h, rotation: {renewBefore: 2h, overlap: 1h}");
        cluster.ready(name).await;
    }
    let (object, ..) = verdicts(&cluster, "sk", "office");
    let rotated = run_script("actions/rotate/action.lua", &object);
    cluster.kubectl_ok(&["replace", "-f", "-"], &rotated.to_string());
    eventually("the second revision", || async {
        let (object, argo_cd, flux) = verdicts(&cluster, "sk", "office");
        assert_eq!((argo_cd.as_str(), flux.as_str()), ("Healthy", "Current"), "{object}");
        (object["status"]["revision"] == 2).then_some(())
    })
    .await;
    let status = cluster.keys().get("office").await.unwrap().status.unwrap();
    assert_eq!(status.previous.len(), 1);
    clock.step(chrono::Duration::hours(2));
    cluster.status_when("office", "without a replaced key", |status| status.previous.is_empty()).await;
    check(&cluster, "office", "Healthy", "Current");

    cluster.patch_secret("frozen", json!({ "immutable": true })).await;
    clock.step(chrono::Duration::hours(20) + chrono::Duration::seconds(5));
    cluster.status_when("frozen", "stalled", |status| says(status, "Stalled") == "True RotationFailed").await;
    check(&cluster, "frozen", "Degraded", "Failed");
    operator.stop().await;
}

/// An authority that waits for a person is degraded, and so are its keys only where a person must act on them.
#[tokio::test(flavor = "multi_thread")]
async fn argo_cd_and_flux_see_what_waits_for_netbird_as_in_progress() {
    let cluster = Cluster::for_test("authority_health").await;
    let settles = async |kind: &str, name: &str, reason: &str, argo_cd: &str, flux: &str| {
        eventually(&format!("{kind} {name} to be {reason}"), || async {
            let (object, argo, kstatus) = verdicts(&cluster, kind, name);
            let conditions = object["status"]["conditions"].as_array()?.clone();
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
            let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            (seen && ready["reason"] == reason).then(|| {
                assert_eq!((argo.as_str(), kstatus.as_str()), (argo_cd, flux), "{object}");
            })
        })
        .await;
    };
    let authority = |url: &str| {
        let object = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
            "spec": { "netbird": { "url": url, "tokenSecretRef": { "name": "token" } } },
        });
        cluster.kubectl_ok(&["apply", "-f", "-"], &object.to_string());
    };
    authority("https://netbird.invalid");
    let (_, argo, kstatus) = verdicts(&cluster, "ska", "netbird");
    assert_eq!((argo.as_str(), kstatus.as_str()), ("Progressing", "InProgress"));

    let operator = cluster.start_operator().await;
    cluster.apply("lost", "authorityRef: {name: another}");
    cluster.apply("office", "authorityRef: {name: netbird}");
    settles("sk", "lost", "AuthorityNotFound", "Degraded", "Failed").await;
    settles("ska", "netbird", "TokenMissing", "Degraded", "Failed").await;
    settles("sk", "office", "AuthorityNotReady", "Progressing", "InProgress").await;
    cluster.kubectl_ok(&["create", "secret", "generic", "token", "--from-literal=NB_API_KEY=nbp_any"], "");
    settles("ska", "netbird", "Unreachable", "Progressing", "InProgress").await;
    authority("https://127.0.0.1");
    settles("ska", "netbird", "HostRefused", "Degraded", "Failed").await;
    operator.stop().await;
}
