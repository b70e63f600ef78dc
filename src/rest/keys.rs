//! The `SetupKey`s of one namespace, as one caller may see and change them.

use std::time::Duration;

use futures::{Stream, TryStreamExt};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
    core::DeserializeGuard,
};
use serde_json::json;

use super::{refusal::Refusal, translate::Change};
use crate::{
    api::SetupKey,
    cluster::{
        call::{Attempt, call},
        pages,
    },
    key::KeyId,
};

/// The field manager of this API's writes.
pub(super) const FIELD_MANAGER: &str = "setupkey-api";

/// How often a change is sent when other writes of the same key come first.
const ATTEMPTS: usize = 5;

/// The keys of one namespace, with the rights of one caller.
pub struct CallerKeys {
    pub(super) client: Client,
    pub(super) keys: Api<SetupKey>,
    pub(super) namespace: String,
}

impl CallerKeys {
    /// The keys of this namespace, with the rights of the client.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { keys: Api::namespaced(client.clone(), namespace), client, namespace: namespace.to_owned() }
    }

    /// All keys, a page at a time. A key that cannot be decoded is logged and left out, so that it does not hide the others.
    pub fn pages(&self) -> impl Stream<Item = Result<Vec<SetupKey>, Refusal>> {
        self.select(ListParams::default())
    }

    /// The key with this id. A key that is being deleted is not found.
    pub async fn find(&self, id: &KeyId) -> Result<SetupKey, Refusal> {
        let selector = format!("status.id={id}");
        let mut found: Vec<_> = self.select(ListParams::default().fields(&selector)).try_concat().await?;
        match found.len() {
            0 | 1 => found.pop().ok_or_else(|| Refusal::NotFound(id.to_string())),
            // Ids are random, so two equal ones were written by hand. The request could mean either.
            _ => Err(Refusal::Conflict(format!(
                "more than one SetupKey of namespace {} has the id {id}",
                self.namespace
            ))),
        }
    }

    fn select(&self, params: ListParams) -> impl Stream<Item = Result<Vec<SetupKey>, Refusal>> {
        let keys: Api<DeserializeGuard<SetupKey>> = Api::namespaced(self.client.clone(), &self.namespace);
        let attempt = Attempt::to(format!("list SetupKeys of namespace {}", self.namespace));
        let usable = |DeserializeGuard(key): DeserializeGuard<SetupKey>| match key {
            Ok(key) => key.metadata.deletion_timestamp.is_none().then_some(key),
            Err(invalid) => {
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(namespace = self.namespace, name, error = invalid.error, "cannot decode a SetupKey");
                None
            }
        };
        let pages = pages::list(keys, params, attempt).err_into();
        pages.map_ok(move |page| page.into_iter().filter_map(usable).collect())
    }

    /// Changes both fields in one write, so that of two concurrent changes one wins as a whole.
    ///
    /// A key at an authority is changed once the authority has it so, within `patience`.
    pub async fn change(&self, id: &KeyId, change: &Change, patience: Duration) -> Result<SetupKey, Refusal> {
        let mut lost = Refusal::NotFound(id.to_string());
        for _ in 0..ATTEMPTS {
            let key = self.find(id).await?;
            change.allowed_for(&key)?;
            let name = key.name_any();
            // With the UID as a precondition, the patch fails if another SetupKey has taken the name.
            let patch = json!({
                "apiVersion": SetupKey::api_version(&()),
                "kind": SetupKey::kind(&()),
                "metadata": { "uid": key.metadata.uid },
                "spec": { "revoked": change.revoked, "autoGroups": change.auto_groups },
            });
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let attempt = Attempt::on("change SetupKey", &self.namespace, &name);
            match call(attempt, self.keys.patch(&name, &params, &Patch::Merge(patch))).await {
                Ok(changed) => return self.taken_up(changed, patience).await,
                Err(error) if error.code() == Some(404) => {}
                Err(error) if error.code() == Some(409) => lost = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(lost)
    }

    /// Deletes the key and returns what it was. A key at an authority is deleted once it is gone there, within `patience`.
    pub async fn delete(&self, id: &KeyId, patience: Duration) -> Result<SetupKey, Refusal> {
        let key = self.find(id).await?;
        let name = key.name_any();
        let same = Preconditions { uid: key.metadata.uid.clone(), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        let attempt = Attempt::on("delete SetupKey", &self.namespace, &name);
        match call(attempt, self.keys.delete(&name, &params)).await {
            Ok(_) => self.gone(&key, patience).await.map(|()| key),
            // Another request deleted the key first. A conflict means that a new SetupKey has its name.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Err(Refusal::NotFound(id.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}
