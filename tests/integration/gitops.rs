//! The operator next to Argo CD, Flux and kubectl apply.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;

use crate::harness::{Cluster, QUIET, manifest, quiet_for};

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_diff_is_empty_after_reconcile() {
    let cluster = Cluster::for_test("diff").await;
    let operator = cluster.start_operator().await;
    let manifests = [
        manifest("bare", ""),
        manifest(
            "full",
            "name: Full, type: one-off, expiresIn: 36h30m, autoGroups: [a, b], usageLimit: 1, ephemeral: true, allowExtraDnsLabels: true, revoked: true, secret: {name: other, key: KEY, labels: {team: a}, annotations: {note: b}}",
        ),
        manifest(
            "rotated",
            "rotation: {renewBefore: 168h0m0s}, revokeUnusedAfter: 720h, secret: {aliases: [NB_SETUP_KEY, setupkey]}",
        ),
        manifest("on-request", "rotation: {}"),
    ];
    for (name, manifest) in ["bare", "full", "rotated", "on-request"].into_iter().zip(&manifests) {
        cluster.kubectl_ok(&["apply", "-f", "-"], manifest);
        cluster.ready(name).await;
        let diff = cluster.kubectl(&["diff", "-f", "-"], manifest);
        assert_eq!(String::from_utf8_lossy(&diff.stdout), "", "{name}");
        assert_eq!(diff.status.code(), Some(0), "{}", String::from_utf8_lossy(&diff.stderr));
        let diff =
            cluster.kubectl(&["diff", "--server-side", "--field-manager=kustomize-controller", "-f", "-"], manifest);
        // Exit code 1 means that there are differences, such as in managedFields. A higher code means that kubectl
        // failed.
        assert!(matches!(diff.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&diff.stderr));
        assert_eq!(String::from_utf8_lossy(&diff.stdout).matches("\n+  ").count(), 0, "{name}: server-side");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_never_writes_spec_labels_or_annotations() {
    let cluster = Cluster::for_test("hands_off").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    let key = cluster.keys().get("office").await.unwrap();
    let is_ours = |entry: &&ManagedFieldsEntry| entry.manager.as_deref() == Some("setupkey-operator");
    let ours: Vec<_> = key.managed_fields().iter().filter(is_ours).collect();
    assert!(!ours.is_empty(), "{:?}", key.managed_fields());
    for entry in ours {
        assert_eq!(entry.subresource.as_deref(), Some("status"));
        let fields = entry.fields_v1.as_ref().unwrap().0.as_object().unwrap();
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["f:status"]);
    }
    assert_eq!(key.metadata.generation, Some(1));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gitops_labels_never_reach_the_secret() {
    let cluster = Cluster::for_test("tracking").await;
    let operator = cluster.start_operator().await;
    cluster.kubectl_ok(
        &["apply", "-f", "-"],
        "{apiVersion: setupkey.dev/v1alpha1, kind: SetupKey, metadata: {name: office, labels: {app.kubernetes.io/instance: app, kustomize.toolkit.fluxcd.io/name: app}, annotations: {argocd.argoproj.io/tracking-id: 'app:x'}}, spec: {secret: {annotations: {argocd.argoproj.io/sync-options: Prune=false}}}}",
    );
    cluster.ready("office").await;
    let secret = cluster.secrets().get("office").await.unwrap();
    let labels: Vec<_> = secret.labels().keys().map(String::as_str).collect();
    assert_eq!(labels, ["app.kubernetes.io/managed-by", "setupkey.dev/key"]);
    let annotations: Vec<_> = secret.annotations().keys().map(String::as_str).collect();
    assert_eq!(annotations, ["argocd.argoproj.io/sync-options", "setupkey.dev/expires", "setupkey.dev/id"]);
    operator.stop().await;
}

/// Flux applies again and again, with a field manager of its own and with force.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_forced_apply_by_another_manager_changes_nothing() {
    let cluster = Cluster::for_test("forced_apply").await;
    let operator = cluster.start_operator().await;
    let manifest = manifest("office", "usageLimit: 3, autoGroups: [a], secret: {labels: {team: a}}");
    let apply = || {
        let forced = ["apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", "-f", "-"];
        cluster.kubectl_ok(&forced, &manifest)
    };
    apply();
    cluster.ready("office").await;
    let before = cluster.keys().get("office").await.unwrap().resource_version();
    let secret = cluster.secret_version("office").await;
    operator.requests.clear();
    for _ in 0..5 {
        apply();
    }
    quiet_for(&operator.requests, QUIET).await;
    assert_eq!(cluster.keys().get("office").await.unwrap().resource_version(), before);
    assert_eq!(cluster.secret_version("office").await, secret);
    operator.stop().await;
}
