//! Keys that live at an authority: they change there, and an answer waits for that.
//!
//! After a revocation or a deletion that was granted, no machine joins with the key any more. For a key of the cluster that is
//! so once the `SetupKey` is written. A key at NetBird is revoked and deleted by the controller.

use std::time::Duration;

use kube::ResourceExt;

use super::{keys::CallerKeys, refusal::Refusal};
use crate::{
    api::SetupKey,
    key::conditions::{GROUP_NOT_FOUND, READY, STALLED, condition, is_ready, is_true},
};

impl CallerKeys {
    /// Waits until the authority has taken up a change, for at most `patience`.
    pub(super) async fn taken_up(&self, changed: SetupKey, patience: Duration) -> Result<SetupKey, Refusal> {
        let Some(authority) = &changed.spec.authority_ref else { return Ok(changed) };
        let place = format!("SetupKey {}/{}", self.namespace, changed.name_any());
        let not_there = |why: &str| {
            let authority = &authority.name;
            Refusal::NotThereYet(format!(
                "{place} was changed, do not repeat the call; {authority} has not taken it up: {why}"
            ))
        };
        let seen = self.keys.until(&changed, patience, |key| {
            let Some(key) = key else { return Some(Err(Refusal::NotFound(id(&changed)))) };
            let status = key.status.as_ref()?;
            if status.observed_generation < changed.metadata.generation {
                return None;
            }
            let ready = condition(status, READY)?;
            // A person must act, at NetBird or here.
            let waits = is_true(status, STALLED) || ready.reason == GROUP_NOT_FOUND;
            if waits { Some(Err(not_there(&ready.message))) } else { is_ready(key).then(|| Ok(key.clone())) }
        });
        let waited = seen.await;
        waited.answer.unwrap_or_else(|| Err(not_there(&why(waited.last.as_ref()))))
    }

    /// Waits until the key has left its authority and the `SetupKey` is gone, for at most `patience`.
    pub(super) async fn gone(&self, deleted: &SetupKey, patience: Duration) -> Result<(), Refusal> {
        let Some(authority) = &deleted.spec.authority_ref else { return Ok(()) };
        let waited = self.keys.until(deleted, patience, |key| key.is_none().then_some(())).await;
        waited.answer.ok_or_else(|| {
            let (namespace, name, authority) = (&self.namespace, deleted.name_any(), &authority.name);
            let why = why(waited.last.as_ref());
            Refusal::NotThereYet(format!(
                "SetupKey {namespace}/{name} is being deleted, do not repeat the call; {authority} still has the key: {why}"
            ))
        })
    }
}

fn id(key: &SetupKey) -> String {
    key.status.as_ref().and_then(|status| status.id.clone()).unwrap_or_default()
}

/// What the controller says of a key that is not ready.
fn why(key: Option<&SetupKey>) -> String {
    let ready = key.and_then(|key| condition(key.status.as_ref()?, READY)).filter(|ready| ready.status != "True");
    ready.map_or_else(|| "no answer yet".to_owned(), |ready| ready.message.clone())
}
