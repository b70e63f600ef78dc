//! The `SetupKey`s of one namespace, as one caller may see and change them.

use std::time::{Duration, Instant};

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Secret,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{DeserializeGuard, Request},
};
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use serde_json::json;

use super::{refusal::Refusal, translate::Change};
use crate::{
    api::SetupKey,
    key::{
        Digest, KeyValue,
        report::{READY, STALLED},
    },
};

/// The field manager of our writes, by which an object tells who set what.
const FIELD_MANAGER: &str = "setupkey-api";

/// The longest that one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at a key that is to be issued.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often a change is tried again when somebody was faster.
const ATTEMPTS: usize = 5;

/// The keys of one namespace, with the rights of one caller.
pub struct Keys {
    client: Client,
    keys: Api<SetupKey>,
    namespace: String,
}

impl Keys {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { keys: Api::namespaced(client.clone(), namespace), client, namespace: namespace.to_owned() }
    }

    /// All keys. One that cannot be read is left out and logged: it must not hide the others.
    pub async fn list(&self) -> Result<Vec<SetupKey>, Refusal> {
        self.select(&ListParams::default()).await
    }

    /// The key with this id. One that is being deleted is gone already.
    pub async fn find(&self, id: &str) -> Result<SetupKey, Refusal> {
        let selector = format!("status.id={}", escaped(id));
        let mut found = self.select(&ListParams::default().fields(&selector)).await?;
        match found.len() {
            0 | 1 => found.pop().ok_or_else(|| Refusal::NotFound(id.to_owned())),
            // Ids are random; two that are alike were made so by hand. Which one is meant, nobody can say.
            _ => Err(Refusal::Conflict(format!(
                "more than one SetupKey of namespace {} has the id {id}",
                self.namespace
            ))),
        }
    }

    async fn select(&self, params: &ListParams) -> Result<Vec<SetupKey>, Refusal> {
        let keys: Api<DeserializeGuard<SetupKey>> = Api::namespaced(self.client.clone(), &self.namespace);
        let attempt = format!("list SetupKeys of namespace {}", self.namespace);
        let listed = within_limit(&attempt, keys.list(params)).await?;
        let keys = listed.items.into_iter().filter_map(|DeserializeGuard(key)| match key {
            Ok(key) => key.metadata.deletion_timestamp.is_none().then_some(key),
            Err(invalid) => {
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(namespace = self.namespace, name, error = invalid.error, "SetupKey cannot be read");
                None
            }
        });
        Ok(keys.collect())
    }

    /// Creates a key and waits, for so long, until it is issued.
    ///
    /// The answer to a creation is the one place where the key is shown. So a caller who could not be shown it is refused
    /// before anything is created.
    pub async fn create(&self, key: &SetupKey, patience: Duration) -> Result<(SetupKey, KeyValue), Refusal> {
        if !self.may_read_secrets().await? {
            return Err(Refusal::Forbidden(format!(
                "the answer to a creation shows the key, which takes the right to get secrets in namespace {}; nothing was created",
                self.namespace
            )));
        }
        let attempt = format!("create a SetupKey in namespace {}", self.namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = within_limit(&attempt, self.keys.create(&params, key)).await?;
        self.when_issued(&created, patience).await
    }

    /// Whether the caller may. Where nobody may ask this, the attempt will tell.
    async fn may_read_secrets(&self) -> Result<bool, Refusal> {
        let attributes = ResourceAttributes {
            namespace: Some(self.namespace.clone()),
            verb: Some("get".to_owned()),
            resource: Some("secrets".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        match within_limit("ask what the caller may do", reviews.create(&PostParams::default(), &review)).await {
            Ok(review) => Ok(review.status.is_some_and(|status| status.allowed)),
            Err(Refusal::Forbidden(_)) => Ok(true),
            Err(refusal) => Err(refusal),
        }
    }

    /// Waits until the controller has issued the key. Whatever happens, the sentence says where the key is to be found.
    async fn when_issued(&self, created: &SetupKey, patience: Duration) -> Result<(SetupKey, KeyValue), Refusal> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let waiting_for = match self.look(created).await {
                Look::Issued(issued) => return Ok(*issued),
                Look::Hidden(sentence) => return Err(Refusal::CreatedButHidden(sentence)),
                Look::Stuck(sentence) => return Err(Refusal::CreatedNotIssued(sentence)),
                Look::NotYet(sentence) => sentence,
            };
            if started.elapsed() + pause > patience {
                return Err(Refusal::CreatedNotIssued(waiting_for));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn look(&self, created: &SetupKey) -> Look {
        let name = created.metadata.name.as_deref().unwrap_or_default();
        let (namespace, secret) = (&self.namespace, created.secret_name());
        let exists = format!("the setup key was created as SetupKey {namespace}/{name}, do not create it again;");
        let later = format!("once the SetupKey is ready, Secret {namespace}/{secret} holds the key");
        let key = match within_limit(&format!("read SetupKey {namespace}/{name}"), self.keys.get_opt(name)).await {
            Ok(Some(key)) if key.metadata.uid == created.metadata.uid => key,
            Ok(_) => {
                return Look::Stuck(format!(
                    "the setup key was created as SetupKey {namespace}/{name} and deleted by somebody before it was issued"
                ));
            }
            Err(Refusal::Forbidden(reason)) => {
                return Look::Hidden(format!("{exists} {later}; permission denied: {reason}"));
            }
            Err(refusal) => return Look::NotYet(format!("{exists} {later}; {refusal}")),
        };
        if let Some(reason) = stalled(&key) {
            return Look::Stuck(format!("{exists} it cannot be issued: {reason}"));
        }
        let Some(digest) = key.status.as_ref().and_then(|status| status.digest.clone()) else {
            return Look::NotYet(format!("{exists} it is not issued yet; {later}"));
        };
        match self.value(&key).await {
            Ok(Some(value)) if Digest::of(value.expose()).as_str() == digest => Look::Issued(Box::new((key, value))),
            Ok(_) => Look::NotYet(format!("{exists} {later}")),
            Err(Refusal::Forbidden(reason)) => Look::Hidden(format!("{exists} {later}; permission denied: {reason}")),
            Err(refusal) => Look::NotYet(format!("{exists} {later}; {refusal}")),
        }
    }

    /// The key in the Secret.
    async fn value(&self, key: &SetupKey) -> Result<Option<KeyValue>, Refusal> {
        let attempt = format!("read Secret {}/{}", self.namespace, key.secret_name());
        let request = Request::new(Secret::url_path(&(), Some(&self.namespace)));
        let request = request.get(key.secret_name(), &Default::default());
        let request = request.map_err(|_| Refusal::Invalid(format!("could not {attempt}: the name is not valid")))?;
        // Not `Api::get`: where an answer cannot be parsed, kube logs the whole of it.
        let answer = Zeroizing::new(within_limit(&attempt, self.client.request_text(request)).await?);
        let secret: SecretData = serde_json::from_str(&answer)
            .map_err(|_| Refusal::Unavailable(format!("could not {attempt}: the answer could not be read")))?;
        Ok(secret.data.get(key.secret_key()).and_then(|data| KeyValue::parse(&data.0)))
    }

    /// Changes both fields at once, so that of two changes at the same time one wins as a whole.
    pub async fn change(&self, id: &str, change: &Change) -> Result<SetupKey, Refusal> {
        let mut lost = Refusal::NotFound(id.to_owned());
        for _ in 0..ATTEMPTS {
            let key = self.find(id).await?;
            let name = key.metadata.name.as_deref().unwrap_or_default();
            // The uid makes this fail if another SetupKey has taken the name.
            let patch = json!({
                "apiVersion": SetupKey::api_version(&()),
                "kind": SetupKey::kind(&()),
                "metadata": { "uid": key.metadata.uid },
                "spec": { "revoked": change.revoked, "autoGroups": change.auto_groups },
            });
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let attempt = format!("change SetupKey {}/{name}", self.namespace);
            let patch = Patch::Merge(patch);
            match limited(&attempt, self.keys.patch(name, &params, &patch)).await {
                Ok(changed) => return Ok(changed),
                Err(Failure::Gone) => {}
                Err(Failure::Other(refusal @ Refusal::Conflict(_))) => lost = refusal,
                Err(Failure::Other(refusal)) => return Err(refusal),
            }
        }
        Err(lost)
    }

    /// Deletes the key and returns what it was.
    pub async fn delete(&self, id: &str) -> Result<SetupKey, Refusal> {
        let key = self.find(id).await?;
        let name = key.metadata.name.as_deref().unwrap_or_default();
        let same = Preconditions { uid: key.metadata.uid.clone(), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        let attempt = format!("delete SetupKey {}/{name}", self.namespace);
        match limited(&attempt, self.keys.delete(name, &params)).await {
            Ok(_) => Ok(key),
            // Somebody was faster; if the name is taken again, then by another key.
            Err(Failure::Gone | Failure::Other(Refusal::Conflict(_))) => Err(Refusal::NotFound(id.to_owned())),
            Err(Failure::Other(refusal)) => Err(refusal),
        }
    }
}

/// What a look at a new key shows. The sentences are for the caller.
enum Look {
    Issued(Box<(SetupKey, KeyValue)>),
    NotYet(String),
    Hidden(String),
    Stuck(String),
}

/// What we read of a Secret, without the means to print it.
#[derive(Deserialize)]
struct SecretData {
    #[serde(default)]
    data: std::collections::BTreeMap<String, k8s_openapi::ByteString>,
}

impl Drop for SecretData {
    fn drop(&mut self) {
        self.data.values_mut().for_each(|data| secrecy::zeroize::Zeroize::zeroize(&mut data.0));
    }
}

/// Why a person must act before the key can be issued.
fn stalled(key: &SetupKey) -> Option<&str> {
    let conditions = &key.status.as_ref()?.conditions;
    let condition = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    condition(STALLED).filter(|stalled| stalled.status == "True")?;
    condition(READY).map(|ready| ready.message.as_str())
}

/// A value in a field selector. Source: apimachinery, pkg/fields/selector.go, EscapeValue.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// Why a call on an object that was there did not do.
enum Failure {
    Gone,
    Other(Refusal),
}

async fn limited<T>(attempt: &str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(CALL_LIMIT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Failure::Gone),
        Ok(Err(error)) => Err(Failure::Other(Refusal::from_kubernetes(attempt, error))),
        Err(_) => {
            let seconds = CALL_LIMIT.as_secs();
            let sentence = format!("could not {attempt}: kubernetes did not answer within {seconds} s");
            Err(Failure::Other(Refusal::Unavailable(sentence)))
        }
    }
}

/// The same for what is not about one object: there, a thing that is missing is the CRD or the namespace.
async fn within_limit<T>(attempt: &str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    limited(attempt, answer).await.map_err(|failure| match failure {
        Failure::Gone => Refusal::Unavailable(format!("could not {attempt}: there is no such resource or namespace")),
        Failure::Other(refusal) => refusal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_change_what_is_selected() {
        assert_eq!(escaped("a,status.state=valid"), "a\\,status.state\\=valid");
        assert_eq!(escaped("a\\"), "a\\\\");
    }
}
