//! What the API server refuses by the CRD's own rules, and the messages that it gives.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Cluster, manifest};

fn refusal(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "the request was accepted");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_manifest_is_refused_with_what_to_do() {
    let cluster = Cluster::for_test("admission").await;
    let groups = |count: usize| (0..count).map(|number| format!("g{number}")).collect::<Vec<_>>().join(", ");
    let lifetime = "spec.expiresIn: Invalid value: .*: expiresIn must be from 24h to 8760h";
    let group =
        "spec.autoGroups: Invalid value: .*without an authorityRef, each group must consist of at most 63 letters";
    let reserved = "may not hold keys of setupkey.dev, nor keys by which Argo CD, Flux, Helm or kubectl track objects";
    let control = "spec.name: Invalid value: .*: name may not contain control characters";
    let helm = "spec.secret.name: Forbidden: secret.name may not begin with sh.helm.release.v1., where Helm keeps";
    let renewal = "spec.rotation.renewBefore: Invalid value: rotation.renewBefore must be from 1h to one hour less than expiresIn, .*no unit for days";
    let overlap =
        "spec.rotation.overlap: Invalid value: rotation.overlap must be from 0s to expiresIn, .*no unit for days";
    let unused =
        "spec.revokeUnusedAfter: Invalid value: .*: revokeUnusedAfter must be from 24h to 8760h, .*no unit for days";
    let primary = "spec.secret.aliases: Invalid value: secret.aliases may not hold secret.key";
    let url = "spec.secret.managementUrlKey: Invalid value: secret.managementUrlKey must differ from secret.key .*and from each of secret.aliases";
    let at_authority = |secret: &str| format!("authorityRef: {{name: vpn}}, secret: {secret}");
    let long = |length: usize| "x".repeat(length);
    let labels = (10..42).map(|number| format!("example.com/a{number}{}: {}", long(60), long(63)));
    let labels = labels.collect::<Vec<_>>().join(", ");
    let much =
        |field: &str| format!("secret.{field} may have at most 4096 characters in all, keys and values together");
    let refused = [
        ("expiresIn: 1h", lifetime),
        ("expiresIn: 9000h", lifetime),
        ("expiresIn: 30d", lifetime),
        ("expiresIn: abc", lifetime),
        ("expiresIn: ''", lifetime),
        ("expiresIn: 23h59m59s", lifetime),
        ("expiresIn: 8760h1s", lifetime),
        ("expiresIn: -48h", lifetime),
        ("expiresIn: 9999h9999h9999h", lifetime),
        ("type: single", "spec.type: Unsupported value: \"single\": supported values: \"reusable\", \"one-off\""),
        (
            "type: one-off, usageLimit: 5",
            "spec.usageLimit: Invalid value: a one-off key can be used once; leave usageLimit out or use type: reusable",
        ),
        ("usageLimit: -1", "spec.usageLimit: Invalid value: -1: .* should be greater than or equal to 0"),
        ("usageLimit: 3000000000", "spec.usageLimit: Invalid value"),
        (r#"name: "a\u001b[2J""#, control),
        (r#"name: "a\nb""#, control),
        (r#"name: "a\u0000b""#, control),
        (r#"name: "a\u009b2J""#, control),
        ("name: ''", "spec.name: Invalid value: .* should be at least 1 chars long"),
        ("autoGroups: [a, b, a]", "spec.autoGroups\\[2\\]: Duplicate value: \"a\""),
        ("autoGroups: ['no spaces']", group),
        ("autoGroups: ['-a']", group),
        ("autoGroups: ['a/b']", group),
        ("autoGroups: ['']", "spec.autoGroups\\[0\\]: Invalid value: .* should be at least 1 chars long"),
        (&format!("autoGroups: [{}]", "a".repeat(64)), group),
        (&format!("autoGroups: [{}]", groups(65)), "spec.autoGroups: Too many: 65: must have at most 64 items"),
        ("secret: {labels: {app.kubernetes.io/instance: x}}", reserved),
        ("secret: {labels: {kustomize.toolkit.fluxcd.io/name: x}}", reserved),
        ("secret: {labels: {setupkey.dev/key: x}}", reserved),
        ("secret: {annotations: {argocd.argoproj.io/tracking-id: x}}", reserved),
        ("secret: {annotations: {meta.helm.sh/release-name: x}}", reserved),
        ("secret: {annotations: {kubectl.kubernetes.io/last-applied-configuration: x}}", reserved),
        ("secret: {labels: {'a b': x}}", "each key of secret.labels must be a qualified name"),
        ("secret: {labels: {a: 'x y'}}", "each value of secret.labels must be a label value"),
        ("secret: {annotations: {'a b': x}}", "each key of secret.annotations must be a qualified name"),
        ("secret: {name: Not_DNS}", "spec.secret.name: Invalid value: .*: secret.name must be a DNS name"),
        ("secret: {name: sh.helm.release.v1.app.v1}", helm),
        (&format!("secret: {{annotations: {{a: {}}}}}", long(4096)), &much("annotations")),
        (&format!("secret: {{annotations: {{a: {0}, b: {0}}}}}", long(2048)), &much("annotations")),
        (&format!("secret: {{annotations: {{a: {}}}}}", long(100 * 1024)), &much("annotations")),
        (&format!("secret: {{labels: {{{labels}}}}}"), &much("labels")),
        ("secret: {key: a/b}", "spec.secret.key: Invalid value: .*: secret.key must be a file name"),
        ("secret: {key: ..}", "secret.key must be a file name"),
        ("secret: {aliases: [a/b]}", "each of secret.aliases must be a file name"),
        ("secret: {aliases: [A, ..]}", "each of secret.aliases must be a file name"),
        ("secret: {aliases: ['']}", "spec.secret.aliases\\[0\\]: Invalid value: .* should be at least 1 chars long"),
        ("secret: {aliases: [setup-key]}", primary),
        ("secret: {key: KEY, aliases: [A, KEY]}", primary),
        ("secret: {aliases: [A, B, A]}", "spec.secret.aliases\\[2\\]: Duplicate value: \"A\""),
        (
            "secret: {aliases: [A, B, C, D, E, F, G, H, I]}",
            "spec.secret.aliases: Too many: 9: must have at most 8 items",
        ),
        (
            "secret: {managementUrlKey: URL}",
            "spec.secret.managementUrlKey: Invalid value: secret.managementUrlKey needs an authorityRef",
        ),
        (&at_authority("{managementUrlKey: a/b}"), "secret.managementUrlKey must be a file name"),
        (&at_authority("{managementUrlKey: setup-key}"), url),
        (&at_authority("{key: KEY, managementUrlKey: KEY}"), url),
        (&at_authority("{aliases: [A, URL], managementUrlKey: URL}"), url),
        ("rotation: {renewBefore: 59m59s}", renewal),
        ("rotation: {renewBefore: -2h}", renewal),
        ("rotation: {renewBefore: 7d}", renewal),
        ("rotation: {renewBefore: ''}", renewal),
        ("expiresIn: 48h, rotation: {renewBefore: 48h}", renewal),
        ("expiresIn: 48h, rotation: {renewBefore: 50h}", renewal),
        ("expiresIn: 48h, rotation: {renewBefore: 47h1m}", renewal),
        ("rotation: {renewBefore: 9999h9999h9999h}", renewal),
        ("rotation: {overlap: -1s}", overlap),
        ("rotation: {overlap: 2d}", overlap),
        ("rotation: {overlap: '0'}", overlap),
        ("expiresIn: 48h, rotation: {overlap: 48h1s}", overlap),
        ("revokeUnusedAfter: 23h59m59s", unused),
        ("revokeUnusedAfter: 8760h1s", unused),
        ("revokeUnusedAfter: 30d", unused),
        ("revokeUnusedAfter: 0s", unused),
        ("revokeUnusedAfter: never", unused),
        ("rotation: {every: 720h}", "unknown field \"spec.rotation.every\""),
        ("expiresAt: now", "unknown field \"spec.expiresAt\""),
        ("secret: {type: Opaque}", "unknown field \"spec.secret.type\""),
    ];
    for (spec, message) in refused {
        let error = refusal(&cluster.kubectl(&["apply", "-f", "-"], &manifest("bad", spec)));
        let pattern = regex::Regex::new(message).unwrap();
        assert!(pattern.is_match(&error), "{spec}\nsaid: {error}\nnot: {message}");
        assert!(!error.contains("\"null\""), "{spec}: {error}");
    }
    let error = refusal(&cluster.kubectl(&["apply", "-f", "-"], &manifest(&"a".repeat(64), "")));
    assert!(error.contains("metadata.name must be at most 63 characters"), "{error}");
    let error = refusal(&cluster.kubectl(&["apply", "-f", "-"], &manifest("sh.helm.release.v1.app.v1", "")));
    assert!(regex::Regex::new(helm).unwrap().is_match(&error), "{error}");
    let left = cluster.kubectl_ok(&["get", "sk", "-o", "name"], "");
    assert_eq!(left, "", "something was created all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_promised_cannot_be_changed() {
    let cluster = Cluster::for_test("immutable").await;
    let whole = "name: Office, type: reusable, expiresIn: 48h, usageLimit: 3, ephemeral: false, allowExtraDnsLabels: false, secret: {name: office, key: KEY}";
    cluster.apply("office", whole);
    cluster.apply("bare", "");
    let before = cluster.keys().get("office").await.unwrap().spec;
    for (field, was, change) in [
        ("type", "type: reusable", "type: one-off"),
        ("expiresIn", "expiresIn: 48h", "expiresIn: 72h"),
        ("expiresIn", "expiresIn: 48h, ", ""),
        ("usageLimit", "usageLimit: 3", "usageLimit: 4"),
        ("usageLimit", "usageLimit: 3, ", ""),
        ("ephemeral", "ephemeral: false", "ephemeral: true"),
        ("allowExtraDnsLabels", "allowExtraDnsLabels: false", "allowExtraDnsLabels: true"),
        ("name", "name: Office", "name: Other"),
        ("name", "name: Office, ", ""),
        ("secret.name", "name: office", "name: other"),
        ("secret.key", "key: KEY", "key: OTHER"),
        ("secret.key", ", key: KEY", ""),
    ] {
        let spec = whole.replacen(was, change, 1);
        assert_ne!(spec, whole);
        let error = refusal(&cluster.kubectl(&["apply", "-f", "-"], &manifest("office", &spec)));
        assert!(error.contains(&format!("spec.{field}:")), "{change}: {error}");
        assert!(error.contains(&format!("{field} cannot be changed; create another SetupKey")), "{change}: {error}");
    }
    assert_eq!(cluster.keys().get("office").await.unwrap().spec, before, "a refused change left a trace");

    for (spec, field) in
        [("name: Other", "name"), ("secret: {name: other}", "secret.name"), ("secret: {key: K}", "secret.key")]
    {
        let error = refusal(&cluster.kubectl(&["apply", "-f", "-"], &manifest("bare", spec)));
        assert!(error.contains(&format!("{field} cannot be changed")), "{spec}: {error}");
    }
    // Writing a default explicitly is not a change.
    cluster.apply(
        "bare",
        "name: bare, type: reusable, expiresIn: 720h, usageLimit: 0, secret: {name: bare, key: setup-key}",
    );
    // Fields that may be changed.
    cluster.apply("bare", "rotation: {renewBefore: 168h}, revokeUnusedAfter: 720h, secret: {aliases: [NB_SETUP_KEY]}");
    cluster.apply("bare", "rotation: {overlap: 0s}, revokeUnusedAfter: 24h");
    cluster.apply(
        "office",
        &format!("{whole}, revoked: true, autoGroups: [a]").replace("key: KEY", "key: KEY, labels: {a: b}"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_right_manifests_are_accepted() {
    let cluster = Cluster::for_test("accepted").await;
    let groups = (0..64).map(|number| format!("g{number}")).collect::<Vec<_>>().join(", ");
    for (number, spec) in [
        "expiresIn: 24h",
        "expiresIn: 8760h",
        "expiresIn: 720h0m0s",
        "expiresIn: 36h30m",
        "expiresIn: 24.5h",
        "expiresIn: 86400s",
        "type: one-off, usageLimit: 1",
        "type: one-off, usageLimit: 0",
        "usageLimit: 2147483647",
        &format!("autoGroups: [{groups}]"),
        &format!("autoGroups: [{}]", "a".repeat(63)),
        "autoGroups: [A.b_c-1]",
        "secret: {annotations: {argocd.argoproj.io/sync-options: Prune=false, argocd.argoproj.io/compare-options: IgnoreExtraneous, kustomize.toolkit.fluxcd.io/prune: disabled}}",
        "secret: {labels: {app.kubernetes.io/name: x, example.com/team: ''}, name: a.b-c, key: .netbird_KEY}",
        "name: 'Büro, 2. Stock – 事務所'",
        "rotation: {}",
        "rotation: {overlap: 0s}",
        "expiresIn: 48h, rotation: {renewBefore: 47h, overlap: 48h}",
        "expiresIn: 24h, rotation: {renewBefore: 1h, overlap: 1s}",
        "revokeUnusedAfter: 24h",
        "revokeUnusedAfter: 8760h",
        "secret: {aliases: [A, B, C, D, E, F, G, H]}",
        "secret: {key: KEY, aliases: [setup-key]}",
        "authorityRef: {name: vpn}, secret: {aliases: [NB_SETUP_KEY], managementUrlKey: NB_MANAGEMENT_URL}",
        "authorityRef: {name: vpn}, secret: {key: KEY, managementUrlKey: setup-key}",
        &format!("secret: {{annotations: {{a: {}}}}}", "ä".repeat(4095)),
    ]
    .into_iter()
    .enumerate()
    {
        cluster.apply(&format!("key-{number}"), spec);
    }
}

/// A Peer as the enrollment service creates it, changed by a JSON merge patch.
fn peer(change: Value) -> String {
    let digest = format!("{}A=", "A".repeat(42));
    let mut peer = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer", "metadata": { "name": "peer-a" },
        "spec": {
            "publicKey": digest, "hostname": "laptop", "groups": ["office"], "extraDnsLabels": ["db"],
            "setupKeyRef": { "name": "office", "uid": "u", "id": "0123456789abcdefghij", "use": 1 }, "tokenDigest": digest,
        },
    });
    json_patch::merge(&mut peer, &change);
    peer.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_what_was_agreed_and_stays_it() {
    let cluster = Cluster::for_test("peer_admission").await;
    let key = |text: &str| json!({ "spec": { "publicKey": text } });
    let many = |count: usize| (0..count).map(|number| format!("l{number}")).collect::<Vec<_>>();
    for (change, message) in [
        (key("abc"), "spec.publicKey: Invalid value: \"abc\""),
        (key(&"A".repeat(44)), "spec.publicKey in body should match"),
        // Another spelling of the same 32 bytes would be a second name for the same machine.
        (key(&format!("{}B=", "A".repeat(42))), "spec.publicKey in body should match"),
        (json!({ "spec": { "tokenDigest": "abc" } }), "spec.tokenDigest"),
        (json!({ "spec": { "hostname": "" } }), "spec.hostname in body should be at least 1 chars long"),
        (json!({ "spec": { "hostname": "a".repeat(254) } }), "spec.hostname: Too long"),
        (json!({ "spec": { "groups": many(65) } }), "spec.groups: Too many: 65: must have at most 64 items"),
        (json!({ "spec": { "groups": ["a", "a"] } }), "spec.groups[1]: Duplicate value"),
        (json!({ "spec": { "extraDnsLabels": many(33) } }), "spec.extraDnsLabels: Too many: 33"),
        (json!({ "spec": { "extraDnsLabels": ["a".repeat(64)] } }), "spec.extraDnsLabels[0]: Too long"),
        (json!({ "spec": { "setupKeyRef": { "id": "short" } } }), "spec.setupKeyRef.id"),
        (json!({ "spec": { "setupKeyRef": null } }), "spec.setupKeyRef: Required value"),
    ] {
        let error = refusal(&cluster.kubectl(&["create", "-f", "-"], &peer(change.clone())));
        assert!(error.contains(message), "{change}\nsaid: {error}\nnot: {message}");
    }
    cluster.unguarded_kubectl_ok(&["create", "-f", "-"], &peer(json!({})));
    for change in [
        json!({ "spec": { "hostname": "other" } }),
        json!({ "spec": { "groups": [] } }),
        json!({ "spec": { "ephemeral": true } }),
        json!({ "spec": { "setupKeyRef": { "uid": "v" } } }),
        key(&format!("{}E=", "A".repeat(42))),
    ] {
        let patch = change.to_string();
        let error = refusal(&cluster.kubectl(&["patch", "peer", "peer-a", "--type=merge", "-p", &patch], ""));
        assert!(error.contains("the spec of a Peer cannot be changed; delete the Peer"), "{change}: {error}");
    }
    // The status of a Peer may change, and so may the metadata that users add.
    cluster.kubectl_ok(&["label", "peer", "peer-a", "team=a"], "");
    let status = r#"{"status":{"connected":true,"lastSeen":"2026-11-24T06:00:00Z"}}"#;
    cluster
        .unguarded_kubectl_ok(&["patch", "peer", "peer-a", "--subresource=status", "--type=merge", "-p", status], "");
    let table = cluster.kubectl_ok(&["get", "peers"], "");
    let columns: Vec<_> = table.lines().next().unwrap().split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
    let wanted = ["NAME", "HOSTNAME", "GROUPS", "EPHEMERAL", "CONNECTED", "LAST SEEN", "KEY", "AGE"];
    assert_eq!(columns, wanted, "{table}");
    let selected = cluster.kubectl_ok(&["get", "peers", "--field-selector", "spec.ephemeral=false", "-o", "name"], "");
    assert_eq!(selected, "peer.setupkey.dev/peer-a\n");
    for explained in ["publicKey", "setupKeyRef.uid", "tokenDigest", "extraDnsLabels"] {
        let told = cluster.kubectl_ok(&["explain", &format!("peers.spec.{explained}")], "");
        assert!(told.contains("DESCRIPTION:\n    The"), "{told}");
    }
}
