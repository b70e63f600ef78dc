//! The `SetupKey`s of one namespace, as one caller may see and change them.

use std::time::Duration;

use futures::{Stream, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};
use serde_json::json;

use super::{refusal::Refusal, translate::Change};
use crate::{
    actions::Keys,
    api::SetupKey,
    cluster::{
        call::{Attempt, TIME_LIMIT, call},
        pages::OBJECTS,
    },
    key::KeyId,
};

/// The field manager of this API's writes.
const FIELD_MANAGER: &str = "setupkey-api";

/// How often a change is sent when other writes of the same key come first.
const ATTEMPTS: usize = 5;

/// The keys of one namespace, with the rights of one caller.
pub struct CallerKeys {
    pub(super) keys: Keys,
    pub(super) namespace: String,
}

impl CallerKeys {
    /// The keys of this namespace, with the rights of the client.
    pub fn new(client: Client, namespace: &str) -> Self {
        let keys = Keys { client, manager: FIELD_MANAGER, limit: TIME_LIMIT, page: OBJECTS };
        Self { keys, namespace: namespace.to_owned() }
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
        let pages = self.keys.pages(Some(&self.namespace), params).err_into();
        pages.map_ok(|page| {
            for invalid in page.undecodable {
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(namespace = self.namespace, name, error = invalid.error, "cannot decode a SetupKey");
            }
            page.keys.into_iter().filter(|key| key.metadata.deletion_timestamp.is_none()).collect()
        })
    }

    /// Changes both fields in one write, so that of two concurrent changes one wins as a whole.
    ///
    /// A key at an authority is changed once the authority has it so, within `patience`.
    pub async fn change(&self, id: &KeyId, change: &Change, patience: Duration) -> Result<SetupKey, Refusal> {
        let mut lost = Refusal::NotFound(id.to_string());
        for _ in 0..ATTEMPTS {
            let key = self.find(id).await?;
            change.allowed_for(&key)?;
            let spec = json!({ "revoked": change.revoked, "autoGroups": change.auto_groups });
            match self.keys.patch(&key, json!({ "spec": spec })).await {
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
        let keys: Api<SetupKey> = Api::namespaced(self.keys.client.clone(), &self.namespace);
        match call(attempt, keys.delete(&name, &params)).await {
            Ok(_) => self.gone(&key, patience).await.map(|()| key),
            // Another request deleted the key first. A conflict means that a new SetupKey has its name.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Err(Refusal::NotFound(id.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}
