//! The manifests that the repository ships.

use setupkey_operator::{
    api,
    key::conditions::{DELETED_AT_AUTHORITY, NOT_ISSUED, REPLACING, REVOKED_AT_AUTHORITY, UNREADY_REASONS},
};

use crate::harness::{Cluster, crds, repository};

#[test]
fn the_crds_are_generated_from_the_code() {
    for crd in api::crd_manifests() {
        let kept = std::fs::read_to_string(crds().join(&crd.file)).unwrap_or_default();
        assert!(kept == crd.text, "crds/{} is not what the code generates: run `make crds`", crd.file);
    }
    let kept = std::fs::read_dir(crds()).expect("crds/").count();
    assert_eq!(kept, api::crd_manifests().len(), "crds/ holds what the code does not know");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_accepted_and_its_keys_become_ready() {
    let cluster = Cluster::for_test("examples").await;
    let operator = cluster.start_operator().await;
    let folder = repository().join("examples");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(files.len() >= 4, "{files:?}");
    for file in &files {
        cluster.kubectl_ok(&["apply", "--server-side", "--validate=strict", "-f", file.to_str().unwrap()], "");
    }
    let overlay = folder.join("kustomize/production");
    cluster.kubectl_ok(&["apply", "--server-side", "--validate=strict", "-k", overlay.to_str().unwrap()], "");

    let names = cluster.kubectl_ok(&["get", "sk", "-o", "jsonpath={.items[*].metadata.name}"], "");
    let names: Vec<_> = names.split_whitespace().collect();
    assert_eq!(names, ["agents", "batch", "gateways-production", "laptop-ada", "nodes", "office", "workers"]);
    for name in names {
        cluster.ready(name).await;
    }
    // The pods of the examples refer to Secrets and keys that exist.
    assert_eq!(cluster.value("workers", "setup-key").await.len(), 36);
    assert_eq!(cluster.value("batch-netbird", "NB_SETUP_KEY").await.len(), 36);
    operator.stop().await;
}

fn page(name: &str) -> String {
    std::fs::read_to_string(repository().join("docs").join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_of_the_page_about_netbird_are_accepted() {
    let cluster = Cluster::for_test("netbird_page").await;
    let page = page("netbird.md");
    let manifests: Vec<_> = page.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert_eq!(manifests.len(), 2);
    for manifest in manifests {
        cluster.kubectl_ok(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], manifest);
    }
}

/// Each reason is the first word of a row that says what to do.
#[test]
fn every_reason_is_explained() {
    let pages = [page("operations.md"), page("netbird.md")].concat();
    let of_valid = [NOT_ISSUED, REVOKED_AT_AUTHORITY, DELETED_AT_AUTHORITY, REPLACING];
    for reason in UNREADY_REASONS.into_iter().chain(of_valid) {
        assert!(pages.contains(&format!("\n| `{reason}`")), "{reason} is in no table");
    }
}
