//! A namespace whose keys live at a real NetBird.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use setupkey_operator::api::{Authority, SetupKeyStatus};

use control_plane::netbird::RemoteKey;

use crate::harness::{Cluster, condition, eventually, netbird::NetBird};

/// The name of the `Authority`, of its Secret, and of nothing else.
pub const AUTHORITY: &str = "netbird";

/// A namespace with an `Authority` that leads to a real NetBird, through a proxy with faults.
pub struct World {
    pub cluster: Cluster,
    pub netbird: NetBird,
}

impl World {
    pub async fn new(test: &str) -> Self {
        Self::with(test, NetBird::for_test(test).await, json!({})).await
    }

    /// With these fields of `spec.netbird` in place of the usual ones, and of `spec`.
    pub async fn with(test: &str, netbird: NetBird, changes: Value) -> Self {
        let world = Self { cluster: Cluster::for_test(test).await, netbird };
        world.set_token(AUTHORITY, world.netbird.admin.token.expose_secret()).await;
        world.add_authority(AUTHORITY, changes).await;
        world
    }

    /// Creates an `Authority`, and its Secret must have the same name.
    pub async fn add_authority(&self, name: &str, changes: Value) {
        let mut spec = json!({ "netbird": { "url": self.netbird.base_url, "tokenSecretRef": { "name": name } } });
        json_patch::merge(&mut spec, &changes);
        let object = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": name }, "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        self.authorities().create(&PostParams::default(), &object).await.expect("an Authority");
    }

    pub fn authorities(&self) -> Api<Authority> {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    /// Puts a token into a Secret, which is created if it is missing.
    pub async fn set_token(&self, secret: &str, token: &str) {
        let secrets = self.cluster.secrets();
        let object: Secret = serde_json::from_value(
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret }, "stringData": { "NB_API_KEY": token } }),
        )
        .unwrap();
        match secrets.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.cluster.patch_secret(secret, json!({ "stringData": { "NB_API_KEY": token } })).await;
            }
            created => drop(created.expect("a Secret")),
        }
    }

    /// Creates a `SetupKey` that names the `Authority`.
    pub async fn create(&self, name: &str, changes: Value) {
        let mut spec = json!({ "authorityRef": { "name": AUTHORITY } });
        json_patch::merge(&mut spec, &changes);
        self.cluster.apply_quickly(name, spec).await;
    }

    /// Creates it, and waits until it is ready.
    pub async fn issue(&self, name: &str, changes: Value) -> SetupKeyStatus {
        self.create(name, changes).await;
        self.cluster.ready(name).await
    }

    /// The keys at NetBird of a `SetupKey` of this namespace.
    pub async fn there(&self, name: &str) -> Vec<RemoteKey> {
        self.netbird.api.keys_named(&format!("[{}/{name} ", self.cluster.namespace)).await
    }

    /// The only key at NetBird of a `SetupKey`.
    pub async fn only(&self, name: &str) -> RemoteKey {
        let mut keys = self.there(name).await;
        assert_eq!(keys.len(), 1, "keys of {name} at NetBird: {:?}", ids(&keys));
        keys.remove(0)
    }

    /// Waits until exactly one key of a `SetupKey` admits machines, and no other is there.
    pub async fn settled_there(&self, name: &str) -> RemoteKey {
        eventually(&format!("one key of {name} at NetBird"), || async {
            let mut keys = self.there(name).await;
            (keys.len() == 1 && keys[0].valid).then(|| keys.remove(0))
        })
        .await
    }

    /// The value in the Secret of a key.
    pub async fn value(&self, name: &str) -> secrecy::SecretString {
        self.cluster.value(name, "setup-key").await.into()
    }

    /// Deletes a `SetupKey`, and does not wait.
    pub async fn delete(&self, name: &str) {
        self.cluster.keys().delete(name, &DeleteParams::default()).await.expect("a deletion");
    }

    /// Waits until a `SetupKey` is gone.
    pub async fn gone(&self, name: &str) {
        eventually(&format!("SetupKey {name} to be gone"), || async {
            self.cluster.keys().get_opt(name).await.ok()?.is_none().then_some(())
        })
        .await;
    }

    /// Waits until `Ready` of the `Authority` has this status and reason. Returns its message.
    pub async fn authority_says(&self, name: &str, expected: &str) -> String {
        let what = format!("Authority {name} to say {expected}");
        eventually(&what, || async {
            let status = self.authorities().get(name).await.ok()?.status?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (format!("{} {}", ready.status, ready.reason) == expected).then(|| ready.message.clone())
        })
        .await
    }

    /// Waits until `Ready` of a key has this status and reason. Returns its message.
    pub async fn key_says(&self, name: &str, type_: &str, expected: &str) -> String {
        eventually(&format!("{type_} of {name} to say {expected}"), || async {
            let status = self.cluster.keys().get(name).await.ok()?.status?;
            let found = condition(&status, type_)?;
            (format!("{} {}", found.status, found.reason) == expected).then(|| found.message.clone())
        })
        .await
    }
}

/// The ids of keys, for messages.
pub fn ids(keys: &[RemoteKey]) -> Vec<&str> {
    keys.iter().map(|key| key.id.as_str()).collect()
}

/// Longer than an interval, and the time in which what it shows is done.
pub const SOON: Duration = Duration::from_secs(5);
