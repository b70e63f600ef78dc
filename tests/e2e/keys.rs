//! What stories do with SetupKeys.

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use setupkey_operator::api::{SetupKey, SetupKeyStatus, State, Timestamp, metadata::ROTATE_ANNOTATION};

use crate::cluster::{Place, eventually};

impl Place<'_> {
    /// Applies a `SetupKey` of this name and spec (YAML in flow style, without braces).
    pub fn apply_key(&self, name: &str, spec: &str) {
        let manifest = format!(
            "{{apiVersion: setupkey.dev/v1alpha1, kind: SetupKey, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
        );
        self.kubectl(&["apply", "-f", "-"], &manifest);
    }

    /// Waits until the status reports the present spec and the condition holds. Returns the status.
    pub async fn status_when(&self, name: &str, what: &str, holds: impl Fn(&SetupKeyStatus) -> bool) -> SetupKeyStatus {
        eventually(&format!("SetupKey {}/{name} to be {what}", self.namespace), || async {
            let key = self.api::<SetupKey>().get(name).await.ok()?;
            let status = key.status?;
            (status.observed_generation == key.metadata.generation && holds(&status)).then_some(status)
        })
        .await
    }

    pub async fn ready(&self, name: &str) -> SetupKeyStatus {
        let is_ready = |status: &SetupKeyStatus| {
            status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        self.status_when(name, "ready", is_ready).await
    }

    pub async fn in_state(&self, name: &str, state: State) -> SetupKeyStatus {
        self.status_when(name, state.as_str(), |status| status.state == Some(state)).await
    }

    /// The key itself. No message may print it.
    pub async fn value(&self, secret: &str) -> String {
        let data = self.api::<Secret>().get(secret).await.expect("the Secret").data.unwrap_or_default();
        String::from_utf8(data["setup-key"].0.clone()).expect("text")
    }

    pub async fn patch_spec(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api::<SetupKey>().patch(name, &PatchParams::default(), &patch).await.expect("a patched SetupKey");
    }

    /// Asks for a rotation at this moment, as a person does.
    pub async fn request_rotation(&self, name: &str, moment: Timestamp) {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: moment } } }));
        self.api::<SetupKey>().patch(name, &PatchParams::default(), &patch).await.expect("a patched SetupKey");
    }

    /// Writes the status in place of the operator.
    pub async fn patch_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        let keys: Api<SetupKey> = Api::namespaced(self.cluster.unguarded.clone(), &self.namespace);
        keys.patch_status(name, &PatchParams::default(), &patch).await.expect("a patched status");
    }

    /// Deletes the Secret, and waits until the key is issued again.
    pub async fn replace_secret(&self, name: &str, before: &SetupKeyStatus) -> SetupKeyStatus {
        let secret = before.secret.as_ref().expect("a Secret").name.clone();
        self.api::<Secret>().delete(&secret, &DeleteParams::default()).await.expect("a deleted Secret");
        self.status_when(name, "issued again", |status| status.digest != before.digest).await
    }
}

/// The digest of the key as `sha256sum` prints it. Pods print it instead of the key.
pub fn sha256sum(status: &SetupKeyStatus) -> String {
    let digest = BASE64_STANDARD.decode(status.digest.as_ref().expect("a digest")).expect("base64");
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
