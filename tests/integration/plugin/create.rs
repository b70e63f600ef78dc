//! `kubectl setupkey create`.

use serde_json::{Value, json};
use setupkey_operator::api::Timestamp;

use super::{Person, Said};
use crate::harness::Cluster;

/// The spec of a key as it is stored.
fn spec(cluster: &Cluster, name: &str) -> Value {
    let stored = cluster.kubectl_ok(&["get", "setupkeys.setupkey.dev", name, "-o", "json"], "");
    serde_json::from_str::<Value>(&stored).unwrap()["spec"].clone()
}

/// The names of the keys in the namespace.
async fn names(cluster: &Cluster) -> Vec<String> {
    let keys = cluster.keys().list(&Default::default()).await.unwrap();
    keys.into_iter().filter_map(|key| key.metadata.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_makes_the_key_that_was_asked_for() {
    let cluster = Cluster::for_test("plugin-create").await;
    let person = Person::administrator(&cluster);
    let flags = ["--limit", "50", "--expires-in", "90d", "--group", "office", "--rotate-before", "7d"];
    let said = person.runs(&[&["create", "office"], &flags[..]].concat());
    assert_eq!((said.code, said.out.as_str()), (0, "setupkey office created\n"), "{}", said.err);
    assert_eq!(said.err, "kubectl setupkey status office shows it\n");
    let expected = json!({
        "type": "reusable", "expiresIn": "2160h", "usageLimit": 50, "autoGroups": ["office"], "ephemeral": false,
        "allowExtraDnsLabels": false, "revoked": false, "rotation": { "renewBefore": "168h", "overlap": "24h" },
    });
    let mut stored = spec(&cluster, "office");
    stored.as_object_mut().unwrap().remove("deletionPolicy");
    assert_eq!(stored, expected);
    let fields = cluster.keys().get("office").await.unwrap().metadata.managed_fields.unwrap();
    let managers: Vec<_> = fields.iter().filter_map(|entry| entry.manager.as_deref()).collect();
    assert_eq!(managers, ["kubectl-setupkey"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_waits_until_the_key_is_issued() {
    let cluster = Cluster::for_test("plugin-create-wait").await;
    let person = Person::administrator(&cluster);
    let late = person.runs(&["create", "late", "--wait", "--timeout", "1s"]);
    let why = "the operator has not reported yet (is it running?)";
    assert_eq!(late.fails(), format!("setupkey late is created, and is not issued after 1s: {why}"));

    let operator = cluster.start_operator().await;
    let said = person.runs(&["create", "office", "--secret", "netbird-setup-key", "--wait"]);
    let value = cluster.value("netbird-setup-key", "setup-key").await;
    let expected = format!("setupkey office: issued ({}****), Secret netbird-setup-key holds it\n", &value[..5]);
    assert_eq!(said.ok(), expected);
    let object = person.runs(&["create", "object", "--wait", "-o", "json"]).json();
    assert!(object["status"]["digest"].is_string(), "{object}");
    assert!(object["metadata"].get("managedFields").is_none(), "{object}");

    cluster.kubectl_ok(&["create", "secret", "generic", "taken"], "");
    let stuck = person.runs(&["create", "taken", "--wait"]);
    let expected = "setupkey taken is created, and cannot be issued: Secret \"taken\" exists and this SetupKey does not own it, so it is left alone. Delete that Secret, or create a SetupKey with another secret.name.";
    assert_eq!(stuck.fails(), expected);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_writes_a_manifest_for_git_without_a_cluster() {
    let cluster = Cluster::for_test("plugin-create-git").await;
    let person = Person::administrator(&cluster);
    let without_a_cluster = |arguments: &[&str]| {
        let mut command = person.kubectl();
        command.env("KUBECONFIG", "/nowhere").args(["setupkey", "create"]).args(arguments);
        Said::by(&mut command)
    };
    let said = without_a_cluster(&["office", "--limit", "50", "--expires-in", "90d", "--dry-run=client", "-o", "yaml"]);
    let manifest = "\
apiVersion: setupkey.dev/v1alpha1
kind: SetupKey
metadata:
  name: office
spec:
  expiresIn: 2160h
  usageLimit: 50
";
    assert_eq!(said.ok(), manifest);
    cluster.kubectl_ok(&["apply", "-f", "-"], said.ok());
    assert_eq!(spec(&cluster, "office")["expiresIn"], "2160h");

    let bare = without_a_cluster(&["bare", "--dry-run=client", "-o", "json", "-n", &cluster.namespace]).json();
    let metadata = json!({ "name": "bare", "namespace": cluster.namespace });
    let expected =
        json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": metadata, "spec": {} });
    assert_eq!(bare, expected);
    assert_eq!(without_a_cluster(&["bare", "--dry-run=client"]).ok(), "setupkey bare created (dry run)\n");
    let named = without_a_cluster(&["bare", "--dry-run=client", "-o", "name"]);
    assert_eq!(named.ok(), "setupkey.setupkey.dev/bare\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_has_a_flag_for_each_field() {
    let cluster = Cluster::for_test("plugin-create-flags").await;
    let person = Person::administrator(&cluster);
    let flags = "--type one-off --limit 1 --expires-in 8d --group a --group b --ephemeral --allow-extra-dns-labels
        --rotate-before 1d --overlap 90m --revoke-unused-after 28d --secret s --secret-key k --alias NB_SETUP_KEY
        --alias SETUP_KEY --management-url-key NB_MANAGEMENT_URL --cluster-authority netbird --deletion-policy Retain
        --label team=vpn --display-name Office";
    let mut arguments = vec!["create", "all", "-o", "yaml", "--dry-run=client"];
    arguments.extend(flags.split_whitespace());
    let said = person.runs(&arguments);
    let manifest: Value = serde_yaml::from_str(said.ok()).unwrap();
    assert_eq!(manifest["metadata"], json!({ "name": "all", "labels": { "team": "vpn" } }));
    let expected = json!({
        "name": "Office", "type": "one-off", "usageLimit": 1, "expiresIn": "192h", "autoGroups": ["a", "b"],
        "ephemeral": true, "allowExtraDnsLabels": true,
        "rotation": { "renewBefore": "24h", "overlap": "1h30m" }, "revokeUnusedAfter": "672h",
        "secret": {
            "name": "s", "key": "k", "aliases": ["NB_SETUP_KEY", "SETUP_KEY"],
            "managementUrlKey": "NB_MANAGEMENT_URL",
        },
        "authorityRef": { "kind": "ClusterAuthority", "name": "netbird" }, "deletionPolicy": "Retain",
    });
    assert_eq!(manifest["spec"], expected);
    cluster.kubectl_ok(&["apply", "-f", "-"], said.ok());
    let mut stored = spec(&cluster, "all");
    stored.as_object_mut().unwrap().remove("revoked");
    assert_eq!(stored, expected, "the API server adds no more than this");
    let one = person.runs(&["create", "one", "--authority", "netbird", "-o", "json", "--dry-run=client"]).json();
    assert_eq!(one["spec"], json!({ "authorityRef": { "name": "netbird" } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_asks_the_server_without_creating() {
    let cluster = Cluster::for_test("plugin-create-dry").await;
    let person = Person::administrator(&cluster);
    assert_eq!(person.runs(&["create", "a", "--dry-run=server"]).ok(), "setupkey a created (server dry run)\n");
    let object = person.runs(&["create", "a", "--dry-run=server", "-o", "json"]).json();
    assert_eq!(object["spec"]["expiresIn"], "720h", "the default of the API server");
    assert!(object["metadata"]["creationTimestamp"].as_str().unwrap().parse::<Timestamp>().is_ok());
    let refused = person.runs(&["create", "a", "--expires-in", "12h", "--dry-run=server"]);
    assert!(refused.fails().contains("--expires-in: "), "{refused:?}");
    assert!(names(&cluster).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_says_which_flag_the_api_server_refuses() {
    let cluster = Cluster::for_test("plugin-create-refused").await;
    let person = Person::administrator(&cluster);
    for (flags, said) in [
        (
            "--expires-in 12h",
            "--expires-in: expiresIn must be from 24h to 8760h, in hours, minutes and seconds: 720h or 36h30m; there is no unit for days, 30 days are 720h",
        ),
        (
            "--type one-off --limit 3",
            "--limit: a one-off key can be used once; leave usageLimit out or use type: reusable",
        ),
        (
            "--rotate-before 40d",
            "--rotate-before: rotation.renewBefore must be from 1h to one hour less than expiresIn, in hours, minutes and seconds, such as 168h; there is no unit for days, 7 days are 168h",
        ),
        (
            "--group a/b",
            "--group: without an authorityRef, each group must consist of at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit",
        ),
        (
            "--alias setup-key",
            "--alias: secret.aliases may not hold secret.key (default setup-key), which holds the setup key already",
        ),
        (
            "--secret Bad",
            "--secret: secret.name must be a DNS name: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
        ),
        (
            "--deletion-policy Retain",
            "--deletion-policy: deletionPolicy: Retain needs an authorityRef; without one, the key ends with its SetupKey",
        ),
    ] {
        let arguments: Vec<_> = ["create", "office"].into_iter().chain(flags.split(' ')).collect();
        let expected = format!("could not create SetupKey {}/office: {said}", cluster.namespace);
        assert_eq!(person.runs(&arguments).fails(), expected);
    }
    let label = person.runs(&["create", "office", "--label", "team=a b"]);
    assert!(label.fails().contains("/office: --label: "), "{label:?}");
    assert!(names(&cluster).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_refuses_what_makes_no_sense() {
    let cluster = Cluster::for_test("plugin-create-flags-bad").await;
    let person = Person::administrator(&cluster);
    for (flags, said) in [
        ("--expires-in 30x", "\"30x\" is no time such as 90d, 36h or 1d12h: the units are d, h, m and s"),
        ("--limit 2147483648", "2147483648 is not in 0..=2147483647"),
        ("--limit=-1", "-1 is not in 0..=2147483647"),
        ("--type once", "[possible values: reusable, one-off]"),
        ("--authority a --cluster-authority b", "cannot be used with"),
        ("--management-url-key URL", "--authority <NAME>|--cluster-authority <NAME>"),
        ("--label team", "a label is NAME=VALUE, such as team=vpn"),
        ("--label team=a --label team=b", "--label team is given twice, with two values: give it once"),
        (
            "-o jsonpath={.spec}",
            "there is yaml, json and name; use json with jq, or kubectl get setupkeys.setupkey.dev -o jsonpath={.spec}",
        ),
        ("-o table", "there is yaml, json and name"),
        ("--wait --dry-run=client", "--wait and --dry-run exclude each other: a dry run creates no key to wait for"),
        ("--timeout 5s", "--wait"),
    ] {
        let arguments: Vec<_> = ["create", "office"].into_iter().chain(flags.split(' ')).collect();
        let refused = person.runs(&arguments);
        assert!(refused.is_refused().contains(said), "{flags}: {}", refused.err);
    }
    assert!(person.runs(&["create", "Office"]).is_refused().contains("the name of a SetupKey has 1 to 63"));
    assert!(names(&cluster).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_create_says_why_there_is_no_key() {
    let cluster = Cluster::for_test("plugin-create-not").await;
    let (person, namespace) = (Person::administrator(&cluster), cluster.namespace.as_str());
    cluster.apply_quickly("office", json!({})).await;
    let expected = format!(
        "there is a SetupKey {namespace}/office already: choose another name, or see it with kubectl setupkey status office -n {namespace}"
    );
    assert_eq!(person.runs(&["create", "office"]).fails(), expected);
    let nowhere = person.runs(&["create", "office", "-n", "nowhere"]);
    assert_eq!(nowhere.fails(), "could not create SetupKey nowhere/office: namespaces \"nowhere\" not found");
    let reader = Person::with_rights(&cluster, "reader", &[("list", "setupkeys.setupkey.dev")]);
    let expected = format!(
        "could not create SetupKey {namespace}/lab: system:serviceaccount:{namespace}:reader may not create setupkeys.setupkey.dev in namespace {namespace}; ask an administrator for that right"
    );
    assert_eq!(reader.runs(&["create", "lab"]).fails(), expected);
    assert_eq!(names(&cluster).await, ["office"]);
}
