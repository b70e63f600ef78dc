//! A namespace for one test, and what a test does with the objects in it.

use std::process::Output;

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Secret},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::Value;
use setupkey_operator::api::{Peer, SetupKey, SetupKeyStatus, Timestamp, metadata::ROTATE_ANNOTATION};

use super::{
    access::{admin_config, control_plane, kubectl, run, unguarded_config, unguarded_kubectl},
    eventually,
};

/// A namespace of its own for one test.
pub struct Cluster {
    pub client: Client,
    /// An administrator's client that the chart's guards exempt.
    unguarded: Client,
    pub namespace: String,
}

impl Cluster {
    /// Creates the namespace, which is named after the test.
    pub async fn for_test(test: &str) -> Self {
        control_plane();
        let client = Client::try_from(admin_config().await).expect("a client");
        let unguarded = unguarded_config("admin", &["system:masters"]).await;
        let unguarded = Client::try_from(unguarded).expect("a client");
        let namespace = format!("{}-{:06x}", test.replace('_', "-"), rand::random::<u32>() >> 8);
        let object = Namespace {
            metadata: ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        Self { client, unguarded, namespace }
    }

    /// A namespace of a control plane that has no guards.
    pub fn without_guards(client: Client, namespace: &str) -> Self {
        Self { unguarded: client.clone(), client, namespace: namespace.to_owned() }
    }

    pub fn keys(&self) -> Api<SetupKey> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn peers(&self) -> Api<Peer> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// For tests that write a status in place of the operator, or break the one that it wrote.
    pub fn unguarded_keys(&self) -> Api<SetupKey> {
        Api::namespaced(self.unguarded.clone(), &self.namespace)
    }

    /// For tests that create a Peer or write its status in place of the operator.
    pub fn unguarded_peers(&self) -> Api<Peer> {
        Api::namespaced(self.unguarded.clone(), &self.namespace)
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = kubectl();
        command.arg("--namespace").arg(&self.namespace).args(arguments);
        run(command, input)
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl_ok(&self, arguments: &[&str], input: &str) -> String {
        printed(self.kubectl(arguments, input), arguments)
    }

    /// Runs kubectl exempt from the guards, and returns what it printed.
    pub fn unguarded_kubectl_ok(&self, arguments: &[&str], input: &str) -> String {
        let mut command = unguarded_kubectl();
        command.arg("--namespace").arg(&self.namespace).args(arguments);
        printed(run(command, input), arguments)
    }

    /// Applies a `SetupKey` of this name and spec (YAML in flow style, without braces).
    pub fn apply(&self, name: &str, spec: &str) {
        self.kubectl_ok(&["apply", "-f", "-"], &manifest(name, spec));
    }

    /// Creates a `SetupKey` without kubectl, for tests with many keys.
    pub async fn apply_quickly(&self, name: &str, spec: Value) {
        let key = serde_json::json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": name }, "spec": spec,
        });
        let key = serde_json::from_value(key).expect("a SetupKey");
        self.keys().create(&PostParams::default(), &key).await.expect("a created SetupKey");
    }

    /// Changes the spec by a merge patch.
    pub async fn patch_spec(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(serde_json::json!({ "spec": spec }));
        self.keys().patch(name, &PatchParams::default(), &patch).await.expect("a patched SetupKey");
    }

    /// Asks for a rotation at this moment, as a person does.
    pub async fn request_rotation(&self, name: &str, moment: Timestamp) {
        let patch = Patch::Merge(serde_json::json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: moment } } }));
        self.keys().patch(name, &PatchParams::default(), &patch).await.expect("a patched SetupKey");
    }

    /// Asks for a rotation, waits for the next key, and then until a rotation that is asked for now is a later request.
    pub async fn rotate(&self, name: &str, before: &SetupKeyStatus) -> SetupKeyStatus {
        let asked = before.issued_at.expect("an issued key").plus_seconds(1);
        self.request_rotation(name, asked).await;
        let after = self.status_when(name, "rotated", |status| status.revision > before.revision).await;
        let issued = after.issued_at.expect("an issued key").moment();
        eventually("the next second", || async {
            (chrono::Utc::now() >= issued + chrono::Duration::seconds(1)).then_some(())
        })
        .await;
        after
    }

    /// Changes the status by a merge patch, in place of the operator. The guards let it through.
    pub async fn patch_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        self.unguarded_keys().patch_status(name, &PatchParams::default(), &patch).await.expect("a patched status");
    }

    /// Removes the whole status.
    pub async fn lose_status(&self, name: &str) {
        self.patch_status(name, Value::Null).await;
    }

    /// Changes the Secret by a merge patch.
    pub async fn patch_secret(&self, name: &str, patch: Value) {
        self.secrets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a patched Secret");
    }

    /// Waits until the status reports the present spec and the condition holds. Returns the status.
    pub async fn status_when(&self, name: &str, what: &str, holds: impl Fn(&SetupKeyStatus) -> bool) -> SetupKeyStatus {
        let waiting_for = format!("SetupKey {name} to be {what}");
        eventually(&waiting_for, || async {
            let key = self.keys().get(name).await.ok()?;
            let status = key.status?;
            (status.observed_generation == key.metadata.generation && holds(&status)).then_some(status)
        })
        .await
    }

    /// Waits until the key is issued and nothing is left to do.
    pub async fn ready(&self, name: &str) -> SetupKeyStatus {
        self.status_when(name, "ready", |status| condition(status, "Ready").is_some_and(|ready| ready.status == "True"))
            .await
    }

    /// The key in the Secret.
    pub async fn value(&self, secret: &str, key: &str) -> String {
        let secret = self.secrets().get(secret).await.expect("the Secret");
        let data = secret.data.and_then(|mut data| data.remove(key)).expect("the data key");
        String::from_utf8(data.0).expect("text")
    }

    /// Waits until the key has an event with this reason, and returns it.
    pub async fn event(&self, name: &str, reason: &str) -> Event {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("the event {reason} of {name}"), || async {
            let events = events.list(&Default::default()).await.ok()?;
            let of_key = |event: &Event| {
                event.reason.as_deref() == Some(reason)
                    && event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name))
            };
            events.items.into_iter().find(of_key)
        })
        .await
    }

    pub async fn delete_secret(&self, name: &str) {
        self.secrets().delete(name, &DeleteParams::default()).await.expect("the Secret to be deleted");
    }

    pub async fn secret_version(&self, name: &str) -> String {
        self.secrets().get(name).await.expect("the Secret").resource_version().expect("a version")
    }
}

fn printed(output: Output, arguments: &[&str]) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "kubectl {arguments:?} failed: {err}");
    out.into_owned()
}

pub fn manifest(name: &str, spec: &str) -> String {
    format!("{{apiVersion: setupkey.dev/v1alpha1, kind: SetupKey, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

pub fn condition<'a>(status: &'a SetupKeyStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Status and reason of a condition. Empty if there is none.
pub fn says(status: &SetupKeyStatus, type_: &str) -> String {
    condition(status, type_).map(|condition| format!("{} {}", condition.status, condition.reason)).unwrap_or_default()
}
