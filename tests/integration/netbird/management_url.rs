//! The URL that agents join at, in the Secret beside the key.

use serde_json::json;

use super::world::{AUTHORITY, SOON, World};
use crate::harness::{QUIET, eventually, exactly, says};

const URL_KEY: &str = "NB_MANAGEMENT_URL";

impl World {
    async fn set_agent_url(&self, url: Option<&str>) {
        self.change_authority(json!({ "netbird": { "agentUrl": url } })).await;
    }

    async fn change_authority(&self, spec: serde_json::Value) {
        let patch = kube::api::Patch::Merge(json!({ "spec": spec }));
        self.authorities().patch(AUTHORITY, &Default::default(), &patch).await.expect("a patched Authority");
    }

    async fn holds_url(&self, name: &str, url: &str) {
        eventually(&format!("Secret {name} to hold {url}"), || async {
            let data = self.cluster.secrets().get(name).await.ok()?.data?;
            (data.get(URL_KEY)?.0 == url.as_bytes()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_of_the_agents_follows_the_authority_and_comes_with_every_key() {
    let world = World::new("netbird_url").await;
    let operator = world.cluster.start_operator().await;
    let secret = json!({ "aliases": ["NB_SETUP_KEY"], "managementUrlKey": URL_KEY });
    let issued = world.issue("office", json!({ "secret": secret })).await;
    world.issue("plain", json!({})).await;
    let plain = world.cluster.secret_version("plain").await;
    // Without agentUrl, it is url. All of it is there from the first write.
    assert_eq!(world.cluster.value("office", URL_KEY).await, world.netbird.base_url);
    exactly(6, QUIET, || {
        operator.requests.writes().into_iter().filter(|write| !write.contains("authorities")).collect()
    })
    .await;
    let recorded = issued.secret.clone().expect("a Secret");
    assert_eq!(recorded.management_url_key.as_deref(), Some(URL_KEY));
    assert_eq!(recorded.management_url.as_deref(), Some(world.netbird.base_url.as_str()));
    let created = world.netbird.proxy.heard("POST /api/setup-keys");

    // A settled key learns of another URL, in one write of its Secret.
    operator.requests.clear();
    world.set_agent_url(Some("https://netbird.example.com:8443")).await;
    world.holds_url("office", "https://netbird.example.com:8443").await;
    let moved = world.cluster.status_when("office", "moved", |now| now.secret != issued.secret).await;
    tokio::time::sleep(QUIET).await;
    let writes = operator.requests.writes();
    let of_secrets = writes.iter().filter(|write| write.contains("/secrets/")).count();
    assert_eq!(of_secrets, 1, "{writes:#?}");
    assert_eq!((&moved.id, &moved.digest), (&issued.id, &issued.digest));

    // Altered by others, it is put back; a lost key comes back with it.
    world.cluster.patch_secret("office", json!({ "stringData": { URL_KEY: "https://theirs.example.com" } })).await;
    world.holds_url("office", "https://netbird.example.com:8443").await;
    world.cluster.patch_secret("office", json!({ "stringData": { "setup-key": "a", "NB_SETUP_KEY": "a" } })).await;
    world
        .cluster
        .status_when("office", "reissued", |now| now.id != issued.id && says(now, "Ready") == "True Reconciled")
        .await;
    let key = world.cluster.value("office", "setup-key").await;
    assert!(world.cluster.value("office", "NB_SETUP_KEY").await == key, "the alias is not the new key");
    assert_eq!(world.cluster.value("office", URL_KEY).await, "https://netbird.example.com:8443");

    // It goes with the spec.
    world.set_agent_url(None).await;
    world.holds_url("office", &world.netbird.base_url).await;
    world.cluster.patch_spec("office", json!({ "secret": { "managementUrlKey": null } })).await;
    world.cluster.ready("office").await;
    let data = world.cluster.secrets().get("office").await.unwrap().data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["NB_SETUP_KEY", "setup-key"]);
    assert_eq!(world.netbird.proxy.heard("POST /api/setup-keys"), created + 1, "keys at NetBird were replaced");
    assert_eq!(world.cluster.secret_version("plain").await, plain, "a Secret without the URL was written");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_stays_while_the_authority_is_out_of_reach() {
    let world = World::new("netbird_url_away").await;
    let operator = world.cluster.start_operator().await;
    world.issue("office", json!({ "secret": { "managementUrlKey": URL_KEY } })).await;
    let version = world.cluster.secret_version("office").await;
    // Nothing answers there.
    let moved = |url: &str| json!({ "netbird": { "url": url, "agentUrl": "https://netbird.example.com" } });
    world.change_authority(moved("http://127.0.0.1:9")).await;
    eventually("the Authority not to be ready", || async {
        let status = world.authorities().get(AUTHORITY).await.ok()?.status?;
        status.conditions.iter().any(|ready| ready.type_ == "Ready" && ready.status == "False").then_some(())
    })
    .await;
    tokio::time::sleep(SOON).await;
    assert_eq!(world.cluster.secret_version("office").await, version, "the Secret was written");
    world.change_authority(moved(&world.netbird.base_url)).await;
    world.holds_url("office", "https://netbird.example.com").await;
    operator.stop().await;
}
