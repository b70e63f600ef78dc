use chrono::TimeDelta;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use setupkey_operator::{
    api::{ClusterAuthority, Timestamp},
    key::KeyId,
};

use super::{
    Person, ago, ahead, issued,
    workloads::{has_in_variable, mounts, pod_of},
};
use crate::harness::{Cluster, digest, entry};

const ID: &str = "dc2dqmtqmd2tbgsp86m0";

/// An event about this object, of the time given.
fn event(cluster: &Cluster, name: &str, reason: &str, of: TimeDelta, regarding: &Value) {
    let time = ago(of).to_string().replace('Z', ".000000Z");
    let mut object = json!({ "kind": "SetupKey", "name": "office", "namespace": cluster.namespace });
    json_patch::merge(&mut object, regarding);
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": name }, "eventTime": time,
        "reason": reason, "action": "Test", "type": "Normal", "note": "It took place.", "regarding": object,
        "reportingController": "setupkey-operator", "reportingInstance": "test",
    });
    cluster.kubectl_ok(&["create", "-f", "-"], &event.to_string());
}

/// The key of the sample in docs/plugin.md, with everything around it. The test cluster has no authority, so the key is its own.
pub async fn sample(test: &str) -> Cluster {
    let cluster = Cluster::for_test(test).await;
    let previous = json!({
        "id": KeyId::from_random_bytes([7; 20]).to_string(), "digest": digest("previous"), "key": "3E1F2****",
        "expires": ahead(TimeDelta::days(5)), "admitsUntil": ahead(TimeDelta::hours(21)), "usedTimes": 40, "usageLimit": 50,
    });
    let spec = json!({
        "usageLimit": 50, "expiresIn": "2160h", "autoGroups": ["office", "printers"],
        "rotation": { "renewBefore": "168h" }, "secret": { "name": "netbird-setup-key", "aliases": ["NB_SETUP_KEY"] },
    });
    let status = json!({
        "id": ID, "key": "9B2C1****", "revision": 3, "issuedAt": ago(TimeDelta::days(2)),
        "expires": ahead(TimeDelta::days(88)), "rotateAt": ahead(TimeDelta::days(81)), "previous": [previous],
        "usedTimes": 7, "usageLimit": 50, "lastUsed": ago(TimeDelta::minutes(12)),
        "secret": {
            "name": "netbird-setup-key", "key": "setup-key", "resourceVersion": "1", "aliases": ["NB_SETUP_KEY"],
        },
    });
    issued(&cluster, "office", spec, status).await;
    let key = cluster.keys().get("office").await.expect("the key");
    let uid = key.metadata.uid.clone();
    for number in 1..=7 {
        let peer = cluster.create_released_peer(&key, &entry(number)).await;
        let name = peer.metadata.name.expect("a name");
        cluster.see(&name, json!({ "connected": number != 4, "lastSeen": ago(TimeDelta::minutes(1)) })).await;
    }
    let mut earlier = key.clone();
    earlier.metadata.uid = Some("of-an-earlier-key".to_owned());
    cluster.create_released_peer(&earlier, &entry(8)).await;
    pod_of(&cluster, "deployment/agent", mounts("netbird-setup-key")).await;
    pod_of(&cluster, "daemonset/router", mounts("netbird-setup-key")).await;
    pod_of(&cluster, "deployment/other", mounts("other")).await;
    let ours = json!({ "apiVersion": "setupkey.dev/v1alpha1", "uid": uid });
    event(&cluster, "rotated", "Rotated", TimeDelta::days(2), &ours);
    event(&cluster, "earlier", "Issued", TimeDelta::hours(1), &json!({ "uid": "of-an-earlier-key" }));
    event(&cluster, "of-netbird", "Synced", TimeDelta::hours(1), &json!({ "apiVersion": "netbird.io/v1" }));
    event(&cluster, "other", "Issued", TimeDelta::hours(1), &json!({ "name": "other" }));
    cluster
}

/// The status of the key as the API server has it.
async fn moments(cluster: &Cluster, name: &str) -> [Timestamp; 3] {
    let status = cluster.keys().get(name).await.expect("the key").status.expect("a status");
    [status.expires.expect("expires"), status.rotate_at.expect("rotateAt"), status.previous[0].admits_until]
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_status_shows_all_about_a_key() {
    let cluster = sample("plugin-status").await;
    let person = Person::administrator(&cluster);
    let [expires, rotates, ends] = moments(&cluster, "office").await;
    let (day, minute) = (rotates.moment().format("%Y-%m-%d"), ends.moment().format("%Y-%m-%d %H:%M"));
    let expected = format!(
        "\
office  reusable · valid · Ready     authority the cluster itself
  key        9B2C1****  id {ID}  revision 3, issued 2d ago, expires {expires} (88d)
  rotation   {day} (81d), previous 3E1F2**** admits until {minute} (21h)
  uses       7 of 50, last 12m ago        groups  office, printers
  secret     netbird-setup-key: setup-key, NB_SETUP_KEY   read by daemonset/router, deployment/agent
  peers      7 (6 connected)   events  Rotated 2d ago
  findings   none
"
    );
    assert_eq!(person.runs(&["status", "office"]).ok(), expected);
    let coloured = person.runs(&["status", "sk/office", "--color", "always"]);
    assert!(coloured.ok().contains("\u{1b}[32mvalid\u{1b}[0m · \u{1b}[32mReady\u{1b}[0m"), "{coloured:?}");
    assert_eq!(coloured.ok().replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""), expected);
    assert_eq!(person.runs(&["status", "office", "-o", "name"]).ok(), "setupkey.setupkey.dev/office\n");
    let json = person.runs(&["status", "office", "-o", "json"]).json();
    assert_eq!((&json["peers"], &json["notShown"]), (&json!({ "total": 7, "connected": 6 }), &json!({})));
    let readers = json!([
        { "kind": "daemonset", "name": "router", "how": "file" },
        { "kind": "deployment", "name": "agent", "how": "file" },
    ]);
    assert_eq!((&json["readers"], &json["events"][0]["reason"]), (&readers, &json!("Rotated")));
    assert_eq!(json["events"].as_array().map(Vec::len), Some(1));
    let yaml: Value = serde_yaml::from_str(person.runs(&["status", "office", "-o", "yaml"]).ok()).unwrap();
    assert_eq!(yaml, json);

    pod_of(&cluster, "job/migrate", has_in_variable("netbird-setup-key", "NB_SETUP_KEY")).await;
    let found = person.runs(&["status", "office"]);
    let findings = "\
  findings   SK008 not ephemeral, but its Secret is read by a Job: ephemeral: true
             SK009 read as env variable by job/migrate: mount as file, NB_SETUP_KEY_FILE
";
    assert!(found.ok().ends_with(findings), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_status_says_what_a_caller_may_not_see() {
    let cluster = sample("plugin-status-rights").await;
    let [expires, rotates, ends] = moments(&cluster, "office").await;
    let (day, minute) = (rotates.moment().format("%Y-%m-%d"), ends.moment().format("%Y-%m-%d %H:%M"));
    let reader = Person::with_rights(&cluster, "reader", &[("list", "setupkeys.setupkey.dev")]);
    let expected = format!(
        "\
office  reusable · valid · Ready     authority the cluster itself
  key        9B2C1****  id {ID}  revision 3, issued 2d ago, expires {expires} (88d)
  rotation   {day} (81d), previous 3E1F2**** admits until {minute} (21h)
  uses       7 of 50, last 12m ago        groups  office, printers
  secret     netbird-setup-key: setup-key, NB_SETUP_KEY   readers not shown: you may not list pods
  peers      not shown: you may not list peers.setupkey.dev   events  not shown: you may not list events.events.k8s.io
  findings   none; SK008 and SK009 not checked
"
    );
    assert_eq!(reader.runs(&["status", "office"]).ok(), expected);
    let json = reader.runs(&["status", "office", "-o", "json"]).json();
    assert_eq!((&json["readers"], &json["peers"], &json["events"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(json["skipped"], json!(["SK008", "SK009"]));
    assert_eq!(json["notShown"]["readers"], "you may not list pods");
    let guest = Person::with_rights(&cluster, "guest", &[("list", "pods")]);
    assert!(guest.runs(&["status", "office"]).fails().contains("may not get setupkeys.setupkey.dev in namespace"));
    let missing = reader.runs(&["status", "ofice"]);
    let expected = format!("there is no SetupKey {}/ofice; did you mean office?", cluster.namespace);
    assert_eq!(missing.fails(), expected);
}

/// The first line of the status of a key, and what each label says.
fn lines(person: &Person, name: &str, code: i32) -> (String, Vec<(String, String)>) {
    let said = person.runs(&["status", name]);
    assert_eq!((said.code, said.err.as_str()), (code, ""), "{name}: {}", said.out);
    let (head, rest) = said.out.split_once('\n').expect("a first line");
    let line = |line: &str| (line[..13].trim().to_owned(), line[13..].to_owned());
    (head.to_owned(), rest.lines().map(line).collect())
}

fn of<'a>(lines: &'a [(String, String)], label: &str) -> &'a str {
    lines.iter().find(|line| line.0 == label).map_or("", |line| &line.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_status_of_a_key_in_each_state_reads_well() {
    let cluster = Cluster::for_test("plugin-status-states").await;
    let person = Person::administrator(&cluster);
    let days = TimeDelta::days;
    cluster.apply("fresh", "usageLimit: 5");
    let (head, rest) = lines(&person, "fresh", 1);
    assert_eq!(head, "fresh  reusable · not issued · not Ready     authority the cluster itself");
    assert_eq!(of(&rest, "ready"), "the operator has not reported yet (is it running?)");
    assert_eq!(of(&rest, "key"), "not issued yet");
    assert_eq!(of(&rest, "rotation"), "on request only");
    assert_eq!(of(&rest, "uses"), "0 of 5, never used        groups  none");
    assert_eq!(of(&rest, "secret"), "fresh: not written yet   read by no pod");
    assert_eq!(of(&rest, "peers"), "none   events  none");

    let spec = json!({ "revoked": true, "rotation": { "renewBefore": "168h" }, "usageLimit": 5 });
    issued(&cluster, "revoked", spec, json!({ "valid": false })).await;
    let (head, rest) = lines(&person, "revoked", 0);
    assert_eq!(head, "revoked  reusable · revoked · Ready     authority the cluster itself");
    assert_eq!(of(&rest, "rotation"), "skipped, because the key is revoked");
    assert_eq!(of(&rest, "findings"), "none");

    let expires = ago(days(3));
    issued(&cluster, "expired", json!({ "usageLimit": 5 }), json!({ "expires": expires })).await;
    let (head, rest) = lines(&person, "expired", 0);
    assert_eq!(head, "expired  reusable · expired · Ready     authority the cluster itself");
    assert!(of(&rest, "key").ends_with(&format!(", expired {expires} (3d ago)")), "{rest:?}");

    let used = json!({ "usedTimes": 1, "lastUsed": ago(days(9)) });
    let spec = json!({ "type": "one-off", "rotation": { "renewBefore": "168h" } });
    issued(&cluster, "overused", spec, used).await;
    let (head, rest) = lines(&person, "overused", 0);
    assert_eq!(head, "overused  one-off · overused · Ready     authority the cluster itself");
    assert_eq!(of(&rest, "uses"), "1 of 1, last 9d ago        groups  none");
    assert_eq!(of(&rest, "rotation"), "skipped, because the key is one-off and used");

    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": type_, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": ago(TimeDelta::zero()),
        })
    };
    let conflict = "Secret \"stalled\" exists and this SetupKey does not own it.\u{1b}[2J";
    let stalled = json!({ "conditions": [
        condition("Ready", "False", "SecretConflict", conflict), condition("Stalled", "True", "SecretConflict", conflict),
    ] });
    issued(&cluster, "stalled", json!({}), stalled).await;
    let (head, rest) = lines(&person, "stalled", 1);
    assert_eq!(head, "stalled  reusable · valid · Stalled     authority the cluster itself");
    let shown = conflict.replace('\u{1b}', "\\u{1b}");
    assert_eq!(of(&rest, "ready"), format!("SecretConflict: {shown}"));
    assert_eq!(of(&rest, "findings"), "SK002 reusable without usageLimit: set a limit, or type: one-off");
    assert_eq!(of(&rest, "uses"), "0, no limit, never used        groups  none");

    let unused = "No peer has used the key for 24h, so it is revoked.";
    let spec = json!({ "revokeUnusedAfter": "24h", "usageLimit": 5 });
    let status = json!({ "issuedAt": ago(days(2)), "conditions": [
        condition("Ready", "True", "Reconciled", "The cluster matches the spec."),
        condition("Valid", "False", "Unused", unused),
    ] });
    issued(&cluster, "unused", spec, status).await;
    let (head, rest) = lines(&person, "unused", 0);
    assert_eq!(head, "unused  reusable · revoked · Ready     authority the cluster itself");
    assert_eq!(of(&rest, "refuses"), unused);

    let previous = |id: u8, key: &str, ends: Timestamp, used: u32| {
        json!({
            "id": KeyId::from_random_bytes([id; 20]).to_string(), "digest": digest(key), "key": key,
            "expires": ahead(days(9)), "admitsUntil": ends, "usedTimes": used, "usageLimit": 5,
        })
    };
    let status = json!({ "rotateAt": ago(TimeDelta::hours(3)), "previous": [
        previous(1, "AAAAA****", ago(days(1)), 0), previous(2, "BBBBB****", ahead(days(1)), 5),
    ] });
    issued(&cluster, "late", json!({ "usageLimit": 5 }), status).await;
    let (_, rest) = lines(&person, "late", 0);
    let due = ago(TimeDelta::hours(3)).moment().format("%Y-%m-%d").to_string();
    let expected = format!("due since {due} (3h ago), previous AAAAA**** has ended, previous BBBBB**** is overused");
    assert_eq!(of(&rest, "rotation"), expected);
    cluster.patch_spec("late", json!({ "autoGroups": ["office"] })).await;
    let (_, rest) = lines(&person, "late", 0);
    assert_eq!(of(&rest, "spec"), "the operator has not reported on its latest change yet");

    issued(&cluster, "leaving", json!({ "usageLimit": 5 }), json!({})).await;
    let finalizer = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    cluster.kubectl_ok(&["patch", "sk", "leaving", "--type=merge", "-p", finalizer], "");
    cluster.kubectl_ok(&["delete", "sk", "leaving", "--wait=false"], "");
    let (head, _) = lines(&person, "leaving", 0);
    assert_eq!(head, "leaving  reusable · valid · Ready · being deleted     authority the cluster itself");
    cluster.kubectl_ok(&["patch", "sk", "leaving", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_status_names_the_authority_and_its_url() {
    let cluster = Cluster::for_test("plugin-status-authority").await;
    let person = Person::administrator(&cluster);
    let of_netbird = json!({ "url": "https://api.netbird.io", "tokenSecretRef": { "name": "netbird" } });
    let authority = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
        "spec": { "netbird": of_netbird },
    });
    cluster.kubectl_ok(&["create", "-f", "-"], &authority.to_string());
    // Names of cluster-wide objects must differ from those of other tests.
    let common = format!("netbird-{}", cluster.namespace);
    let of_cluster: ClusterAuthority = serde_json::from_value(json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "ClusterAuthority", "metadata": { "name": common },
        "spec": { "netbird": of_netbird, "namespaceSelector": { "matchLabels": { "example.com/none": "true" } } },
    }))
    .unwrap();
    let cluster_authorities: Api<ClusterAuthority> = Api::all(cluster.client.clone());
    cluster_authorities.create(&PostParams::default(), &of_cluster).await.unwrap();

    let there = json!({ "authority": { "standing": "Active" } });
    let of = |name: &str| json!({ "usageLimit": 5, "authorityRef": { "name": name } });
    issued(&cluster, "office", of("netbird"), there.clone()).await;
    let (head, rest) = lines(&person, "office", 0);
    assert_eq!(head, "office  reusable · valid · Ready     authority netbird (https://api.netbird.io)");
    assert_eq!(self::of(&rest, "peers"), "NetBird has them   events  none");
    let json = person.runs(&["status", "office", "-o", "json"]).json();
    let expected = json!({ "kind": "Authority", "name": "netbird", "url": "https://api.netbird.io" });
    assert_eq!((&json["authority"], &json["peers"]), (&expected, &Value::Null));

    let mut spec = of(&common);
    spec["authorityRef"]["kind"] = json!("ClusterAuthority");
    issued(&cluster, "common", spec, there.clone()).await;
    let (head, _) = lines(&person, "common", 0);
    let named = format!("common  reusable · valid · Ready     cluster authority {common}");
    assert_eq!(head, format!("{named} (https://api.netbird.io)"));

    let reader = Person::with_rights(&cluster, "reader", &[("get,list", "setupkeys.setupkey.dev")]);
    let (head, _) = lines(&reader, "office", 0);
    let hidden = "authority netbird (URL not shown: you may not get authorities.setupkey.dev)";
    assert_eq!(head, format!("office  reusable · valid · Ready     {hidden}"));
    let (head, _) = lines(&reader, "common", 0);
    assert_eq!(head, format!("{named} (URL not shown: you may not get clusterauthorities.setupkey.dev)"));
    let mut written = there;
    written["secret"] = json!({
        "name": "known", "key": "setup-key", "resourceVersion": "1", "managementUrlKey": "NB_MANAGEMENT_URL",
        "managementUrl": "https://netbird.example.com",
    });
    let mut spec = of("netbird");
    spec["secret"] = json!({ "managementUrlKey": "NB_MANAGEMENT_URL" });
    issued(&cluster, "known", spec, written).await;
    let (head, rest) = lines(&reader, "known", 0);
    assert_eq!(head, "known  reusable · valid · Ready     authority netbird (https://netbird.example.com)");
    assert!(self::of(&rest, "secret").starts_with("known: setup-key, NB_MANAGEMENT_URL   "), "{rest:?}");
    cluster_authorities.delete(&common, &Default::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_status_of_a_key_of_a_running_operator() {
    let cluster = Cluster::for_test("plugin-status-operator").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "usageLimit: 50, rotation: {renewBefore: 168h}, secret: {aliases: [NB_SETUP_KEY]}");
    let status = cluster.ready("office").await;
    cluster.event("office", "Issued").await;
    let person = Person::administrator(&cluster);
    let (head, rest) = lines(&person, "office", 0);
    assert_eq!(head, "office  reusable · valid · Ready     authority the cluster itself");
    let (key, id) = (status.key.expect("a key"), status.id.expect("an id"));
    assert!(of(&rest, "key").starts_with(&format!("{key}  id {id}  revision 1, issued ")), "{rest:?}");
    assert_eq!(of(&rest, "secret"), "office: setup-key, NB_SETUP_KEY   read by no pod");
    assert!(of(&rest, "peers").starts_with("none   events  Issued "), "{rest:?}");
    let value = cluster.value("office", "setup-key").await;
    for form in ["table", "json", "yaml"] {
        assert!(!person.runs(&["status", "office", "-o", form]).ok().contains(&value), "the key is shown as {form}");
    }
    operator.stop().await;
    cluster.kubectl_ok(&["create", "secret", "generic", "taken"], "");
    let operator = cluster.start_operator().await;
    cluster.apply("taken", "usageLimit: 5");
    cluster
        .status_when("taken", "stalled", |status| {
            status.conditions.iter().any(|condition| condition.type_ == "Stalled")
        })
        .await;
    let (head, rest) = lines(&person, "taken", 1);
    assert_eq!(head, "taken  reusable · not issued · Stalled     authority the cluster itself");
    assert!(of(&rest, "ready").starts_with("SecretConflict: Secret \"taken\" exists"), "{rest:?}");
    operator.stop().await;
}
