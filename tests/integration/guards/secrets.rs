//! What the controller may write into Secrets.

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    config::AuthInfo,
};
use serde_json::{Value, json};

use super::{
    Account::*,
    Release,
    Request::{self, *},
    admin_config, resource,
};
use crate::harness::{any_key, eventually};

/// What the controller creates for the key with this UID, changed by this merge patch.
pub fn secret(uid: &str, change: Value) -> Request {
    let owner = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "name": "office", "uid": uid, "controller": true,
    });
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": { "ownerReferences": [owner] },
        "stringData": { "setup-key": any_key() },
    });
    json_patch::merge(&mut secret, &change);
    Create(secret)
}

const TYPE: &str = "only Secrets of type Opaque; delete this Secret";
const OWNED: &str = "only Secrets that a SetupKey owns, and may not change who owns them; rename";
const SIZE: &str = "at most ten keys of the data of a Secret, and must write a setup key into a new one; install";
const REMOVAL: &str =
    "remove only setup keys and URLs from the data of a Secret, and must leave the rest as it is; install";
const VALUE: &str = "only setup keys and http:// or https:// URLs into a Secret; if a webhook";
const ONE_KEY: &str = "one setup key at a time, under as many names as it has aliases; if a webhook";

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_cannot_make_itself_a_token_of_another_account() {
    let release = Release::install("token", true).await;
    let boss = format!("boss-{}", release.name);
    let client = release.client(Administrator).await;
    let accounts: Api<DynamicObject> = Api::namespaced_with(client, "kube-system", &resource("ServiceAccount"));
    let account = json!({ "metadata": { "name": boss } });
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();

    let secrets = release.client(Controller).await;
    let secrets: Api<DynamicObject> = Api::namespaced_with(secrets, "kube-system", &resource("Secret"));
    let token = |name: &str| -> DynamicObject {
        let annotations = json!({ "kubernetes.io/service-account.name": boss });
        let metadata = json!({ "name": name, "annotations": annotations });
        serde_json::from_value(json!({ "metadata": metadata, "type": "kubernetes.io/service-account-token" })).unwrap()
    };
    let stolen = format!("stolen-{}", release.name);
    secrets.create(&PostParams::default(), &token(&stolen)).await.expect("without the guard, the Secret");
    let stolen = eventually("the token of the other account", || async {
        let encoded = secrets.get(&stolen).await.ok()?.data["data"]["token"].as_str()?.to_owned();
        String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).ok()
    })
    .await;
    let mut config = admin_config().await;
    config.auth_info = AuthInfo { token: Some(stolen.into()), ..AuthInfo::default() };
    let reviews: Api<SelfSubjectReview> = Api::all(Client::try_from(config).unwrap());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let name = review.status.unwrap().user_info.unwrap().username.unwrap();
    assert_eq!(name, format!("system:serviceaccount:kube-system:{boss}"), "without the guard");

    // A release for the whole cluster would bind the accounts of the other tests.
    let of_all = ["setupKeyStatus", "authorityStatus", "peers"].map(|guard| format!("policies.guards.{guard}=false"));
    release.guard(&of_all.each_ref().map(String::as_str));
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the guard to refuse a token", || async {
        let refusal = secrets.create(&dry_run, &token("another")).await.err()?.to_string();
        refusal.contains(TYPE).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_writes_only_setup_keys_and_only_into_secrets_of_setup_keys() {
    let release = Release::install("secrets", false).await;
    let uid = release.issued("office").await;
    let uid = uid.as_str();
    let theirs =
        json!({ "metadata": { "ownerReferences": null }, "stringData": { "setup-key": "a", "password": "b" } });
    release.does(Administrator, "Secret", "theirs", secret(uid, theirs)).await;
    let before = any_key();
    let url = "https://netbird.example.com:8443";
    let ours = json!({ "stringData": {
        "setup-key": before, "NB_SETUP_KEY": before, "NB_MANAGEMENT_URL": url, "password": "of the team",
        "plain": "http://netbird",
    } });
    release.does(Administrator, "Secret", "ours", secret(uid, ours)).await;
    let basic = json!({ "type": "kubernetes.io/basic-auth", "stringData": { "username": "u", "password": "p" } });
    release.does(Administrator, "Secret", "basic", secret(uid, basic)).await;
    let owners = |change: Value| {
        let Create(secret) = secret(uid, json!({})) else { unreachable!() };
        let mut owner = secret["metadata"]["ownerReferences"][0].clone();
        json_patch::merge(&mut owner, &change);
        json!({ "metadata": { "ownerReferences": [owner] } })
    };
    let ours = owners(json!({}));
    let value = |name: &str, value: &str| json!({ "stringData": { name: value } });
    let key = any_key();
    let named = |count: usize| -> Value {
        let names: serde_json::Map<_, _> = (0..count).map(|number| (format!("key-{number}"), json!(key))).collect();
        json!({ "stringData": names })
    };
    let with_primary = |mut change: Value| {
        change["stringData"]["setup-key"] = json!(key);
        change
    };

    release
        .repels(
            &[
                (Controller, "Secret", "new", secret(uid, json!({ "type": "example.com/other" })), TYPE),
                (Controller, "Secret", "new", secret(uid, json!({ "metadata": { "ownerReferences": null } })), OWNED),
                (Controller, "Secret", "new", secret(uid, owners(json!({ "kind": "Lock" }))), OWNED),
                (Controller, "Secret", "new", secret(uid, owners(json!({ "apiVersion": "example.com/v1" }))), OWNED),
                (Controller, "Secret", "new", secret(uid, owners(json!({ "controller": false }))), OWNED),
                (Controller, "Secret", "new", secret(uid, value("second", &any_key())), ONE_KEY),
                (Controller, "Secret", "new", secret(uid, json!({ "stringData": null })), SIZE),
                (Controller, "Secret", "new", secret(uid, value("setup-key", url)), SIZE),
                (Controller, "Secret", "new", secret(uid, with_primary(named(10))), SIZE),
                (Controller, "Secret", "ours", Change(named(11)), SIZE),
                (Controller, "Secret", "new", secret(uid, value("setup-key", "/tmp/evil.so")), VALUE),
                (
                    Controller,
                    "Secret",
                    "new",
                    secret(uid, json!({ "immutable": true })),
                    "may not make a Secret immutable",
                ),
                (Controller, "Secret", "theirs", Change(value("password", "mine")), OWNED),
                (Controller, "Secret", "theirs", Change(ours), OWNED),
                (Controller, "Secret", "basic", Change(value("setup-key", &any_key())), TYPE),
                (Controller, "Secret", "ours", Change(json!({ "metadata": { "ownerReferences": null } })), OWNED),
                (Controller, "Secret", "ours", Change(owners(json!({ "uid": "another" }))), OWNED),
                (Controller, "Secret", "ours", Change(json!({ "data": { "password": null } })), REMOVAL),
                (
                    Controller,
                    "Secret",
                    "ours",
                    Change(json!({ "data": { "password": null }, "stringData": { "setup-key": any_key() } })),
                    REMOVAL,
                ),
                (
                    Controller,
                    "Secret",
                    "ours",
                    Change(json!({ "stringData": { "a": any_key(), "b": any_key() } })),
                    ONE_KEY,
                ),
                (Controller, "Secret", "ours", Change(value("LD_PRELOAD", "/tmp/evil.so")), VALUE),
                (Controller, "Secret", "ours", Change(value("URL", "httpd://netbird.example.com")), VALUE),
                (Controller, "Secret", "ours", Change(value("URL", "ftp://netbird.example.com")), VALUE),
                (Controller, "Secret", "ours", Change(value("URL", &format!("{url}/{}", "a".repeat(300)))), VALUE),
                (Controller, "Secret", "ours", Change(json!({ "immutable": true })), "may not make a Secret immutable"),
            ],
            &[&release.scope()],
        )
        .await;

    // What the controller does, and what others do.
    release.does(Controller, "Secret", "issued", secret(uid, json!({}))).await;
    release.does(Controller, "Secret", "issued", Change(value("setup-key", &any_key()))).await;
    let mut whole = with_primary(named(8));
    for address in ["http://n", "https://n", "http://zz-9.example", url, &format!("https://{}", "n".repeat(292))] {
        whole["stringData"]["NB_MANAGEMENT_URL"] = json!(address);
        release.does(Controller, "Secret", "issued", Change(whole.clone())).await;
    }
    release.does(Controller, "Secret", "whole", secret(uid, whole)).await;
    let rest = json!({ "data": { "plain": null, "NB_MANAGEMENT_URL": null, "NB_SETUP_KEY": null }, "stringData": { "key": before } });
    release.does(Controller, "Secret", "ours", Change(rest)).await;
    release.does(Controller, "Secret", "ours", Change(json!({ "metadata": { "labels": { "team": "a" } } }))).await;
    release.does(Administrator, "Secret", "theirs", Change(value("password", "new"))).await;
}
