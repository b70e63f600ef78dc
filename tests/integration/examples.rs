//! The manifests that the repository ships.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::ResourceExt;
use secrecy::ExposeSecret;
use serde_json::Value;
use setupkey_operator::{
    api,
    authority::netbird::Hosts,
    controller::AuthoritySettings,
    key::conditions::{DELETED_AT_AUTHORITY, NOT_ISSUED, REPLACING, REVOKED_AT_AUTHORITY, UNREADY_REASONS, UNUSED},
};
use uuid::Uuid;

use crate::harness::{Cluster, Setup, crds, netbird::NetBird, page, repository};

/// What NetBird's operator reads of an NBSetupKey, as in its own CRD.
const NB_SETUP_KEY_CRD: &str = r#"{
    apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: nbsetupkeys.netbird.io},
    spec: {
        group: netbird.io, scope: Namespaced,
        names: {kind: NBSetupKey, listKind: NBSetupKeyList, plural: nbsetupkeys, singular: nbsetupkey},
        versions: [{
            name: v1, served: true, storage: true, subresources: {status: {}},
            schema: {openAPIV3Schema: {type: object, properties: {
                spec: {type: object, required: [secretKeyRef], properties: {
                    managementURL: {type: string},
                    secretKeyRef: {type: object, required: [key], x-kubernetes-map-type: atomic, properties: {
                        key: {type: string}, name: {type: string, default: ""}, optional: {type: boolean},
                    }},
                }},
                status: {type: object, x-kubernetes-preserve-unknown-fields: true},
            }}},
        }],
    },
}"#;

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
    let netbird = NetBird::over_https("examples").await;
    cluster.kubectl_ok(&["apply", "-f", "-"], NB_SETUP_KEY_CRD);
    cluster.kubectl_ok(&["wait", "--for=condition=Established", "crd/nbsetupkeys.netbird.io"], "");
    let authorities = AuthoritySettings {
        hosts: Hosts::new(Vec::new(), false),
        namespace: cluster.namespace.clone(),
        of_cluster: true,
        ..AuthoritySettings::default()
    };
    let operator = cluster.start_operator_with(Setup { authorities, ..Setup::default() }).await;
    let folder = repository().join("examples");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(files.len() >= 15, "{files:?}");
    for file in &files {
        for document in for_this_test(&cluster, &netbird, file) {
            cluster.kubectl_ok(&["apply", "--server-side", "--validate=strict", "-f", "-"], &document);
        }
    }
    let overlay = folder.join("kustomize/production");
    cluster.kubectl_ok(&["apply", "--server-side", "--validate=strict", "-k", overlay.to_str().unwrap()], "");

    let names = cluster.kubectl_ok(&["get", "sk", "-o", "jsonpath={.items[*].metadata.name}"], "");
    let names: Vec<_> = names.split_whitespace().collect();
    let in_cluster = [
        "agents",
        "batch",
        "branches",
        "gateways-production",
        "kiosk-1",
        "kiosk-2",
        "laptop-ada",
        "nodes",
        "office",
        "scanners",
        "workers",
    ];
    let at_netbird =
        ["netbird-charts", "netbird-job", "netbird-laptops", "netbird-nodes", "netbird-sidecars", "netbird-web"];
    let mut expected = [in_cluster.as_slice(), &at_netbird].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for name in names {
        let status = cluster.ready(name).await;
        let id = status.id.expect("an id");
        assert_eq!(netbird.api.key(id.as_str()).await.is_some(), at_netbird.contains(&name), "{name}");
    }
    // The pods of the examples refer to Secrets and keys that exist.
    assert_eq!(cluster.value("workers", "setup-key").await.len(), 36);
    assert_eq!(cluster.value("batch-netbird", "NB_SETUP_KEY").await.len(), 36);
    assert_eq!(cluster.value("scanners", "setup-key").await.len(), 36);
    for (secret, key) in [("netbird-web", "setup-key"), ("netbird-nodes", "setup-key"), ("netbird-job", "NB_SETUP_KEY")]
    {
        assert_is_uuid(&cluster.value(secret, key).await);
    }
    assert_eq!(cluster.value("netbird-job", "NB_MANAGEMENT_URL").await, netbird.base_url);
    for key in ["NB_SETUP_KEY", "key", "SETUP_KEY", "setupKey", "setupkey"] {
        assert_is_uuid(&cluster.value("netbird-setup-key", key).await);
    }
    // NetBird's operator takes no other value.
    let reference = "jsonpath={.spec.secretKeyRef.name} {.spec.secretKeyRef.key}";
    let reference = cluster.kubectl_ok(&["get", "nbsetupkey", "sidecars", "-o", reference], "");
    let (secret, key) = reference.split_once(' ').expect("a name and a key");
    assert_is_uuid(&cluster.value(secret, key).await);
    operator.stop().await;
}

/// Reloader restarts a workload with "search" when the data changes of a Secret with "match" that the workload refers to.
#[tokio::test(flavor = "multi_thread")]
async fn reloader_finds_its_annotation_on_the_secret_after_a_rotation_too() {
    let cluster = Cluster::for_test("reloader").await;
    let operator = cluster.start_operator().await;
    let example = repository().join("examples/reloader.yaml");
    cluster.kubectl_ok(&["apply", "--validate=strict", "-f", example.to_str().unwrap()], "");
    let first = cluster.ready("scanners").await;
    let searches = r"jsonpath={.metadata.annotations.reloader\.stakater\.com/search}";
    assert_eq!(cluster.kubectl_ok(&["get", "deployment", "scanner", "-o", searches], ""), "true");
    let variable = "jsonpath={.spec.template.spec.containers[0].env[0].valueFrom.secretKeyRef.name}";
    assert_eq!(cluster.kubectl_ok(&["get", "deployment", "scanner", "-o", variable], ""), "scanners");
    let found = || async {
        let secret = cluster.secrets().get("scanners").await.unwrap();
        (secret.annotations().get("reloader.stakater.com/match").cloned(), secret.data)
    };
    let (matches, before) = found().await;
    assert_eq!(matches.as_deref(), Some("true"));
    cluster.rotate("scanners", &first).await;
    let (matches, after) = found().await;
    assert_eq!(matches.as_deref(), Some("true"));
    assert!(before != after, "the data of the Secret is the same");
    operator.stop().await;
}

/// An example as written, except that the server, the token and the name of the `ClusterAuthority` are this test's own.
fn for_this_test(cluster: &Cluster, netbird: &NetBird, file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("an example");
    let mut documents = Vec::new();
    for text in text.split("\n---\n") {
        let mut document: Value = serde_yaml::from_str(text).expect("YAML");
        if let Some(namespace) = document.pointer_mut("/metadata/namespace") {
            *namespace = cluster.namespace.as_str().into();
        }
        if let Some(name) = document.pointer_mut("/spec/authorityRef/name") {
            assert_eq!(name, "netbird", "{}", file.display());
            *name = netbird.prefix.as_str().into();
        }
        match document["kind"].as_str() {
            Some("Secret") => document["stringData"]["NB_API_KEY"] = netbird.admin.token.expose_secret().into(),
            Some("ClusterAuthority") => {
                document["metadata"]["name"] = netbird.prefix.as_str().into();
                document["spec"]["netbird"]["url"] = netbird.base_url.as_str().into();
                document["spec"]["netbird"]["caBundle"] = BASE64_STANDARD.encode(netbird.authority()).into();
            }
            Some("SetupKey") => {}
            // kubectl reads YAML in another version.
            _ => {
                documents.push(text.to_owned());
                continue;
            }
        }
        documents.push(document.to_string());
    }
    documents
}

/// Does not print it.
fn assert_is_uuid(key: &str) {
    assert!(Uuid::try_parse(key).is_ok(), "the key is no UUID");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_of_the_page_about_netbird_are_accepted() {
    let cluster = Cluster::for_test("netbird_page").await;
    let page = page("netbird.md");
    let manifests: Vec<_> = page.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert_eq!(manifests.len(), 3);
    for manifest in manifests {
        cluster.kubectl_ok(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], manifest);
    }
}

/// The page shows parts of manifests too, which are left out.
#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_of_the_page_about_rotation_are_accepted() {
    let cluster = Cluster::for_test("rotation_page").await;
    let page = page("rotation.md");
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let manifests: Vec<_> = blocks.filter(|block| block.starts_with("apiVersion")).collect();
    assert_eq!(manifests.len(), 2);
    for manifest in manifests {
        cluster.kubectl_ok(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], manifest);
    }
}

/// Each reason is the first word of a row that says what to do.
#[test]
fn every_reason_is_explained() {
    let pages = [page("operations.md"), page("netbird.md")].concat();
    let of_valid = [NOT_ISSUED, REVOKED_AT_AUTHORITY, UNUSED, DELETED_AT_AUTHORITY, REPLACING];
    for reason in UNREADY_REASONS.into_iter().chain(of_valid) {
        assert!(pages.contains(&format!("\n| `{reason}`")), "{reason} is in no table");
    }
}
