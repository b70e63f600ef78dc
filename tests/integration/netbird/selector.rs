//! `ClusterAuthority`s. Every operator that works in all namespaces uses all of them, so these tests have a control plane of
//! their own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use control_plane::{ControlPlane, Options};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, Patch, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use setupkey_operator::{
    api::{ClusterAuthority, SetupKey},
    authority::netbird::Hosts,
    cluster::Scope,
    controller::{self, AuthoritySettings, Environment},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, crds, environment, eventually, netbird::NetBird, says};

const OPERATOR: &str = "setupkey-system";

async fn namespace(client: &Client, name: &str, labels: &[(&str, &str)]) -> Cluster {
    let labels: BTreeMap<_, _> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    let object = Namespace { metadata, ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
    Cluster::without_guards(client.clone(), name)
}

async fn create(cluster: &Cluster, name: &str) {
    cluster.apply_quickly(name, json!({ "authorityRef": { "kind": "ClusterAuthority", "name": "netbird" } })).await;
}

async fn says_ready(cluster: &Cluster, name: &str, expected: &str) {
    eventually(&format!("{name} to say {expected}"), || async {
        let key: SetupKey = cluster.keys().get(name).await.ok()?;
        (says(key.status.as_ref()?, "Ready") == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_authority_serves_the_namespaces_that_its_selector_selects() {
    let netbird = NetBird::for_test("cluster_authority").await;
    let mut own = ControlPlane::start(Options { crds: vec![crds()], ..Options::default() }).unwrap();
    let kubeconfig = Kubeconfig::read_from(own.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let environment = Environment {
        authorities: AuthoritySettings {
            hosts: Hosts::new(Vec::new(), true),
            namespace: OPERATOR.to_owned(),
            of_cluster: true,
            interval: Some(Duration::from_secs(2)),
        },
        ..environment(client.clone())
    };
    let readiness = Arc::clone(&environment.readiness);
    let shutdown = CancellationToken::new();
    let operator = tokio::spawn(controller::run(environment, Scope::Cluster, shutdown.clone()));
    eventually("the controller to be ready", || async { readiness.is_ready().then_some(()) }).await;

    let system = namespace(&client, OPERATOR, &[]).await;
    let selected = namespace(&client, "selected", &[("team", "a")]).await;
    let other = namespace(&client, "other", &[("team", "b")]).await;
    create(&selected, "early").await;
    says_ready(&selected, "early", "False AuthorityNotFound").await;
    let token: Secret = serde_json::from_value(json!({
        "metadata": { "name": "token" }, "stringData": { "NB_API_KEY": netbird.admin.token.expose_secret() },
    }))
    .unwrap();
    system.secrets().create(&PostParams::default(), &token).await.unwrap();
    // The same Secret elsewhere is not looked at.
    let planted: Secret =
        serde_json::from_value(json!({ "metadata": { "name": "token" }, "stringData": { "NB_API_KEY": "planted" } }))
            .unwrap();
    selected.secrets().create(&PostParams::default(), &planted).await.unwrap();
    let authorities: Api<ClusterAuthority> = Api::all(client.clone());
    let authority = serde_json::from_value(json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "ClusterAuthority", "metadata": { "name": "netbird" },
        "spec": {
            "netbird": { "url": netbird.base_url, "tokenSecretRef": { "name": "token" } },
            "namespaceSelector": { "matchLabels": { "team": "a" } },
        },
    }))
    .unwrap();
    authorities.create(&PostParams::default(), &authority).await.unwrap();
    says_ready(&selected, "early", "True Reconciled").await;
    create(&other, "office").await;
    says_ready(&other, "office", "False AuthorityNotAllowed").await;
    assert!(netbird.api.keys_named("[other/office ").await.is_empty());

    // The label of the namespace changes, and then the selector.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let label = |team: &str| Patch::Merge(json!({ "metadata": { "labels": { "team": team } } }));
    namespaces.patch("other", &Default::default(), &label("a")).await.unwrap();
    says_ready(&other, "office", "True Reconciled").await;
    namespaces.patch("other", &Default::default(), &label("b")).await.unwrap();
    says_ready(&other, "office", "False AuthorityNotAllowed").await;
    assert!(netbird.api.keys_named("[other/office ").await[0].valid, "it stays as it is");
    let selector = |selector: Value| Patch::Merge(json!({ "spec": { "namespaceSelector": selector } }));
    authorities.patch("netbird", &Default::default(), &selector(json!({ "matchLabels": null }))).await.unwrap();
    says_ready(&other, "office", "True Reconciled").await;
    authorities
        .patch("netbird", &Default::default(), &selector(json!({ "matchLabels": { "team": "a" } })))
        .await
        .unwrap();
    says_ready(&other, "office", "False AuthorityNotAllowed").await;

    // A key that may not use it any more is revoked and deleted there all the same.
    other.patch_spec("office", json!({ "revoked": true })).await;
    eventually("the key to be revoked", || async {
        netbird.api.keys_named("[other/office ").await[0].revoked.then_some(())
    })
    .await;
    other.keys().delete("office", &Default::default()).await.unwrap();
    eventually("the key to be gone", || async { other.keys().get_opt("office").await.ok()?.is_none().then_some(()) })
        .await;
    assert!(netbird.api.keys_named("[other/office ").await.is_empty());
    let status = authorities.get("netbird").await.unwrap().status.unwrap();
    assert_eq!(status.authority_type.as_deref(), Some("NetBird"));
    shutdown.cancel();
    operator.await.unwrap();
    own.stop();
}
