//! Guards beside each other, exempt accounts, and what the cluster itself does under guards.

use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use setupkey_operator::api::Peer;

use super::{Account::*, Release, Request::*, client_of, secrets::secret};
use crate::harness::{any_peer, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_exempt_account_passes_and_is_named_by_user_group_or_service_account() {
    let release = Release::install("exempt", false).await;
    release.issued("office").await;
    release.guard(&[&release.scope()]);
    release.is_guarded().await;
    let refused = || async { release.send(Administrator, "Peer", "p", Create(json!(any_peer())), true).await };
    let exempt = |field: &str, value: &str| format!("policies.guards.exempt[0].{field}={value}");
    let service_account = json!({ "namespace": release.namespace, "name": format!("{}-enrollment", release.name) });
    let lost = PatchStatus(Value::Null);
    for (kind, name) in [("User", "eve"), ("Group", "system:masters")] {
        release.guard(&[&release.scope(), &exempt("kind", kind), &exempt("name", name)]);
        eventually(&format!("the {kind} to be exempt"), || async { refused().await.is_none().then_some(()) }).await;
        release.does(Administrator, "SetupKey", "office", lost.clone()).await;
        release.guard(&[&release.scope()]);
        release.is_guarded().await;
    }
    let account = ["namespace", "name"].map(|field| exempt(field, service_account[field].as_str().unwrap()));
    release.guard(&[&release.scope(), &exempt("kind", "ServiceAccount"), &account[0], &account[1]]);
    let relabel = Change(json!({ "metadata": { "labels": { "a": "b" } } }));
    release.does(Controller, "Peer", "held", Create(json!(any_peer()))).await;
    eventually("the ServiceAccount to be exempt", || async {
        release.send(Enrollment, "Peer", "held", relabel.clone(), true).await.is_none().then_some(())
    })
    .await;
    assert!(refused().await.is_some(), "only that account is exempt");
}

/// Each refuses the accounts of the other, but only in its own namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn two_releases_with_different_namespaces_do_not_meet() {
    let releases = [Release::install("one", false).await, Release::install("two", false).await];
    for release in &releases {
        release.guard(&[&release.scope()]);
    }
    for release in &releases {
        release.is_guarded().await;
    }
    for (release, other) in [(&releases[0], &releases[1]), (&releases[1], &releases[0])] {
        release.does(Enrollment, "Peer", "joined", Create(json!(any_peer()))).await;
        release.issued("office").await;
        // With all rights in the other's namespace, the account is refused there by name.
        let client = client_of(&release.user(Enrollment), &["system:masters"]).await;
        let peers: Api<Peer> = Api::namespaced(client, &other.namespace);
        let refusal = peers.create(&PostParams::default(), &any_peer()).await.unwrap_err().to_string();
        assert!(refusal.contains(&other.user(Enrollment)), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_under_the_guards_goes_with_its_keys_and_peers() {
    let release = Release::install("gone", false).await;
    release.guard(&[&release.scope()]);
    release.is_guarded().await;
    let uid = release.issued("office").await;
    release.does(Controller, "Secret", "office", secret(&uid, json!({}))).await;
    let mut peer = json!(any_peer());
    peer["metadata"]["finalizers"] = Value::Null;
    release.does(Enrollment, "Peer", "joined", Create(peer)).await;
    let namespaces = release.everywhere(Administrator, "Namespace").await;
    namespaces.delete(&release.namespace, &DeleteParams::default()).await.unwrap();
    eventually("the namespace to be gone", || async {
        namespaces.get_opt(&release.namespace).await.unwrap().is_none().then_some(())
    })
    .await;
}

/// kube-controller-manager checks each expression against the schema of what it is for.
#[tokio::test(flavor = "multi_thread")]
async fn the_expressions_of_the_guards_pass_the_type_check() {
    let release = Release::install("types", false).await;
    let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "validatingadmissionpolicies");
    let policies: Api<DynamicObject> = Api::all_with(release.client(Administrator).await, &resource);
    for enrollment in ["enrollment.enabled=true", "enrollment.enabled=false"] {
        let exempt = "policies.guards.exempt[0].kind=User,policies.guards.exempt[0].name=x";
        release.guard(&[&release.scope(), exempt, enrollment]);
        for guard in ["setup-key-status", "peers", "secrets"] {
            let name = format!("{}.{}.{guard}", release.name, release.namespace);
            let checked = eventually(&format!("{name} to be checked"), || async {
                let policy = policies.get(&name).await.ok()?;
                (policy.data["status"]["observedGeneration"] == json!(policy.metadata.generation)).then_some(policy)
            })
            .await;
            assert_eq!(checked.data["status"]["typeChecking"], json!({}), "{}", checked.name_any());
        }
    }
}
