//! What the API server refuses of authorities, and of keys that name one, with the messages that it gives.

use std::process::Output;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::harness::{Cluster, manifest};

const URL: &str = "must be https://, a host and at most a port, such as https://api.netbird.io or";
const INTERVAL: &str = "spec.netbird.interval: Invalid value: .*: netbird.interval must be from 30s to 1h, such as 60s";
const BUNDLE: &str = "netbird.caBundle must be the base64 of certificates in PEM, which begin with -----BEGIN CERT";
const ACCOUNT: &str = "netbird.account must be an account's id: letters, digits, '-' and '_'";

/// An authority of this kind, changed by a JSON merge patch of its spec.
fn authority(kind: &str, name: &str, change: &Value) -> String {
    let mut spec = json!({ "netbird": { "url": "https://api.netbird.io", "tokenSecretRef": { "name": "netbird" } } });
    if kind == "ClusterAuthority" {
        spec["namespaceSelector"] = json!({});
    }
    json_patch::merge(&mut spec, change);
    let object =
        json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    object.to_string()
}

fn netbird(change: Value) -> Value {
    json!({ "netbird": change })
}

fn refusal(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "the request was accepted");
    error
}

fn assert_says(error: &str, message: &str, of: &str) {
    assert!(regex::Regex::new(message).unwrap().is_match(error), "{of}\nsaid: {error}\nnot: {message}");
}

/// A certificate in PEM, without a line of comment.
fn pem() -> String {
    rcgen::generate_simple_self_signed(["netbird.example.com".to_owned()]).unwrap().cert.pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_authority_is_refused_with_what_to_do() {
    let cluster = Cluster::for_test("bad_authority").await;
    let url = |url: &str| netbird(json!({ "url": url }));
    let interval = |interval: &str| netbird(json!({ "interval": interval }));
    let bundle = |bundle: &str| netbird(json!({ "caBundle": bundle }));
    let encoded = BASE64_STANDARD.encode(pem());
    let mut refused = vec![
        (url(""), "spec.netbird.url: Invalid value: .* should be at least 1 chars long"),
        (netbird(json!({ "url": null })), "spec.netbird.url: Required value"),
        (netbird(json!({ "tokenSecretRef": null })), "spec.netbird.tokenSecretRef: Required value"),
        (
            netbird(json!({ "tokenSecretRef": { "name": "" } })),
            "tokenSecretRef.name: Invalid value: .* at least 1 char",
        ),
        (
            netbird(json!({ "tokenSecretRef": { "key": "a/b" } })),
            "tokenSecretRef.key: Invalid value: \"a/b\": .* match",
        ),
        (netbird(json!({ "account": "" })), "spec.netbird.account: Invalid value: .* at least 1 chars long"),
        (json!({ "netbird": null }), "spec.netbird: Required value"),
        (json!({ "allowedGroups": ["a", "a"] }), "spec.allowedGroups\\[1\\]: Duplicate value: \"a\""),
        (json!({ "allowedGroups": [""] }), "spec.allowedGroups\\[0\\]: Invalid value: .* at least 1 chars long"),
    ];
    let unknown = [
        (netbird(json!({ "tokenSecretRef": { "namespace": "b" } })), "unknown field .*tokenSecretRef.namespace"),
        (netbird(json!({ "token": "nbp_secret" })), "unknown field \"spec.netbird.token\""),
    ];
    let create = ["create", "--dry-run=server", "-f", "-"];
    for text in [
        "https://api.netbird.io/",
        "https://api.netbird.io/api",
        "https://user@api.netbird.io",
        "https://user:password@api.netbird.io",
        "https://api.netbird.io?account=a",
        "https://api.netbird.io#a",
        "https://api.netbird.io ",
        "https://api.netbird.io\n",
        "HTTPS://api.netbird.io",
        "ftp://api.netbird.io",
        "api.netbird.io",
        "https://",
        "https://:443",
        "https://api.netbird.io:",
        "https://api.netbird.io:0",
        "https://api.netbird.io:65536",
        "https://10.1",
        "https://10.0.0.256",
        "https://2130706433",
        "https://0x7f.1",
        "https://a.0x7f000001",
        "https://[10.0.0.1]",
        "https://[:::]",
        "https://[1:2:3]",
        "https://010.0.0.1",
        "https://[fe80::1%25eth0]",
        "https://-a",
        "https://büro.example.com",
    ] {
        refused.push((url(text), URL));
        refused.push((netbird(json!({ "agentUrl": text })), URL));
    }
    for text in ["29s", "1h1s", "60", "1d", "-60s", "0s", "9999h9999h9999h"] {
        refused.push((interval(text), INTERVAL));
    }
    for text in ["a b", "a&b", "a/b", "a\n", "ä"] {
        refused.push((netbird(json!({ "account": text })), ACCOUNT));
    }
    for text in [
        "pem",
        &pem(),
        &BASE64_STANDARD.encode("nothing like a certificate"),
        &format!("{}\n{}", &encoded[..64], &encoded[64..]),
        &encoded.replace('L', "-"),
    ] {
        refused.push((bundle(text), BUNDLE));
    }
    for kind in ["Authority", "ClusterAuthority"] {
        // kubectl goes on after a refusal, and each refusal names its object.
        let numbered = refused.iter().enumerate();
        let objects: Vec<_> =
            numbered.map(|(number, (change, _))| authority(kind, &format!("bad-{number}"), change)).collect();
        let said = refusal(&cluster.kubectl(&create, &objects.join("\n---\n")));
        let refusals: Vec<_> = said.split(" \"bad-").collect();
        for (number, (_, message)) in refused.iter().enumerate() {
            let this = format!("{number}\" is invalid: ");
            let refusal = refusals.iter().find(|refusal| refusal.starts_with(&this));
            let refusal = refusal.unwrap_or_else(|| panic!("accepted: {}\n{said}", objects[number]));
            assert_says(refusal, message, &objects[number]);
        }
        for (change, message) in &unknown {
            let object = authority(kind, "bad", change);
            assert_says(&refusal(&cluster.kubectl(&create, &object)), message, &object);
        }
    }
    let unselective = authority("ClusterAuthority", "bad", &json!({ "namespaceSelector": null }));
    let error = refusal(&cluster.kubectl(&create, &unselective));
    assert_says(&error, "spec.namespaceSelector: Required value", &unselective);
    let selective = authority("Authority", "bad", &json!({ "namespaceSelector": {} }));
    let error = refusal(&cluster.kubectl(&create, &selective));
    assert_says(&error, "unknown field \"spec.namespaceSelector\"", &selective);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_right_authorities_are_accepted() {
    let cluster = Cluster::for_test("good_authority").await;
    let mut accepted = vec![
        netbird(json!({ "url": "http://netbird.netbird.svc:80", "agentUrl": "https://netbird.example.com" })),
        netbird(json!({ "url": "https://[2001:db8::1]:33073" })),
        netbird(json!({ "url": "https://10.0.0.1:65535" })),
        netbird(json!({ "url": "https://[1:2:3:4:5:6:7:8]" })),
        netbird(json!({ "url": "https://[64:ff9b::192.0.2.33]:8443" })),
        netbird(json!({ "url": "https://NetBird" })),
        netbird(json!({ "url": "https://netbird.1a" })),
        netbird(json!({ "url": "https://a-1.b2.example:1" })),
        netbird(json!({ "interval": "30s" })),
        netbird(json!({ "interval": "1h" })),
        netbird(json!({ "interval": "1m30.5s" })),
        netbird(json!({ "account": "csqg4k2t3l4s73a9d5rg", "createGroups": true })),
        netbird(json!({ "tokenSecretRef": { "key": "token" } })),
        json!({ "allowedGroups": ["Büro, 2. Stock", "ch8i4ug6lnn4g9hqv7m0"] }),
        json!({ "allowedGroups": [] }),
    ];
    // The comments are what tools write above certificates. '?' and '~' become '/' and '+' in base64.
    let pem = pem();
    for length in 0..6 {
        for comment in ["?", "~", ">", "ü"] {
            let comment = format!("# Whose is this{}", comment.repeat(length));
            let bundle = BASE64_STANDARD.encode(format!("{comment}\n{pem}{comment}\n{pem}"));
            accepted.push(netbird(json!({ "caBundle": bundle })));
        }
    }
    let has = |character| accepted.iter().any(|spec| spec["netbird"]["caBundle"].to_string().contains(character));
    assert!(has('/') && has('+'), "the bundles try nothing");
    for kind in ["Authority", "ClusterAuthority"] {
        let numbered = accepted.iter().enumerate();
        let objects: Vec<_> =
            numbered.map(|(number, change)| authority(kind, &format!("good-{number}"), change)).collect();
        let said = cluster.kubectl_ok(&["create", "--dry-run=server", "-f", "-"], &objects.join("\n---\n"));
        assert_eq!(said.lines().count(), accepted.len(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_names_one_authority_for_life() {
    const FIXED: &str =
        "spec.authorityRef: Forbidden: authorityRef cannot be changed; create another SetupKey with the";
    let cluster = Cluster::for_test("authority_ref").await;
    cluster.apply("there", "authorityRef: {name: netbird}");
    cluster.apply("here", "");
    for (name, spec) in [
        ("there", "authorityRef: {name: another}"),
        ("there", "authorityRef: {name: netbird, kind: ClusterAuthority}"),
        ("there", ""),
        ("here", "authorityRef: {name: netbird}"),
    ] {
        let error = refusal(&cluster.kubectl(&["apply", "-f", "-"], &manifest(name, spec)));
        assert_says(&error, FIXED, &format!("{name}: {spec}"));
    }
    // The default, written down.
    cluster.apply("there", "authorityRef: {name: netbird, kind: Authority}, deletionPolicy: Delete");
    cluster.apply("here", "deletionPolicy: Delete");
    // The deletion policy may change.
    cluster.apply("there", "authorityRef: {name: netbird}, deletionPolicy: Retain");
    cluster.apply("there", "authorityRef: {name: netbird}");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_the_deletion_policy_depend_on_the_authority() {
    const LABELS: &str =
        "spec.autoGroups: Invalid value: .*without an authorityRef, each group must consist of at most 63";
    const NAMES: &str =
        "spec.autoGroups: Invalid value: .*with an authorityRef, each group is the name or id of a NetBird";
    let cluster = Cluster::for_test("authority_groups").await;
    let with = |rest: &str| format!("authorityRef: {{name: netbird}}, {rest}");
    for (spec, message) in [
        ("autoGroups: [two words]".to_owned(), LABELS),
        (format!("autoGroups: [{}]", "a".repeat(64)), LABELS),
        (with("autoGroups: [' office']"), NAMES),
        (with("autoGroups: ['office ']"), NAMES),
        (with("autoGroups: [' ']"), NAMES),
        (with(r#"autoGroups: ["a\tb"]"#), NAMES),
        (with(r#"autoGroups: ["a\u0085b"]"#), NAMES),
        (with("autoGroups: ['']"), "spec.autoGroups\\[0\\]: Invalid value: .* at least 1 chars long"),
        (
            with(&format!("autoGroups: [{}]", "a".repeat(256))),
            "spec.autoGroups\\[0\\]: Too long: may not be more than 255",
        ),
        (with("autoGroups: [a, a]"), "spec.autoGroups\\[1\\]: Duplicate value"),
        (
            "deletionPolicy: Retain".to_owned(),
            "spec.deletionPolicy: Invalid value: .*deletionPolicy: Retain needs an authorityRef; without one, the key ends",
        ),
        (
            with("deletionPolicy: Keep"),
            "spec.deletionPolicy: Unsupported value: \"Keep\": supported values: \"Delete\", \"Retain\"",
        ),
        ("authorityRef: {}".to_owned(), "spec.authorityRef.name: Required value"),
        ("authorityRef: {name: ''}".to_owned(), "spec.authorityRef.name: Invalid value: .* at least 1 chars long"),
        ("authorityRef: {name: a, kind: Issuer}".to_owned(), "spec.authorityRef.kind: Unsupported value: \"Issuer\""),
        ("authorityRef: {name: a, namespace: b}".to_owned(), "unknown field \"spec.authorityRef.namespace\""),
    ] {
        let error = refusal(&cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], &manifest("bad", &spec)));
        assert_says(&error, message, &spec);
    }
    for spec in [
        with("autoGroups: ['Büro, 2. Stock', ch8i4ug6lnn4g9hqv7m0, 'a/b']"),
        with(&format!("autoGroups: [{}]", "ü".repeat(255))),
        with("deletionPolicy: Retain, autoGroups: []"),
    ] {
        cluster.kubectl_ok(&["create", "--dry-run=server", "-f", "-"], &manifest("good", &spec));
    }
}

/// A category that several kinds share would take the name away.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_takes_every_name_of_a_kind() {
    let cluster = Cluster::for_test("names").await;
    cluster.apply("office", "");
    let of_authority = authority("Authority", "office", &json!({}));
    cluster.kubectl_ok(&["create", "-f", "-"], &of_authority);
    for (names, printed) in [
        (["setupkey", "setupkeys", "sk", "setupkeys.setupkey.dev"], "setupkey.setupkey.dev/office\n"),
        (["authority", "authorities", "ska", "authorities.setupkey.dev"], "authority.setupkey.dev/office\n"),
    ] {
        for name in names {
            assert_eq!(cluster.kubectl_ok(&["get", name, "office", "-o", "name"], ""), printed, "{name}");
        }
    }
}
