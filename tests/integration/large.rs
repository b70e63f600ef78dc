//! What a tenant can make large, and what it costs everybody else.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::{
    harness::{Cluster, Setup, says},
    observability,
    process::Process,
};

/// Enough that a page of a list, read whole, takes more memory than the chart allows.
const OBJECTS: usize = 60;

/// The chart's limit of memory is 256 MiB.
const MOST_MIB: usize = 128;

/// A megabyte of labels. Nothing in Kubernetes bounds their number.
fn labels() -> BTreeMap<String, String> {
    let prefix = ["a"; 5].map(|_| "a".repeat(49)).join(".");
    (0..2800).map(|number| (format!("{prefix}/{number:060}"), "v".repeat(63))).collect()
}

impl Cluster {
    /// Creates the objects a few at a time.
    async fn create_many<K>(&self, objects: Vec<Value>)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: kube::Api<K> = kube::Api::namespaced(self.client.clone(), &self.namespace);
        let create = |object: Value| {
            let api = api.clone();
            async move { api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await }
        };
        stream::iter(objects).map(create).buffer_unordered(4).try_for_each(async |_| Ok(())).await.unwrap();
    }

    async fn forget_everything(&self) {
        self.kubectl_ok(&["delete", "setupkeys,secrets", "--all", "--wait=false"], "");
    }
}

fn large_keys() -> Vec<Value> {
    let key = |number| {
        json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "name": format!("large-{number}"), "labels": labels() }, "spec": {},
        })
    };
    (0..OBJECTS).map(key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_of_one_tenant_stop_nobody() {
    let (cluster, folder) = (Cluster::for_test("large").await, tempfile::tempdir().unwrap());
    cluster.create_many::<setupkey_operator::api::SetupKey>(large_keys()).await;
    let secret = |number| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": format!("large-{number}"), "labels": labels().into_iter()
                .chain([("setupkey.dev/key".to_owned(), "large".to_owned())]).collect::<BTreeMap<_, _>>() },
        })
    };
    cluster.create_many::<Secret>((0..OBJECTS).map(secret).collect()).await;

    let mut operator = Process::start(&cluster, folder.path(), "operator", &[]);
    cluster.apply("office", "");
    assert_eq!(says(&cluster.ready("office").await, "Valid"), "True Valid");
    let peak = operator.peak_mib();
    println!("peak resident memory: {peak} MiB");
    assert!(peak < MOST_MIB, "the controller has taken {peak} MiB");
    operator.stop().await;
    cluster.forget_everything().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_large_is_left_alone_and_told() {
    let cluster = Cluster::for_test("too_large").await;
    let operator = cluster.start_operator_with(Setup::default()).await;
    cluster.create_many::<setupkey_operator::api::SetupKey>(large_keys().into_iter().take(1).collect()).await;
    let event = cluster.event("large-0", "NotHandled").await;
    let (note, related) = (event.note.unwrap_or_default(), event.related.expect("the definition of SetupKeys"));
    assert_eq!(related.name.as_deref(), Some("setupkeys.setupkey.dev"));
    assert_eq!(related.kind.as_deref(), Some("CustomResourceDefinition"));
    assert!(note.contains("KiB together, and may take 128 KiB"), "{note}");
    assert!(operator.metrics.expose().unwrap().contains("setupkey_keys_not_handled 1"));
    assert!(cluster.secrets().get_opt("large-0").await.unwrap().is_none());
    // It is handled once it has become small.
    let labels: BTreeMap<_, _> = labels().into_keys().map(|label| (label, Value::Null)).collect();
    let patch = json!({ "metadata": { "labels": labels } });
    cluster.keys().patch("large-0", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    cluster.ready("large-0").await;
    // What is too large again has a Secret by now.
    cluster.kubectl_ok(&["delete", "events", "--all"], "");
    let patch = json!({ "metadata": { "labels": self::labels() } });
    cluster.keys().patch("large-0", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    assert_eq!(observability::related(&cluster, "large-0", "NotHandled").await, "Secret large-0");
    operator.stop().await;
}
