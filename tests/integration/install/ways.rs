//! kubectl, kustomize, Argo CD, and the plain manifests of a release, one after the other in one cluster.

use super::site::{Site, blocks, ok};
use crate::harness::tool;

/// The values of an operator for this namespace.
fn values(site: &Site, namespace: &str) {
    site.write("values.yaml", &format!("scope:\n  namespaces: [{namespace}]\n"));
}

/// The operator works. What was applied stays as it was: there is nothing to apply, and to apply it again changes nothing.
/// The flags and the file are those of kubectl.
fn works_and_stays(site: &Site, namespace: &str, applied: &str) {
    let generations = format!(
        "kubectl get -n {namespace} -f {} -o jsonpath='{{range .items[*]}}{{.kind}}/{{.metadata.name}} {{.metadata.generation}}{{\"\\n\"}}{{end}}'",
        applied.rsplit(' ').next().unwrap()
    );
    let before = ok(site.run(&generations));
    assert!(before.contains("Deployment/"), "{before}");
    let operator = site.operator(namespace);
    site.issues_a_key(&operator, namespace);
    is_settled(site, namespace, applied);
    site.kubectl(&format!("apply {applied}"));
    assert_eq!(ok(site.run(&generations)), before, "{namespace}");
}

fn is_settled(site: &Site, namespace: &str, applied: &str) {
    let diff = site.run(&format!("kubectl diff {applied}"));
    let (found, error) = (String::from_utf8_lossy(&diff.stdout), String::from_utf8_lossy(&diff.stderr));
    assert_eq!((diff.status.code(), &*found), (Some(0), ""), "{namespace}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_install_ends_in_a_key_and_a_second_time_changes_nothing() {
    let site = Site::start();

    let [render] = blocks("## Helm template and kubectl apply", "console").try_into().unwrap();
    values(&site, "by-template");
    ok(site.follow(&render, "by-template"));
    works_and_stays(&site, "by-template", "--server-side -f rendered.yaml");

    // Client-side, in a namespace of its own: the two ways do not mix.
    values(&site, "client-side");
    ok(site.follow(&render.replace("apply --server-side", "apply"), "client-side"));
    works_and_stays(&site, "client-side", "-f rendered.yaml");

    let [kustomization] = blocks("## Kustomize", "yaml").try_into().unwrap();
    let [build] = blocks("## Kustomize", "console").try_into().unwrap();
    site.write("kustomization.yaml", &kustomization.replace("setupkey-system", "by-kustomize"));
    values(&site, "by-kustomize");
    ok(site.follow(&build, "by-kustomize"));
    works_and_stays(&site, "by-kustomize", "--server-side -f rendered.yaml");
    // The older Helm renders the same objects.
    let helm3 = format!("kubectl kustomize --enable-helm --helm-command {} .", tool("helm3").display());
    let kinds = |text: &str| text.lines().filter(|line| line.starts_with("kind: ")).count();
    let rendered = std::fs::read_to_string(site.folder().join("rendered.yaml")).unwrap();
    assert_eq!(kinds(&ok(site.run(&helm3))), kinds(&rendered));

    argo_cd(&site);

    // The file has its namespace, which is the page's.
    let [apply] = blocks("## Plain manifests", "console").try_into().unwrap();
    ok(site.follow(&apply, "setupkey-system"));
    works_and_stays(&site, "setupkey-system", "--server-side -f setupkey-operator.yaml");
    site.stop();
}

/// Renders and applies as Argo CD does. It takes over fields that others have set.
fn argo_cd(site: &Site) {
    values(site, "argo-cd");
    let render = "
        kubectl create namespace argo-cd
        version=$(kubectl version -o json | sed -n 's/.*\"gitVersion\": \"v\\([0-9.]*\\)\".*/\\1/p' | tail -1)
        versions=$(kubectl api-versions | sed 's/^/--api-versions /')
        cd charts/setupkey-operator
        helm template . --name-template setupkey-operator --namespace argo-cd --kube-version \"$version\" $versions \
            --values ../../values.yaml --include-crds >../../rendered.yaml";
    ok(site.run(render));
    let applied = "--server-side --force-conflicts --field-manager argocd-controller -f rendered.yaml";
    site.kubectl(&format!("apply {applied}"));
    works_and_stays(site, "argo-cd", applied);
    // A key that has its status already, as that of another Application.
    let key = "-n argo-cd --server-side --force-conflicts --field-manager argocd-controller -f key.yaml";
    site.kubectl(&format!("apply {key}"));
    is_settled(site, "argo-cd", key);
}
