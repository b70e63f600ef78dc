use chrono::TimeDelta;
use kube::ResourceExt;
use serde_json::{Value, json};
use setupkey_operator::api::PendingPeer;

use super::{Person, ago, ahead, issued};
use crate::harness::{Cluster, entry};

/// The key `office`, which was rotated, and four Peers: with the current key, with the previous one, with one before it, and one
/// that was never seen.
async fn office(cluster: &Cluster) -> Vec<String> {
    let previous = json!([{
        "id": "2".repeat(20), "digest": "", "key": "AAAAA****", "expires": ahead(TimeDelta::days(1)),
        "admitsUntil": ahead(TimeDelta::hours(5)),
    }]);
    let spec = json!({ "autoGroups": ["office", "printers"] });
    issued(cluster, "office", spec, json!({ "id": "3".repeat(20), "revision": 3, "previous": previous })).await;
    let key = cluster.keys().get("office").await.unwrap();
    let mut names = Vec::new();
    for (number, digit, seen) in [
        (1, "3", Some((true, ago(TimeDelta::minutes(5))))),
        (2, "2", Some((false, ago(TimeDelta::days(8))))),
        (3, "1", Some((false, ago(TimeDelta::days(90))))),
        (4, "3", None),
    ] {
        let peer = cluster.create_released_peer(&key, &PendingPeer { key_id: digit.repeat(20), ..entry(number) }).await;
        if let Some((connected, last_seen)) = seen {
            cluster.see(&peer.name_any(), json!({ "connected": connected, "lastSeen": last_seen })).await;
        }
        names.push(peer.name_any());
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_peers_shows_which_machines_have_joined_with_a_key() {
    let cluster = Cluster::for_test("plugin-peers").await;
    let names = office(&cluster).await;
    let rights = [("get", "setupkeys.setupkey.dev"), ("list", "peers.setupkey.dev")];
    let person = Person::with_rights(&cluster, "reader", &rights);
    let said = person.runs(&["peers", "office"]);
    let mut rows = said.cells();
    for row in &mut rows[1..] {
        assert!(row.pop().is_some_and(|age| age.ends_with('s') || age.ends_with('m')), "{said:?}");
    }
    let groups = "office,printers";
    let expected = [
        vec!["NAME", "HOSTNAME", "GROUPS", "CONNECTED", "LAST SEEN", "REVISION", "AGE"],
        vec![&names[0], "host-1", groups, "yes", "5m", "current"],
        vec![&names[1], "host-2", groups, "no", "8d", "previous"],
        vec![&names[2], "host-3", groups, "no", "90d", "older"],
        vec![&names[3], "host-4", groups, "–", "–", "current"],
    ];
    assert_eq!(rows, expected);

    let stale = person.runs(&["peers", "office", "--stale", "7d", "-o", "name"]);
    assert_eq!(stale.ok(), format!("peer.setupkey.dev/{}\npeer.setupkey.dev/{}\n", names[1], names[2]));
    let json = person.runs(&["peers", "office", "-o", "json"]).json();
    let of = |at: usize| (json["peers"][at]["revision"].clone(), json["peers"][at]["connected"].clone());
    assert_eq!((of(1), of(3)), ((json!("previous"), json!(false)), (json!("current"), Value::Null)));
    let yaml: Value = serde_yaml::from_str(person.runs(&["peers", "office", "-o", "yaml"]).ok()).unwrap();
    assert_eq!(yaml, json);
    let coloured = person.runs(&["peers", "office", "--color", "always"]);
    assert!(coloured.ok().contains("\u{1b}[32myes\u{1b}[0m"), "{coloured:?}");
    assert!(coloured.ok().contains("\u{1b}[33mno\u{1b}[0m"), "{coloured:?}");
    let wide = person.runs(&["peers", "office", "-o", "wide", "--no-headers"]);
    assert_eq!(wide.cells()[0][7..], ["no", &"3".repeat(20), "–"]);
    let none = person.runs(&["peers", "office", "--stale", "100d"]);
    let note = format!("Every Peer of SetupKey {}/office was seen within 100d.\n", cluster.namespace);
    assert_eq!((none.code, none.out.as_str(), none.err), (0, "", note));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_peers_outlive_their_key() {
    let cluster = Cluster::for_test("plugin-peers-deleted").await;
    let names = office(&cluster).await;
    let namespace = &cluster.namespace;
    let person = Person::administrator(&cluster);
    cluster.kubectl_ok(&["delete", "setupkeys.setupkey.dev", "office"], "");
    let said = person.runs(&["peers", "office", "-o", "json"]);
    let note = format!("SetupKey {namespace}/office is deleted. These are the Peers that have joined with it.\n");
    assert_eq!((said.code, said.err.as_str()), (0, note.as_str()));
    let peers: Value = serde_json::from_str(&said.out).unwrap();
    let peers = peers["peers"].as_array().unwrap();
    assert_eq!(peers.len(), names.len());
    assert!(peers.iter().all(|peer| peer["revision"] == "deleted"), "{peers:?}");
    assert!(person.runs(&["peers", "offcie"]).fails().starts_with(&format!("there is no SetupKey {namespace}/offcie")));

    // Another key of this name has none of them.
    issued(&cluster, "office", json!({ "authorityRef": { "name": "netbird" } }), json!({})).await;
    let said = person.runs(&["peers", "office", "-o", "name"]);
    assert_eq!((said.code, said.out.lines().count()), (0, names.len()));
    assert!(said.err.starts_with("These have joined with an earlier SetupKey of this name: the peers of "), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_peers_of_a_key_at_netbird_are_there() {
    let cluster = Cluster::for_test("plugin-peers-netbird").await;
    let namespace = &cluster.namespace;
    issued(&cluster, "vpn", json!({ "authorityRef": { "name": "netbird" } }), json!({})).await;
    let person = Person::administrator(&cluster);
    let sentence = |place: &str| {
        format!("the peers of SetupKey {namespace}/vpn are at NetBird, and not in this cluster: see {place}")
    };
    assert_eq!(person.runs(&["peers", "vpn"]).fails(), sentence("the one of Authority netbird"));
    let authority = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
        "spec": { "netbird": { "url": "https://netbird.example.com", "tokenSecretRef": { "name": "token" } } },
    });
    cluster.kubectl_ok(&["apply", "-f", "-"], &authority.to_string());
    assert_eq!(person.runs(&["peers", "vpn"]).fails(), sentence("https://netbird.example.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_peers_that_are_not_there_and_callers_who_may_not_see_them() {
    let cluster = Cluster::for_test("plugin-peers-none").await;
    let namespace = &cluster.namespace;
    issued(&cluster, "office", json!({}), json!({ "usedTimes": 1, "pending": [entry(1)] })).await;
    let said = Person::administrator(&cluster).runs(&["peers", "office"]);
    let notes = format!(
        "No Peer has joined with SetupKey {namespace}/office.\nMachines that are admitted and have no Peer yet: 1.\n"
    );
    assert_eq!((said.code, said.out.as_str(), said.err), (0, "", notes));
    // The Peer is there, and its entry is not cleared yet.
    let key = cluster.keys().get("office").await.unwrap();
    cluster.create_released_peer(&key, &PendingPeer { key_id: "0".repeat(20), ..entry(1) }).await;
    assert_eq!(Person::administrator(&cluster).runs(&["peers", "office", "--no-headers"]).cells().len(), 1);
    let lister = Person::with_rights(&cluster, "lister", &[("list", "setupkeys.setupkey.dev")]);
    let expected = format!(
        "could not list Peers of namespace {namespace}: system:serviceaccount:{namespace}:lister may not list peers.setupkey.dev in namespace {namespace}; ask an administrator for that right"
    );
    assert_eq!(lister.runs(&["peers", "office"]).fails(), expected);
    let wrong = lister.runs(&["peers", "office", "--stale", "30x"]);
    assert!(wrong.code == 1 && wrong.err.contains("\"30x\" is no time such as 90d"), "{wrong:?}");
}
