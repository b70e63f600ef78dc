//! Policies and webhooks between the operator and its Secrets, as cluster administrators install them. The status
//! reports the problem for as long as it lasts, and clears soon after the repair.

use std::time::{Duration, Instant};

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use setupkey_operator::api::{SetupKeyStatus, State};

use crate::{
    harness::{Cluster, condition, digest, eventually, says},
    process::Process,
};

/// How long the repair of a policy may take to show. It is not watched, so it shows at the next retry, and pauses double:
/// what was refused for some seconds is retried within twice as long.
const REPAIR: Duration = Duration::from_secs(15);

/// How long an error that may pass by itself takes to be gone. It is retried quickly for half a minute.
const END_OF_ERROR: Duration = Duration::from_secs(6);

/// Longer than the first pauses between the operator's retries.
const WHILE: Duration = Duration::from_secs(6);

/// A policy for the Secrets of one namespace. Dropping this value deletes the policy.
struct Policy<'a> {
    cluster: &'a Cluster,
    kind: &'static str,
}

impl<'a> Policy<'a> {
    /// Refuses Secrets for which this CEL expression is false.
    fn refuses_unless(cluster: &'a Cluster, expression: &str) -> Self {
        let spec = format!(r#"validations: [{{ expression: "{expression}", message: "the platform team says no" }}]"#);
        Self::install(cluster, "ValidatingAdmissionPolicy", "validationActions: [Deny]", &spec)
    }

    /// Changes Secrets by a JSON patch, written in CEL.
    fn changes(cluster: &'a Cluster, patch: &str) -> Self {
        let spec = format!(
            r#"reinvocationPolicy: Never
  mutations: [{{ patchType: JSONPatch, jsonPatch: {{ expression: '{patch}' }} }}]"#
        );
        Self::install(cluster, "MutatingAdmissionPolicy", "", &spec)
    }

    fn install(cluster: &'a Cluster, kind: &'static str, binding: &str, spec: &str) -> Self {
        let name = &cluster.namespace;
        let manifest = format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: {kind}
metadata: {{ name: {name} }}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: {name} }} }}
    resourceRules:
      - {{ apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets] }}
  {spec}
---
apiVersion: admissionregistration.k8s.io/v1
kind: {kind}Binding
metadata: {{ name: {name} }}
spec:
  policyName: {name}
  {binding}
"#
        );
        cluster.kubectl_ok(&["apply", "-f", "-"], &manifest);
        Self { cluster, kind }
    }

    /// Waits until the API server enforces the policy: a dry run with this Secret ends as expected.
    async fn in_force(self, secret: &str, in_force: impl Fn(bool, &str) -> bool) -> Self {
        let manifest = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: probe}}, {secret}}}");
        probe(self.cluster, &manifest, in_force).await;
        self
    }

    fn lift(self) -> Instant {
        drop(self);
        Instant::now()
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        let name = self.cluster.namespace.as_str();
        for kind in [format!("{}Binding", self.kind), self.kind.to_owned()] {
            self.cluster.kubectl(&["delete", &kind, name, "--ignore-not-found"], "");
        }
    }
}

/// Waits until a dry run that creates this Secret ends as expected.
async fn probe(cluster: &Cluster, manifest: &str, expected: impl Fn(bool, &str) -> bool) {
    eventually("the API server to enforce its policies", || async {
        let output = cluster.kubectl(&["create", "--dry-run=server", "-o", "yaml", "-f", "-"], manifest);
        let text = [output.stdout, output.stderr].concat();
        expected(output.status.success(), &String::from_utf8_lossy(&text)).then_some(())
    })
    .await;
}

/// Checks for a while that the key is stalled for this reason and for no other.
async fn stays(cluster: &Cluster, name: &str, reason: &str) {
    let started = Instant::now();
    let mut looks = 0;
    while started.elapsed() < WHILE {
        let status = cluster.keys().get(name).await.unwrap().status.unwrap();
        let at = started.elapsed();
        assert_eq!(says(&status, "Ready"), format!("False {reason}"), "after {at:?}");
        assert_eq!(says(&status, "Stalled"), format!("True {reason}"), "after {at:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        looks += 1;
    }
    assert!(looks > 10, "only {looks} checks");
}

async fn stalled(cluster: &Cluster, name: &str, reason: &str) -> SetupKeyStatus {
    let wanted = format!("False {reason}");
    cluster.status_when(name, reason, |status| says(status, "Ready") == wanted).await
}

fn message(status: &SetupKeyStatus) -> &str {
    condition(status, "Ready").map_or("", |ready| ready.message.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_label_is_reported_until_it_is_stored() {
    let cluster = Cluster::for_test("refused_label").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {labels: {team: a}}");
    cluster.ready("office").await;
    let unless =
        "!has(object.metadata.labels) || !('team' in object.metadata.labels) || object.metadata.labels.team != 'c'";
    let policy = Policy::refuses_unless(&cluster, unless);
    let policy = policy.in_force("metadata: {name: probe, labels: {team: c}}", |ok, _| !ok).await;
    cluster.patch_spec("office", json!({ "secret": { "labels": { "team": "c" } } })).await;
    let refused = stalled(&cluster, "office", "SecretRefused").await;
    assert!(message(&refused).contains("the platform team says no"), "{}", message(&refused));
    assert_eq!(refused.valid, Some(true), "its key is untouched");
    stays(&cluster, "office", "SecretRefused").await;
    let (busiest, object) = operator.attempts.busiest_second();
    assert!(busiest <= 10, "{busiest} requests within a second on {object}");
    operator.stop().await;

    // A controller that has just started reports the same, and repairs it.
    let operator = cluster.start_operator().await;
    stays(&cluster, "office", "SecretRefused").await;
    let repaired = policy.lift();
    cluster.ready("office").await;
    assert!(repaired.elapsed() < REPAIR, "well {:?} after the repair", repaired.elapsed());
    assert_eq!(cluster.secrets().get("office").await.unwrap().labels()["team"], "c");
    operator.stop().await;
}

/// A policy adds an annotation of 300 KiB, more than the API server accepts.
#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_that_does_not_fit_is_reported_until_it_does() {
    let cluster = Cluster::for_test("long_annotation").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    let long = format!(r#""{}".replace("a", "{}")"#, "a".repeat(600), "x".repeat(512));
    let patch = format!(r#"[JSONPatch{{op: "add", path: "/metadata/annotations/long", value: {long}}}]"#);
    let policy = Policy::changes(&cluster, &patch);
    let policy = policy.in_force("metadata: {name: probe, annotations: {a: b}}", |ok, _| !ok).await;
    cluster.patch_spec("office", json!({ "secret": { "annotations": { "note": "short" } } })).await;
    let refused = stalled(&cluster, "office", "SecretRefused").await;
    assert!(message(&refused).contains("262144 bytes"), "{}", message(&refused));
    assert!(message(&refused).len() < 2000, "the message is {} characters long", message(&refused).len());
    stays(&cluster, "office", "SecretRefused").await;
    policy.lift();
    cluster.ready("office").await;
    assert_eq!(cluster.secrets().get("office").await.unwrap().annotations()["note"], "short");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_says_who_manages_secrets_stops_no_key() {
    let cluster = Cluster::for_test("managed_by").await;
    let patch = r#"[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("app.kubernetes.io/managed-by"), value: "platform"}]"#;
    let policy = Policy::changes(&cluster, patch);
    let policy = policy.in_force("metadata: {name: probe, labels: {a: b}}", |_, text| text.contains("platform")).await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let ready = cluster.ready("office").await;
    assert!(message(&ready).contains("label app.kubernetes.io/managed-by"), "{}", message(&ready));
    assert_eq!(ready.digest, Some(digest(&cluster.value("office", "setup-key").await)));
    assert_eq!(operator.requests.writes().len(), 2, "{:?}", operator.requests);
    tokio::time::sleep(WHILE).await;
    assert_eq!(operator.requests.writes().len(), 2, "{:?}", operator.requests);

    operator.requests.clear();
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    let revoked = cluster.ready("office").await;
    assert_eq!(revoked.state, Some(State::Revoked));
    tokio::time::sleep(WHILE).await;
    assert!(operator.requests.writes().len() <= 3, "{:?}", operator.requests);
    drop(policy);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_of_the_spec_that_is_not_stored_is_named_and_not_fought_over() {
    let cluster = Cluster::for_test("not_kept").await;
    let patch = r#"[JSONPatch{op: "add", path: "/metadata/labels/team", value: "platform"}]"#;
    let policy = Policy::changes(&cluster, patch);
    let policy = policy.in_force("metadata: {name: probe, labels: {a: b}}", |_, text| text.contains("platform")).await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {labels: {team: a}}");
    let not_kept = stalled(&cluster, "office", "MetadataNotKept").await;
    assert!(message(&not_kept).contains("label team"), "{}", message(&not_kept));
    assert_eq!((not_kept.valid, not_kept.state), (Some(true), Some(State::Valid)), "its key is what the Secret holds");
    cluster.event("office", "MetadataNotKept").await;
    stays(&cluster, "office", "MetadataNotKept").await;
    assert!(operator.requests.writes().len() <= 4, "{:?}", operator.requests);
    // Once the policy is gone, the next change repairs the Secret.
    policy.lift();
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: probe, labels: {a: b}}}";
    probe(&cluster, secret, |_, text| !text.contains("platform")).await;
    cluster.patch_spec("office", json!({ "autoGroups": ["a"] })).await;
    cluster.ready("office").await;
    assert_eq!(cluster.secrets().get("office").await.unwrap().labels()["team"], "a");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_policy_replaces_is_never_called_valid() {
    let cluster = Cluster::for_test("replaced_data").await;
    // A key in the operator's own format, so that only a comparison tells it from the issued one.
    let theirs = "563A1F41-DB48-43E6-B871-0EF6B9304390";
    let encoded = "NTYzQTFGNDEtREI0OC00M0U2LUI4NzEtMEVGNkI5MzA0Mzkw";
    let patch = format!(
        r#"has(object.data) && "setup-key" in object.data ? [JSONPatch{{op: "replace", path: "/data/setup-key", value: "{encoded}"}}] : []"#
    );
    let policy = Policy::changes(&cluster, &patch);
    let policy = policy.in_force("data: {setup-key: YQ==}", |_, text| text.contains(encoded)).await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    let altered = stalled(&cluster, "office", "SecretAltered").await;
    assert_eq!(cluster.value("office", "setup-key").await, theirs);
    assert_eq!((altered.digest, altered.valid, altered.state), (None, Some(false), None));
    cluster.event("office", "SecretAltered").await;
    let version = cluster.secret_version("office").await;
    stays(&cluster, "office", "SecretAltered").await;
    assert_eq!(cluster.secret_version("office").await, version, "the Secret was written again");

    let repaired = policy.lift();
    let ready = cluster.ready("office").await;
    assert!(repaired.elapsed() < REPAIR, "well {:?} after the repair", repaired.elapsed());
    let value = cluster.value("office", "setup-key").await;
    assert_ne!(value, theirs);
    assert_eq!((ready.digest, ready.valid), (Some(digest(&value)), Some(true)));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_a_policy_replaces_is_named_and_not_fought_over() {
    let cluster = Cluster::for_test("replaced_alias").await;
    let encoded = "NTYzQTFGNDEtREI0OC00M0U2LUI4NzEtMEVGNkI5MzA0Mzkw";
    let patch = format!(
        r#"has(object.data) && "alias" in object.data ? [JSONPatch{{op: "replace", path: "/data/alias", value: "{encoded}"}}] : []"#
    );
    let policy = Policy::changes(&cluster, &patch);
    let policy = policy.in_force("data: {alias: YQ==}", |_, text| text.contains(encoded)).await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    operator.requests.clear();
    cluster.patch_spec("office", json!({ "secret": { "aliases": ["alias"] } })).await;
    let not_kept = stalled(&cluster, "office", "MetadataNotKept").await;
    assert!(message(&not_kept).contains("data key alias"), "{}", message(&not_kept));
    assert_eq!((not_kept.valid, not_kept.state), (Some(true), Some(State::Valid)), "its key is what the Secret holds");
    stays(&cluster, "office", "MetadataNotKept").await;
    assert!(operator.requests.writes().len() <= 4, "{:?}", operator.requests);
    policy.lift();
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: probe}, data: {alias: YQ==}}";
    probe(&cluster, secret, |_, text| !text.contains(encoded)).await;
    cluster.patch_spec("office", json!({ "autoGroups": ["a"] })).await;
    cluster.ready("office").await;
    assert_eq!(cluster.value("office", "alias").await, cluster.value("office", "setup-key").await);
    operator.stop().await;
}

/// A webhook for Secrets without a server behind it. The API server reports this as an error of its own.
fn dead_webhook(cluster: &Cluster) {
    let name = &cluster.namespace;
    let manifest = format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{ name: {name} }}
webhooks:
  - name: nothing.example.com
    failurePolicy: Fail
    sideEffects: None
    admissionReviewVersions: [v1]
    timeoutSeconds: 2
    clientConfig: {{ url: "https://127.0.0.1:1/" }}
    namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: {name} }} }}
    rules: [{{ apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets] }}]
"#
    );
    cluster.kubectl_ok(&["apply", "-f", "-"], &manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_lasts_is_reported_and_hides_no_revocation() {
    let cluster = Cluster::for_test("dead_webhook").await;
    let operator = cluster.start_operator().await;
    cluster.apply("before", "");
    cluster.ready("before").await;
    dead_webhook(&cluster);
    eventually("the webhook to be in force", || async {
        let secret = "{apiVersion: v1, kind: Secret, metadata: {name: probe}}";
        let output = cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], secret);
        (!output.status.success()).then_some(())
    })
    .await;
    cluster.apply("after", "");
    cluster.patch_spec("before", json!({ "revoked": true, "secret": { "labels": { "team": "c" } } })).await;

    let changed = Instant::now();
    eventually("the revocation to show", || async {
        let status = cluster.keys().get("before").await.ok()?.status?;
        (status.state == Some(State::Revoked) && says(&status, "Valid") == "False Revoked").then_some(())
    })
    .await;
    assert!(changed.elapsed() < Duration::from_secs(2), "the revocation showed after {:?}", changed.elapsed());
    for name in ["before", "after"] {
        let failed = stalled(&cluster, name, "SecretFailed").await;
        assert!(message(&failed).contains("nothing.example.com"), "{}", message(&failed));
        cluster.event(name, "SecretFailed").await;
    }
    assert!(changed.elapsed() < Duration::from_secs(10), "reported after {:?}", changed.elapsed());
    stays(&cluster, "after", "SecretFailed").await;

    cluster.kubectl_ok(&["delete", "validatingwebhookconfiguration", &cluster.namespace], "");
    let repaired = Instant::now();
    cluster.ready("after").await;
    let ready = cluster.ready("before").await;
    assert!(repaired.elapsed() < END_OF_ERROR, "well {:?} after the repair", repaired.elapsed());
    assert_eq!(ready.state, Some(State::Revoked));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_of_other_controllers_leave_room_for_ours() {
    let cluster = Cluster::for_test("foreign_conditions").await;
    let foreign = |count: usize| {
        let one = |number: usize| {
            json!({
                "type": format!("example.com/C{number}"), "status": "True", "reason": "Theirs", "message": "",
                "lastTransitionTime": "2026-11-24T06:00:00Z",
            })
        };
        json!({ "conditions": (0..count).map(one).collect::<Vec<_>>() })
    };
    cluster.apply("office", "");
    let theirs = Patch::Merge(json!({ "status": foreign(16) }));
    cluster.keys().patch_status("office", &PatchParams::default(), &theirs).await.expect("conditions of others");
    let operator = cluster.start_operator().await;
    cluster.ready("office").await;
    cluster.patch_spec("office", json!({ "revoked": true })).await;
    let revoked = cluster.ready("office").await;
    assert_eq!(revoked.conditions.len(), 18, "one of the conditions is gone");
    operator.stop().await;

    // A write that would leave no room for the operator's conditions is refused, with the reason.
    let patch = json!({ "status": foreign(17) }).to_string();
    let refused = cluster.kubectl(&["patch", "sk", "office", "--subresource=status", "--type=merge", "-p", &patch], "");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("at most 16 conditions"), "{told}");
}

/// A policy's sentence is quoted in the log, in the status and in an event.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentence_of_a_policy_sends_no_codes_to_terminals() {
    let (cluster, folder) = (Cluster::for_test("terminal").await, tempfile::tempdir().unwrap());
    let codes = r#"validations: [{ expression: "false", message: "no \e]0;title\a\e[2J\x9b31m\u202e\u2028end" }]"#;
    let policy = Policy::install(&cluster, "ValidatingAdmissionPolicy", "validationActions: [Deny]", codes);
    let policy = policy.in_force("data: {}", |created, text| !created && text.contains("title")).await;
    let mut operator = Process::start(&cluster, folder.path(), "operator", &["--health-address", "127.0.0.1:0"]);
    cluster.apply("office", "");
    let status = stalled(&cluster, "office", "SecretRefused").await;
    let note = cluster.event("office", "SecretRefused").await.note.unwrap();
    operator.logs("SecretRefused").await;
    operator.stop().await;
    policy.lift();
    for (place, text) in [("status", message(&status)), ("event", &note), ("log", &operator.log())] {
        assert!(text.contains(r"no \u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2028}end"), "{place}: {text}");
        let odd = text.chars().filter(|&c| c != '\n' && (c.is_control() || "\u{202e}\u{2028}".contains(c)));
        let odd: Vec<_> = odd.collect();
        assert!(odd.is_empty(), "{place}: {odd:?}");
    }
    assert!(!message(&status).contains('\n') && !note.contains('\n'), "{note}");
}
