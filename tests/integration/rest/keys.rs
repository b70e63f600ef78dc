//! One key through both APIs: NetBird's and Kubernetes'.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use setupkey_operator::{api::Timestamp, cluster::Clock};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, Rest, a_change, a_key, path,
    tokens::{EVERYTHING, token_of},
};
use crate::harness::{Cluster, TestClock, digest, eventually, says};

struct Client {
    rest: Rest,
    token: String,
}

impl Client {
    async fn of(cluster: &Cluster) -> Self {
        Self { rest: Rest::of(cluster).await, token: token_of(cluster, "user", EVERYTHING) }
    }

    async fn ask(&self, call: &str, body: Value) -> Answer {
        self.rest.ask(&self.token, call, body).await
    }

    async fn get(&self, id: &Value) -> Value {
        self.ask(&format!("GET {}", path(id)), Value::Null).await.granted()
    }

    async fn list(&self) -> Vec<Value> {
        let listed = self.ask("GET /api/setup-keys", Value::Null).await.granted();
        listed.as_array().expect("a list").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_in_the_answer_is_the_one_in_the_secret_and_is_shown_once() {
    let cluster = Cluster::for_test("rest_create").await;
    let operator = cluster.start_operator().await;
    let client = Client::of(&cluster).await;
    let answer = client.ask("POST /api/setup-keys", a_key("Office, 2nd floor")).await;
    assert_eq!(answer.headers["Cache-Control"], "no-store");
    let created = answer.granted();
    let object = cluster.keys().list(&Default::default()).await.unwrap().items.remove(0);
    let name = object.metadata.name.clone().unwrap();
    assert!(name.starts_with("office-2nd-floor-"), "{name}");
    assert_eq!(object.spec.name.as_deref(), Some("Office, 2nd floor"));
    let key = created["key"].as_str().unwrap();
    assert_eq!(key, cluster.value(&name, "setup-key").await);
    assert_eq!(object.status.unwrap().digest, Some(digest(key)));

    let masked = json!(format!("{}****", &key[..5]));
    let changed = client.ask(&format!("PUT {}", path(&created["id"])), a_change(true, &[])).await.granted();
    for later in [client.get(&created["id"]).await, client.list().await.remove(0), changed] {
        assert_eq!(later["key"], masked);
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_applied_is_listed_updated_and_deleted_alike() {
    let cluster = Cluster::for_test("rest_applied").await;
    let operator = cluster.start_operator().await;
    let client = Client::of(&cluster).await;
    cluster.apply("office", "autoGroups: [a], usageLimit: 3, expiresIn: 24h");
    let id = json!(cluster.ready("office").await.id);
    let listed = client.list().await;
    assert_eq!((listed.len(), &listed[0]["name"], &listed[0]["usage_limit"]), (1, &json!("office"), &json!(3)));

    let changed = client.ask(&format!("PUT {}", path(&id)), a_change(true, &["b"])).await;
    assert_eq!(changed.warning(), "");
    assert_eq!(changed.granted()["state"], "revoked");
    let spec = cluster.keys().get("office").await.unwrap().spec;
    assert_eq!((spec.revoked, spec.auto_groups), (true, vec!["b".to_owned()]));

    client.ask(&format!("DELETE {}", path(&id)), Value::Null).await.granted();
    assert!(cluster.keys().get_opt("office").await.unwrap().is_none());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_in_the_answer_waits_for_nobody() {
    let cluster = Cluster::for_test("rest_state").await;
    let operator = cluster.start_operator().await;
    let client = Client::of(&cluster).await;
    cluster.apply("office", "");
    let id = json!(cluster.ready("office").await.id);
    // No controller runs that would update the status.
    operator.stop().await;
    let revoked = client.ask(&format!("PUT {}", path(&id)), a_change(true, &[])).await.granted();
    assert_eq!((&revoked["state"], &revoked["valid"]), (&json!("revoked"), &json!(false)));
    cluster.patch_status("office", json!({ "expires": "2026-01-01T00:00:00Z" })).await;
    assert_eq!(client.get(&id).await["state"], "expired");
    // An expired key can be changed, without any effect on its state.
    let changed = client.ask(&format!("PUT {}", path(&id)), a_change(false, &["a"])).await.granted();
    assert_eq!((&changed["state"], &changed["auto_groups"]), (&json!("expired"), &json!(["a"])));
    assert_eq!(cluster.keys().get("office").await.unwrap().status.unwrap().state.unwrap().as_str(), "valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_reads_expired_from_its_moment_on_by_the_clock_of_the_service() {
    let cluster = Cluster::for_test("rest_clock").await;
    let id = json!(cluster.issued("expiresIn: 24h").await.status.unwrap().id);
    let clock = TestClock::default();
    let rest = Rest::with_clock(&cluster, clock.clone()).await;
    let client = Client { rest, token: token_of(&cluster, "user", EVERYTHING) };
    let seen = client.get(&id).await;
    assert_eq!((&seen["state"], &seen["valid"]), (&json!("valid"), &json!(true)));

    clock.step(chrono::Duration::hours(25));
    let changed = client.ask(&format!("PUT {}", path(&id)), a_change(false, &["a"])).await.granted();
    for seen in [client.get(&id).await, client.list().await.remove(0), changed] {
        assert_eq!((&seen["state"], &seen["valid"]), (&json!("expired"), &json!(false)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_shown_in_its_current_revision_only() {
    let cluster = Cluster::for_test("rest_rotated").await;
    let clock = TestClock::default();
    let operator = cluster.start_operator_at(clock.clone()).await;
    let rest = Rest::with_clock(&cluster, clock.clone()).await;
    let client = Client { rest, token: token_of(&cluster, "user", EVERYTHING) };
    cluster.apply("office", "expiresIn: 48h");
    let old = cluster.ready("office").await;
    cluster.patch_status("office", json!({ "usedTimes": 2, "lastUsed": "2026-11-24T06:00:00Z" })).await;
    clock.step(chrono::Duration::hours(1));
    let request = format!("setupkey.dev/rotate-requested-at={}", Timestamp::from(clock.now()));
    cluster.kubectl_ok(&["annotate", "sk", "office", &request], "");
    let new = cluster.status_when("office", "rotated", |status| status.revision == Some(2)).await;
    assert_eq!(new.previous[0].used_times, 2);

    for (call, body) in [("GET", Value::Null), ("PUT", a_change(true, &[])), ("DELETE", Value::Null)] {
        client.ask(&format!("{call} {}", path(&json!(old.id))), body).await.refused(404);
    }
    let value = cluster.value("office", "setup-key").await;
    let shown = client.list().await;
    assert_eq!((shown.len(), &shown[0]), (1, &client.get(&json!(new.id)).await));
    assert_eq!((&shown[0]["id"], &shown[0]["used_times"]), (&json!(new.id), &json!(0)));
    assert_eq!(shown[0]["key"], json!(format!("{}****", &value[..5])));
    let expires: Timestamp = shown[0]["expires"].as_str().unwrap().parse().unwrap();
    assert_eq!((Some(expires), &shown[0]["state"]), (new.expires, &json!("valid")));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_key_reads_revoked_by_the_clock_of_the_service() {
    let cluster = Cluster::for_test("rest_unused").await;
    let id = json!(cluster.issued("revokeUnusedAfter: 24h").await.status.unwrap().id);
    let clock = TestClock::default();
    let rest = Rest::with_clock(&cluster, clock.clone()).await;
    let client = Client { rest, token: token_of(&cluster, "user", EVERYTHING) };
    assert_eq!(client.get(&id).await["state"], "valid");
    clock.step(chrono::Duration::hours(25));
    for seen in [client.get(&id).await, client.list().await.remove(0)] {
        assert_eq!((&seen["state"], &seen["valid"]), (&json!("revoked"), &json!(false)));
    }
    cluster.patch_spec("office", json!({ "revokeUnusedAfter": "48h" })).await;
    assert_eq!(client.get(&id).await["state"], "valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_secret_was_replaced_never_reads_valid() {
    let cluster = Cluster::for_test("rest_foreign_secret").await;
    let operator = cluster.start_operator().await;
    let clock = TestClock::default();
    let rest = Rest::with_clock(&cluster, clock.clone()).await;
    let client = Client { rest, token: token_of(&cluster, "user", EVERYTHING) };
    cluster.apply("office", "expiresIn: 24h");
    let id = json!(cluster.ready("office").await.id);
    assert_eq!(client.get(&id).await["state"], "valid");

    // Without a controller, a foreign Secret takes the name.
    operator.stop().await;
    cluster.delete_secret("office").await;
    cluster.kubectl_ok(&["create", "secret", "generic", "office", "--from-literal=password=theirs"], "");
    let operator = cluster.start_operator().await;
    cluster.status_when("office", "in conflict", |status| says(status, "Ready") == "False SecretConflict").await;
    let changed = client.ask(&format!("PUT {}", path(&id)), a_change(false, &["a"])).await.granted();
    for seen in [client.get(&id).await, client.list().await.remove(0), changed] {
        assert_eq!((&seen["state"], &seen["valid"], &seen["key"]), (&json!("revoked"), &json!(false), &json!("")));
        assert_eq!(seen["revoked"], false, "nothing revoked the key");
    }
    clock.step(chrono::Duration::hours(25));
    assert_eq!(client.get(&id).await["state"], "expired");

    // The conflict ends when that Secret goes, and the same key admits peers again.
    clock.step(chrono::Duration::hours(-25));
    cluster.delete_secret("office").await;
    cluster.ready("office").await;
    let seen = client.get(&id).await;
    assert_eq!((&seen["state"], &seen["valid"]), (&json!("valid"), &json!(true)));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_an_id_is_not_listed_and_one_that_is_being_deleted_is_gone() {
    let cluster = Cluster::for_test("rest_listed").await;
    let operator = cluster.start_operator().await;
    let client = Client::of(&cluster).await;
    cluster.apply("going", "");
    let id = json!(cluster.ready("going").await.id);
    operator.stop().await;
    cluster.apply("waiting", "");
    let names: Vec<_> = client.list().await.iter().map(|key| key["name"].clone()).collect();
    assert_eq!(names, ["going"]);

    let finalizer = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    cluster.keys().patch("going", &PatchParams::default(), &Patch::Merge(finalizer)).await.unwrap();
    let call = format!("DELETE {}", path(&id));
    client.ask(&call, Value::Null).await.granted();
    assert!(cluster.keys().get("going").await.unwrap().metadata.deletion_timestamp.is_some());
    assert_eq!(client.ask(&call, Value::Null).await.status, 404);
    assert!(client.list().await.is_empty());
    let released = json!({ "metadata": { "finalizers": null } });
    cluster.keys().patch("going", &PatchParams::default(), &Patch::Merge(released)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_updates_at_once_one_wins_as_a_whole_even_on_a_busy_key() {
    const ROUNDS: usize = 25;
    let cluster = Cluster::for_test("rest_concurrent").await;
    let operator = cluster.start_operator().await;
    let client = Client::of(&cluster).await;
    cluster.apply("office", "");
    let id = json!(cluster.ready("office").await.id);
    operator.stop().await;

    // A task writes the status all the time, as enrollments do.
    let done = CancellationToken::new();
    let busy = tokio::spawn({
        let (keys, done) = (cluster.unguarded_keys(), done.clone());
        async move {
            let mut used = 0;
            loop {
                used += 1;
                let status = json!({ "status": { "usedTimes": used } });
                keys.patch_status("office", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
                if done.is_cancelled() {
                    return used;
                }
            }
        }
    });
    let call = format!("PUT {}", path(&id));
    for _ in 0..ROUNDS {
        let (first, second) = tokio::join!(
            client.ask(&call, a_change(true, &["first"])),
            client.ask(&call, a_change(false, &["second"])),
        );
        for (answer, revoked, group) in [(first, true, "first"), (second, false, "second")] {
            let answer = answer.granted();
            assert_eq!((&answer["revoked"], &answer["auto_groups"]), (&json!(revoked), &json!([group])));
        }
        let spec = cluster.keys().get("office").await.unwrap().spec;
        let kept = (spec.revoked, spec.auto_groups[0].as_str());
        assert!([(true, "first"), (false, "second")].contains(&kept), "{kept:?}");
    }
    done.cancel();
    assert!(busy.await.unwrap() > ROUNDS, "the key was not busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_nobody_answers_loses_nothing() {
    let cluster = Cluster::for_test("rest_no_controller").await;
    let rest = Rest::with_patience(&cluster, Duration::from_millis(300)).await;
    let token = token_of(&cluster, "user", EVERYTHING);
    let answer = rest.ask(&token, "POST /api/setup-keys", a_key("office")).await;
    let name = cluster.keys().list(&Default::default()).await.unwrap().items[0].metadata.name.clone().unwrap();
    let namespace = &cluster.namespace;
    let sentence = format!(
        "the setup key was created as SetupKey {namespace}/{name}, do not create it again; it is not issued yet; once the SetupKey is ready, Secret {namespace}/{name} holds the key"
    );
    assert_eq!(answer.refused(504), sentence);

    let operator = cluster.start_operator().await;
    let status = cluster.ready(&name).await;
    assert_eq!(status.digest, Some(digest(&cluster.value(&name, "setup-key").await)));
    let listed = rest.ask(&token, "GET /api/setup-keys", Value::Null).await.granted();
    assert_eq!(listed[0]["id"], json!(status.id));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_cannot_be_issued_says_why() {
    let cluster = Cluster::for_test("rest_quota").await;
    let operator = cluster.start_operator().await;
    let client = Client::of(&cluster).await;
    cluster.kubectl_ok(&["create", "quota", "none", "--hard=secrets=0"], "");
    // A quota applies only once it has been counted.
    eventually("the quota to be counted", || async {
        let used = cluster.kubectl_ok(&["get", "quota", "none", "-o", "jsonpath={.status.used.secrets}"], "");
        (!used.is_empty()).then_some(())
    })
    .await;
    let answer = client.ask("POST /api/setup-keys", a_key("office")).await;
    let said = answer.refused(504);
    assert!(
        said.contains("do not create it again; it cannot be issued: ") && said.contains("exceeded quota"),
        "{said}"
    );
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_gitops_will_put_back_comes_with_a_warning() {
    let cluster = Cluster::for_test("rest_gitops").await;
    let operator = cluster.start_operator().await;
    let client = Client::of(&cluster).await;
    cluster.apply("office", "");
    let id = json!(cluster.ready("office").await.id);
    let tracked = "argocd.argoproj.io/tracking-id=network:setupkey.dev/SetupKey:n/office";
    cluster.kubectl_ok(&["annotate", "sk", "office", tracked], "");
    let changed = client.ask(&format!("PUT {}", path(&id)), a_change(true, &[])).await;
    let warning = "299 setupkey-operator \"Argo CD manages SetupKey office and will put revoked and auto_groups back; change them in Git\"";
    assert_eq!(changed.warning(), warning);
    assert_eq!(changed.granted()["revoked"], true);
    cluster.kubectl_ok(&["annotate", "sk", "office", "argocd.argoproj.io/tracking-id-"], "");
    cluster.kubectl_ok(&["label", "sk", "office", "kustomize.toolkit.fluxcd.io/name=network"], "");
    let deleted = client.ask(&format!("DELETE {}", path(&id)), Value::Null).await;
    let warning = "299 setupkey-operator \"Flux manages SetupKey office and will create it again, with another key; delete it in Git\"";
    assert_eq!(deleted.warning(), warning);
    operator.stop().await;
}
