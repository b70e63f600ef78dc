//! The `SetupKey`s of one namespace, as one caller may see and change them.

use std::time::Duration;

use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
    core::DeserializeGuard,
};
use serde_json::json;

use super::{refusal::Refusal, translate::Change};
use crate::api::SetupKey;

/// The field manager of our writes, by which an object tells who set what.
pub(super) const FIELD_MANAGER: &str = "setupkey-api";

/// The longest that one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How often a change is tried again when somebody was faster.
const ATTEMPTS: usize = 5;

/// The keys of one namespace, with the rights of one caller.
pub struct Keys {
    pub(super) client: Client,
    pub(super) keys: Api<SetupKey>,
    pub(super) namespace: String,
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

/// A value in a field selector. Source: apimachinery, pkg/fields/selector.go, EscapeValue.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// Why a call on an object that was there did not do.
pub(super) enum Failure {
    Gone,
    Other(Refusal),
}

impl Failure {
    /// What it means where no object was named: there, what is missing is the CRD or the namespace.
    pub(super) fn without_an_object(self, attempt: &str) -> Refusal {
        match self {
            Failure::Gone => {
                Refusal::Unavailable(format!("could not {attempt}: there is no such resource or namespace"))
            }
            Failure::Other(refusal) => refusal,
        }
    }
}

/// Waits for an answer, for so long.
pub(super) async fn limited<T>(attempt: &str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
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

/// The same for what is not about one object.
pub(super) async fn within_limit<T>(
    attempt: &str,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, Refusal> {
    limited(attempt, answer).await.map_err(|failure| failure.without_an_object(attempt))
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
