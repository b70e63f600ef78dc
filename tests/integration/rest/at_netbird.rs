//! Keys that live at NetBird, through the REST API. It shows and changes them like all others.

use std::time::{Duration, Instant};

use control_plane::netbird::{Outcome, RemoteKey};
use kube::api::PostParams;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use setupkey_operator::api::Authority;

use super::{
    Answer, PATIENCE, Rest, a_change, path,
    tokens::{EVERYTHING, token_of},
};
use crate::harness::{
    Cluster, TestClock, admin_config, eventually,
    netbird::{Canned, Fault, NetBird, Which},
};

const UPDATE: &str = "PUT /api/setup-keys/{id}";
const DELETE: &str = "DELETE /api/setup-keys/{id}";

/// A namespace with an authority, and the REST API over it.
struct Place {
    cluster: Cluster,
    netbird: NetBird,
    rest: Rest,
    token: String,
}

impl Place {
    async fn of(test: &str) -> Self {
        let (cluster, netbird) = (Cluster::for_test(test).await, NetBird::for_test(test).await);
        let token = format!("--from-literal=NB_API_KEY={}", netbird.admin.token.expose_secret());
        cluster.kubectl_ok(&["create", "secret", "generic", "netbird", &token], "");
        let authority = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
            "spec": { "netbird": {
                "url": netbird.base_url, "tokenSecretRef": { "name": "netbird" }, "interval": "30s",
            } },
        });
        let authority: Authority = serde_json::from_value(authority).unwrap();
        let authorities: kube::Api<Authority> = kube::Api::namespaced(cluster.client.clone(), &cluster.namespace);
        authorities.create(&PostParams::default(), &authority).await.unwrap();
        let rest = Rest::of(&cluster).await;
        let token = token_of(&cluster, "user", EVERYTHING);
        Self { cluster, netbird, rest, token }
    }

    /// Applies a key with these groups. Returns its id.
    async fn key(&self, name: &str, groups: &[&str]) -> Value {
        let groups = json!(groups);
        self.cluster.apply(name, &format!("authorityRef: {{name: netbird}}, autoGroups: {groups}, usageLimit: 3"));
        json!(self.cluster.ready(name).await.id)
    }

    async fn ask(&self, call: &str, body: Value) -> Answer {
        self.rest.ask(&self.token, call, body).await
    }

    async fn get(&self, id: &Value) -> Value {
        self.ask(&format!("GET {}", path(id)), Value::Null).await.granted()
    }

    async fn there(&self, id: &Value) -> Option<RemoteKey> {
        self.netbird.api.key(id.as_str().unwrap()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_at_netbird_is_shown_changed_and_deleted_like_any_other() {
    let place = Place::of("rest_at_netbird").await;
    let operator = place.cluster.start_operator().await;
    let (laptops, phones) = (place.netbird.group("laptops").await, place.netbird.group("phones").await);
    let id = place.key("office", &[&laptops.name]).await;

    // All fields are as NetBird has them, but for the name and the names of the groups.
    let (seen, there) = (place.get(&id).await, place.there(&id).await.unwrap());
    assert_eq!((&seen["auto_groups"], &seen["name"]), (&json!([laptops.name]), &json!("office")));
    assert_eq!((&seen["key"], &seen["state"]), (&json!(there.key.expose_secret()), &json!(there.state)));
    assert_eq!((&seen["valid"], &seen["usage_limit"]), (&json!(there.valid), &json!(there.usage_limit)));
    assert_eq!(seen["expires"].as_str().unwrap()[..19], there.expires.format("%FT%T").to_string());
    let listed = place.ask("GET /api/setup-keys", Value::Null).await.granted();
    assert_eq!(listed, json!([seen]));

    // A change is at NetBird when it is granted. Its names may have blanks, and need not be labels.
    let changed = place.ask(&format!("PUT {}", path(&id)), a_change(false, &[&phones.name])).await.granted();
    assert_eq!((&changed["id"], &changed["auto_groups"]), (&id, &json!([phones.name])));
    assert_eq!(place.there(&id).await.unwrap().auto_groups, [phones.id]);
    let revoked = place.ask(&format!("PUT {}", path(&id)), a_change(true, &[&phones.name])).await.granted();
    assert_eq!((&revoked["state"], &revoked["valid"]), (&json!("revoked"), &json!(false)));
    assert!(place.there(&id).await.unwrap().revoked);

    // NetBird's refusals.
    let unrevoked = place.ask(&format!("PUT {}", path(&id)), a_change(false, &[&phones.name])).await;
    assert_eq!(unrevoked.refused(422), "can't un-revoke a revoked setup key");
    let blank = place.ask(&format!("PUT {}", path(&id)), a_change(true, &[" a"])).await;
    assert!(blank.refused(422).starts_with("invalid auto groups: no group can be called \" a\""), "{}", blank.body);
    assert!(place.cluster.keys().get("office").await.unwrap().spec.revoked);

    // So is a deletion.
    place.ask(&format!("DELETE {}", path(&id)), Value::Null).await.granted();
    assert!(place.there(&id).await.is_none());
    assert!(place.cluster.keys().get_opt("office").await.unwrap().is_none());
    assert_eq!(place.ask(&format!("DELETE {}", path(&id)), Value::Null).await.status, 404);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_join_after_a_granted_revocation() {
    let place = Place::of("rest_revoked_there").await;
    let operator = place.cluster.start_operator().await;
    let id = place.key("office", &[]).await;
    let value = place.cluster.value("office", "setup-key").await.into();
    assert_eq!(place.netbird.join("early", &value).await.outcome(), Outcome::Joined);
    place.ask(&format!("PUT {}", path(&id)), a_change(true, &[])).await.granted();
    assert_eq!(place.netbird.join("late", &value).await.outcome(), Outcome::Refused);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_netbird_has_not_done_is_not_granted() {
    let mut place = Place::of("rest_not_there").await;
    let operator = place.cluster.start_operator().await;
    let (office, lab) = (place.key("office", &[]).await, place.key("lab", &[]).await);
    let patience = Duration::from_secs(2);
    let config = admin_config().await;
    place.rest = Rest::at(&config, &place.cluster.namespace, patience, TestClock::default());

    let proxy = &place.netbird.proxy;
    let ill = Fault::Answer(Canned::refusal(500, "ill"));
    proxy.inject(|call| [UPDATE, DELETE].contains(&call.route().as_str()), Which::Every, ill);
    let (asked, namespace) = (Instant::now(), &place.cluster.namespace);
    let revoked = place.ask(&format!("PUT {}", path(&office)), a_change(true, &[])).await;
    let begins =
        format!("SetupKey {namespace}/office was changed, do not repeat the call; netbird has not taken it up: ");
    assert!(revoked.refused(504).starts_with(&begins), "{}", revoked.body);
    assert!(asked.elapsed() < patience + PATIENCE / 2, "it took {:?}", asked.elapsed());
    assert!(place.there(&office).await.unwrap().valid);
    assert_eq!(place.get(&office).await["state"], "valid");

    let deleted = place.ask(&format!("DELETE {}", path(&lab)), Value::Null).await;
    let begins =
        format!("SetupKey {namespace}/lab is being deleted, do not repeat the call; netbird still has the key: ");
    assert!(deleted.refused(504).starts_with(&begins), "{}", deleted.body);
    assert!(place.there(&lab).await.is_some());

    // Once NetBird is well, both are done without another call.
    proxy.heal();
    eventually("the revocation and the deletion", || async {
        let revoked = place.there(&office).await.is_some_and(|key| key.revoked);
        (revoked && place.there(&lab).await.is_none()).then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_netbird_does_not_have_is_named() {
    let place = Place::of("rest_no_group").await;
    let operator = place.cluster.start_operator().await;
    let id = place.key("office", &[]).await;
    let asked = Instant::now();
    let answer = place.ask(&format!("PUT {}", path(&id)), a_change(false, &["no such group"])).await;
    assert!(answer.refused(504).contains("no such group"), "{}", answer.body);
    assert!(asked.elapsed() < PATIENCE / 2, "it took {:?}", asked.elapsed());
    operator.stop().await;
}
