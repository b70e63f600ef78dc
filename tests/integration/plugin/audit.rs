use chrono::TimeDelta;
use serde_json::{Value, json};

use super::{
    Person, Said, ago, ahead, issued,
    workloads::{has_in_variable, mounts, pod_of},
};
use crate::harness::Cluster;

/// The namespaces of the sample in docs/plugin.md.
pub struct Sample {
    pub network: Cluster,
    ops: Cluster,
    ci: Cluster,
    lab: Cluster,
}

impl Sample {
    /// The label of all keys of the sample, and of no other ones.
    pub fn selector(&self) -> String {
        format!("sample={}", self.network.namespace)
    }
}

/// The keys of the sample in docs/plugin.md: one for each rule, but for `legacy` with two findings, and one without any.
pub async fn sample() -> Sample {
    let network = Cluster::for_test("plugin-network").await;
    let (ops, ci) = (Cluster::for_test("plugin-ops").await, Cluster::for_test("plugin-ci").await);
    let sample = Sample { network, ops, ci, lab: Cluster::for_test("plugin-lab").await };
    let Sample { network, ops, ci, lab } = &sample;
    let days = TimeDelta::days;
    let used = |times: u32, last: TimeDelta| json!({ "usedTimes": times, "lastUsed": ago(last) });
    let mut kiosks = used(40, TimeDelta::hours(1));
    kiosks["expires"] = json!(ahead(days(2)));
    let keys = [
        (ops, "legacy", json!({ "expiresIn": "8760h" }), used(3, days(1))),
        (ci, "old", json!({ "usageLimit": 5 }), json!({ "issuedAt": ago(days(45)) })),
        (lab, "bench", json!({ "usageLimit": 5 }), used(1, days(120))),
        (network, "kiosks", json!({ "usageLimit": 100 }), kiosks),
        (lab, "demo", json!({ "usageLimit": 5 }), json!({ "expires": ago(days(60)) })),
        (ops, "one", json!({ "usageLimit": 1 }), json!({})),
        (ci, "runner", json!({ "type": "one-off" }), json!({})),
        (network, "office", json!({ "usageLimit": 50 }), used(7, TimeDelta::minutes(12))),
        (network, "plain", json!({ "usageLimit": 50 }), used(7, TimeDelta::minutes(12))),
    ];
    for (cluster, name, spec, status) in keys {
        issued(cluster, name, spec, status).await;
        cluster.kubectl_ok(&["label", "sk", name, &sample.selector()], "");
    }
    pod_of(ci, "job/migrate", mounts("runner")).await;
    pod_of(network, "deployment/agent", has_in_variable("office", "setup-key")).await;
    pod_of(network, "daemonset/router", mounts("office")).await;
    sample
}

/// What `audit -A` says about the sample, with further flags.
fn audit(sample: &Sample, flags: &[&str]) -> Said {
    let all = ["audit", "-A", "-l", &sample.selector()];
    Person::administrator(&sample.network).runs(&[&all, flags].concat())
}

fn rows(said: &Said) -> Vec<Vec<&str>> {
    said.out.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_audit_finds_what_each_rule_is_about() {
    let sample = sample().await;
    let said = audit(&sample, &["--fail-on", "warn"]);
    let of = |cluster: &Cluster, name: &str| format!("{}/{name}", cluster.namespace);
    let Sample { network, ops, ci, lab } = &sample;
    let revoke = format!("kubectl setupkey revoke old -n {}", ci.namespace);
    let expected = [
        ["SEVERITY", "ID", "KEY", "FINDING", "DO"],
        ["warn", "SK003", &of(ci, "old"), "never used in 45 days since it was issued", &revoke],
        ["warn", "SK004", &of(lab, "bench"), "valid, last used 120 days ago", "revoke, or revokeUnusedAfter"],
        [
            "warn",
            "SK005",
            &of(network, "kiosks"),
            "expires in 2 days, no rotation, used 40 times so far",
            "add spec.rotation",
        ],
        ["warn", "SK001", &of(ops, "legacy"), "lives 365 days; longest advised 90", "shorter expiresIn with rotation"],
        ["warn", "SK002", &of(ops, "legacy"), "reusable without usageLimit", "set a limit, or type: one-off"],
        ["info", "SK008", &of(ci, "runner"), "not ephemeral, but its Secret is mounted by a Job", "ephemeral: true"],
        ["info", "SK006", &of(lab, "demo"), "expired 60 days ago", "delete"],
        [
            "info",
            "SK009",
            &of(network, "office"),
            "read as env variable by deployment/agent",
            "mount as file, NB_SETUP_KEY_FILE",
        ],
        ["info", "SK007", &of(ops, "one"), "reusable with usageLimit 1", "type: one-off"],
    ];
    assert_eq!(rows(&said), expected);
    assert_eq!((said.code, said.err.as_str()), (2, "5 warnings, 4 notes in 9 keys.\n"));

    let person = Person::administrator(network);
    let names = audit(&sample, &["-o", "name"]);
    let expected = ["old", "runner", "bench", "demo", "kiosks", "office", "legacy", "one"];
    let lines = names.ok().lines().map(|line| line.strip_prefix("setupkey.setupkey.dev/").expect("the kind"));
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    let json = audit(&sample, &["-o", "json", "--rule", "SK001,SK009"]).json();
    let legacy = json!({
        "id": "SK001", "severity": "warn", "namespace": ops.namespace, "name": "legacy",
        "finding": "lives 365 days; longest advised 90", "advice": "shorter expiresIn with rotation",
    });
    assert_eq!(json["findings"][0], legacy);
    assert_eq!(
        (&json["findings"][1]["name"], &json["keys"], &json["skipped"]),
        (&json!("office"), &json!(9), &json!([]))
    );
    let yaml: Value = serde_yaml::from_str(audit(&sample, &["-o", "yaml", "--rule", "SK001,SK009"]).ok()).unwrap();
    assert_eq!(yaml, json);
    // In its own namespace, a person sees the keys of that one.
    let said = person.runs(&["audit", "--no-headers"]);
    assert_eq!((rows(&said).len(), said.err.as_str()), (2, "1 warning, 1 note in 3 keys.\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_audit_ends_with_the_code_that_was_asked_for() {
    let sample = sample().await;
    for (flags, code) in [
        (&["--rule", "SK002"][..], 0),
        (&["--rule", "SK002", "--fail-on", "never"], 0),
        (&["--rule", "SK002", "--fail-on", "info"], 2),
        (&["--rule", "SK002", "--fail-on", "warn"], 2),
        (&["--rule", "SK006", "--fail-on", "info"], 2),
        (&["--rule", "SK006", "--fail-on", "warn"], 0),
        (&["--rule", "SK001", "--fail-on", "info", "--max-age", "365d"], 0),
        (&["--rule", "SK003", "--fail-on", "info", "--unused", "46d"], 0),
        (&["--rule", "SK004", "--fail-on", "info", "--idle", "121d"], 0),
        (&["--rule", "SK005", "--fail-on", "info", "--soon", "1d"], 0),
        (&["--ignore", "SK001,SK002", "--ignore", "SK003,SK004,SK005", "--fail-on", "warn"], 0),
        (&["--rule", "SK002", "--fail-on", "warn", "-o", "json"], 2),
    ] {
        let said = audit(&sample, flags);
        assert_eq!(said.code, code, "{flags:?}: {said:?}");
        assert!(code != 0 || !said.err.contains("error"), "{flags:?}: {said:?}");
    }
    let nothing = audit(&sample, &["--rule", "SK004", "--idle", "121d"]);
    assert_eq!((nothing.out.as_str(), nothing.err.as_str()), ("", "No findings in 9 keys.\n"));
    for (flags, said) in [
        (&["--rule", "SK010"][..], "the rules are SK001, SK002, SK003"),
        (&["--ignore", "SK"], "the rules are SK001, SK002, SK003"),
        (&["--rule", "SK001,SK002", "--ignore", "SK002"], "SK002 is in --rule and in --ignore"),
        (&["--max-age", "30x"], "30x"),
        (&["--fail-on", "error"], "[possible values: info, warn, never]"),
        (&["-n", "default"], "cannot be used with"),
        (&["-o", "jsonpath={.keys}"], "use json with jq"),
    ] {
        let failed = audit(&sample, flags);
        assert_eq!((failed.code, failed.out.as_str()), (1, ""), "{flags:?}");
        assert!(failed.err.contains(said), "{flags:?}: {}", failed.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_audit_has_colours_where_they_are_wanted() {
    let sample = sample().await;
    let coloured = audit(&sample, &["--color", "always", "--rule", "SK002,SK006"]);
    assert!(coloured.out.contains("\u{1b}[33mwarn\u{1b}[0m") && coloured.out.contains("\u{1b}[2minfo\u{1b}[0m"));
    let without = ["\u{1b}[33m", "\u{1b}[2m", "\u{1b}[0m"].iter().fold(coloured.out, |out, code| out.replace(code, ""));
    assert_eq!(without, audit(&sample, &["--rule", "SK002,SK006"]).out);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_audit_says_what_it_skips_without_the_right_to_list_pods() {
    let cluster = Cluster::for_test("plugin-audit-rights").await;
    issued(&cluster, "runner", json!({ "expiresIn": "8760h", "usageLimit": 5 }), json!({})).await;
    pod_of(&cluster, "job/migrate", mounts("runner")).await;
    let auditor = Person::with_rights(&cluster, "auditor", &[("list", "setupkeys.setupkey.dev")]);
    let namespace = &cluster.namespace;
    let right = format!("system:serviceaccount:{namespace}:auditor may not list pods in namespace {namespace}");
    let said = auditor.runs(&["audit", "--fail-on", "info"]);
    let skipped = format!("SK008 and SK009 are skipped: {right}.\n");
    assert_eq!((said.code, said.err), (2, format!("{skipped}1 warning, 0 notes in 1 key.\n")));
    assert_eq!(said.out.lines().count(), 2);
    let json = auditor.runs(&["audit", "-o", "json"]);
    assert_eq!((json.code, &json.err), (0, &skipped));
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((&json["skipped"], &json["keys"]), (&json!(["SK008", "SK009"]), &json!(1)));
    let one = auditor.runs(&["audit", "--ignore", "SK008", "-o", "name"]);
    assert_eq!(one.err, format!("SK009 is skipped: {right}.\n"));
    // Pods are not asked for where no rule needs them.
    let without = auditor.runs(&["audit", "--ignore", "SK008,SK009"]);
    assert_eq!((without.code, without.err.as_str()), (0, "1 warning, 0 notes in 1 key.\n"));
    // A pipeline must not take a rule that was not checked for one that found nothing.
    let only = auditor.runs(&["audit", "--rule", "SK008", "--fail-on", "info"]);
    assert_eq!(only.fails(), format!("SK008 is skipped, and no other rule is chosen: {right}"));
    let seen = Person::administrator(&cluster).runs(&["audit", "--rule", "SK008", "--fail-on", "info"]);
    assert_eq!((seen.code, seen.err.as_str()), (2, "0 warnings, 1 note in 1 key.\n"));

    let guest = Person::with_rights(&cluster, "guest", &[("list", "pods")]);
    assert!(guest.runs(&["audit"]).fails().contains("may not list setupkeys.setupkey.dev in namespace"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_audit_tells_of_keys_that_it_cannot_read() {
    let cluster = Cluster::for_test("plugin-audit-undecodable").await;
    issued(&cluster, "legacy", json!({ "expiresIn": "8760h", "usageLimit": 5 }), json!({})).await;
    // The API server does not look at the offset of a time, and there is no such offset.
    cluster.apply("strange", "expiresIn: 8760h");
    let expires = r#"{"status":{"expires":"2026-11-24T06:00:00+99:99"}}"#;
    let patch = ["patch", "sk", "strange", "--subresource=status", "--type=merge", "-p", expires];
    cluster.unguarded_kubectl_ok(&patch, "");
    let said = Person::administrator(&cluster).runs(&["audit"]);
    let of_status = Person::administrator(&cluster).runs(&["status", "strange"]);
    assert!(of_status.fails().contains("strange"), "{of_status:?}");
    let lines: Vec<_> = said.err.lines().collect();
    let warning = format!("warning: SetupKey {}/strange is left out, because it cannot be read: ", cluster.namespace);
    assert!(lines.len() == 2 && lines[0].starts_with(&warning), "{lines:?}");
    assert_eq!((said.code, lines[1], rows(&said).len()), (1, "1 warning, 0 notes in 1 key.", 2));
    let failed = Person::administrator(&cluster).runs(&["audit", "--fail-on", "warn", "-o", "json"]);
    let audit: Value = serde_json::from_str(&failed.out).unwrap();
    assert_eq!((failed.code, &audit["unread"]), (2, &json!([format!("{}/strange", cluster.namespace)])));
    // The verbs that change keys have not done all that they were asked for either.
    let rotated = Person::administrator(&cluster).runs(&["rotate", "--all"]);
    assert_eq!((rotated.code, rotated.out.as_str()), (1, "setupkey legacy: rotation requested\n"), "{}", rotated.err);
    // Tests that list the keys of all namespaces have no use for it.
    cluster.kubectl_ok(&["delete", "sk", "strange"], "");
    let empty = Cluster::for_test("plugin-audit-empty").await;
    let said = Person::administrator(&empty).runs(&["audit", "--fail-on", "info"]);
    let nothing = format!("No SetupKeys found in namespace {}.\n", empty.namespace);
    assert_eq!((said.code, said.out.as_str(), said.err), (0, "", nothing));
}
