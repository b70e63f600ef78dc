use chrono::TimeDelta;
use serde_json::json;

use super::{Person, ago, ahead, issued};
use crate::harness::Cluster;

/// The keys of the sample in docs/plugin.md: two namespaces, one of them named after what the other one is not.
async fn sample() -> (Cluster, Cluster) {
    let network = Cluster::for_test("plugin-network").await;
    let ci = Cluster::for_test("plugin-ci").await;
    let used = |times: u32, span: TimeDelta| json!({ "usedTimes": times, "lastUsed": ago(span) });
    let mut kiosks = used(50, TimeDelta::hours(3));
    kiosks["expires"] = json!(ahead(TimeDelta::days(12)));
    issued(&network, "kiosks", json!({ "usageLimit": 50 }), kiosks).await;
    let mut office = used(7, TimeDelta::minutes(12));
    office["expires"] = json!(ahead(TimeDelta::days(88)));
    office["rotateAt"] = json!(ahead(TimeDelta::days(81)));
    let spec = json!({ "usageLimit": 50, "expiresIn": "2160h", "secret": { "name": "netbird-setup-key" } });
    issued(&network, "office", spec, office).await;
    let runner = json!({ "expires": ahead(TimeDelta::hours(18)) });
    issued(&ci, "runner", json!({ "type": "one-off" }), runner).await;
    for (cluster, name) in [(&network, "kiosks"), (&network, "office"), (&ci, "runner")] {
        cluster.kubectl_ok(&["label", "sk", name, &format!("sample={}", network.namespace)], "");
    }
    (network, ci)
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_list_shows_first_what_needs_a_person() {
    let (network, ci) = sample().await;
    let said = Person::administrator(&network).runs(&["list", "-A", "-l", &format!("sample={}", network.namespace)]);
    let (network, ci) = (network.namespace.as_str(), ci.namespace.as_str());
    let expected = [
        vec!["NAMESPACE", "NAME", "TYPE", "STATE", "USED", "LAST USED", "EXPIRES IN", "ROTATES IN", "SECRET", "NOTE"],
        vec![network, "kiosks", "reusable", "overused", "50/50", "3h", "12d", "–", "kiosks", "refuses machines"],
        vec![network, "office", "reusable", "valid", "7/50", "12m", "88d", "81d", "netbird-setup-key"],
        vec![ci, "runner", "one-off", "valid", "0/1", "never", "18h", "–", "runner", "unused"],
    ];
    assert_eq!(said.cells(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_list_has_columns_for_people_and_forms_for_scripts() {
    let (network, _) = sample().await;
    let person = Person::administrator(&network);
    let table = "\
NAME    TYPE      STATE     USED   LAST USED  EXPIRES IN  ROTATES IN  SECRET             NOTE
kiosks  reusable  overused  50/50  3h         12d         –           kiosks             refuses machines
office  reusable  valid     7/50   12m        88d         81d         netbird-setup-key
";
    assert_eq!(person.runs(&["list"]).ok(), table);
    let (whole, rows) = (person.runs(&["list"]), person.runs(&["list", "--no-headers"]));
    assert_eq!(rows.cells(), whole.cells()[1..]);
    let coloured = person.runs(&["list", "--color", "always"]);
    assert!(coloured.ok().contains("\u{1b}[31moverused\u{1b}[0m"), "{coloured:?}");
    assert_eq!(
        coloured
            .ok()
            .replace("\u{1b}[31m", "")
            .replace("\u{1b}[32m", "")
            .replace("\u{1b}[33m", "")
            .replace("\u{1b}[2m", "")
            .replace("\u{1b}[0m", ""),
        table
    );
    let names = person.runs(&["list", "-o", "name"]);
    assert_eq!(names.ok(), "setupkey.setupkey.dev/kiosks\nsetupkey.setupkey.dev/office\n");
    let json = person.runs(&["list", "-o", "json"]).json();
    assert_eq!((&json["keys"][0]["state"], &json["keys"][1]["usageLimit"]), (&json!("overused"), &json!(50)));
    let yaml: serde_json::Value = serde_yaml::from_str(person.runs(&["list", "-o", "yaml"]).ok()).unwrap();
    assert_eq!(yaml, json);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_list_of_a_caller_without_rights_names_the_right() {
    let cluster = Cluster::for_test("plugin-list-rights").await;
    let guest = Person::with_rights(&cluster, "guest", &[]);
    let namespace = &cluster.namespace;
    let expected = format!(
        "could not list SetupKeys of namespace {namespace}: system:serviceaccount:{namespace}:guest may not list setupkeys.setupkey.dev in namespace {namespace}; ask an administrator for that right"
    );
    assert_eq!(guest.runs(&["list"]).fails(), expected);
    let reader = Person::with_rights(&cluster, "reader", &[("list", "setupkeys.setupkey.dev")]);
    let said = reader.runs(&["list"]);
    let nothing = format!("No SetupKeys found in namespace {namespace}.\n");
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", nothing.as_str()));
}
