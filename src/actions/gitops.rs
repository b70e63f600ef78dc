//! Whether a GitOps tool manages a key and will therefore revert a change made here.

use kube::api::ObjectMeta;

/// The GitOps tool that manages an object, recognised by its labels, annotations and field managers.
///
/// Argo CD can also track by the label `app.kubernetes.io/instance`, but charts set that label too. Such an object is
/// recognised by Argo CD's field manager.
pub fn managed_by(metadata: &ObjectMeta) -> Option<&'static str> {
    let labels = metadata.labels.iter().flatten();
    let keys = || labels.clone().chain(metadata.annotations.iter().flatten()).map(|(key, _)| key.as_str());
    let managers = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref());
    let applied_by = |tool: &str| managers.clone().any(|manager| manager == tool);
    let marked = |marks: &[&str]| keys().any(|key| marks.contains(&key));
    if marked(&["argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance"]) || applied_by("argocd-controller") {
        Some("Argo CD")
    } else if marked(&["kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"])
        || applied_by("kustomize-controller")
    {
        Some("Flux")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(metadata: Value) -> Option<&'static str> {
        managed_by(&serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn the_marks_of_each_tool_are_known() {
        let argo = Some("Argo CD");
        let tracking = json!({ "argocd.argoproj.io/tracking-id": "app:setupkey.dev/SetupKey:n/k" });
        assert_eq!(found(json!({ "annotations": tracking })), argo);
        assert_eq!(found(json!({ "labels": { "argocd.argoproj.io/instance": "app" } })), argo);
        assert_eq!(found(json!({ "managedFields": [{ "manager": "argocd-controller" }] })), argo);
        let flux = Some("Flux");
        assert_eq!(found(json!({ "labels": { "kustomize.toolkit.fluxcd.io/name": "apps" } })), flux);
        assert_eq!(found(json!({ "labels": { "helm.toolkit.fluxcd.io/name": "release" } })), flux);
        assert_eq!(found(json!({ "managedFields": [{ "manager": "kustomize-controller" }] })), flux);
    }

    #[test]
    fn what_people_and_charts_write_is_no_mark() {
        let options = json!({ "argocd.argoproj.io/sync-options": "Prune=false" });
        let labels = json!({ "app.kubernetes.io/instance": "app", "kustomize.toolkit.fluxcd.io/prune": "disabled" });
        let managers = json!([{ "manager": "kubectl-client-side-apply" }]);
        let metadata = json!({ "annotations": options, "labels": labels, "managedFields": managers });
        assert_eq!(found(metadata), None);
    }
}
