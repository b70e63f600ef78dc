//! Creating a key, and waiting until its value can be shown.
//!
//! The answer to a creation is the only one that shows a key, and a client must not repeat a creation. So an answer
//! without the key says which SetupKey was created and where its key will be.

use std::{fmt, time::Duration};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, api::PostParams};
use tokio::time::{Instant, timeout_at};

use super::{keys::CallerKeys, refusal::Refusal};
use crate::{
    actions::{FIRST_PAUSE, LONGEST_PAUSE},
    api::SetupKey,
    cluster::call::{Attempt, call},
    key::{KeyValue, conditions::stalled},
};

impl CallerKeys {
    /// Creates a key and waits until it is issued, for at most `patience`.
    ///
    /// A caller without the right to read the new key is refused before anything is created.
    pub async fn create(&self, key: &SetupKey, patience: Duration) -> Result<(SetupKey, KeyValue), Refusal> {
        if !self.may_read_secrets().await? {
            return Err(Refusal::Forbidden(format!(
                "the answer to a creation shows the key, which takes the right to get secrets in namespace {}; nothing was created",
                self.namespace
            )));
        }
        let created = self.keys.create(&self.namespace, key, false).await;
        let created = created.map_err(|error| {
            let in_doubt = error.code() != Some(404);
            match error.into() {
                Refusal::Unavailable(sentence) if in_doubt => Refusal::Unavailable(format!(
                    "{sentence}; whether it was created is not known, so list the keys before you try again"
                )),
                refusal => refusal,
            }
        })?;
        self.when_issued(&created, patience).await
    }

    /// Whether the caller may get Secrets. If RBAC forbids even the question, the answer is yes: reading will tell.
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
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.keys.client.clone());
        let attempt = Attempt::to("ask what the caller may do");
        match call(attempt, reviews.create(&PostParams::default(), &review)).await {
            Ok(review) => Ok(review.status.is_some_and(|status| status.allowed)),
            Err(error) if error.code() == Some(403) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the controller has issued the key. Every refusal says where the key will be.
    async fn when_issued(&self, created: &SetupKey, patience: Duration) -> Result<(SetupKey, KeyValue), Refusal> {
        let (deadline, mut pause) = (Instant::now() + patience, FIRST_PAUSE);
        let mut waiting_for = Place::of(created, &self.namespace).not_issued_yet();
        loop {
            match timeout_at(deadline, self.look(created)).await {
                Ok(Look::Issued(issued)) => return Ok(*issued),
                Ok(Look::Hidden(sentence)) => return Err(Refusal::CreatedButHidden(sentence)),
                Ok(Look::Stuck(sentence)) => return Err(Refusal::CreatedNotIssued(sentence)),
                Ok(Look::NotYet(sentence)) => waiting_for = sentence,
                Err(_) => {}
            }
            if Instant::now() + pause > deadline {
                return Err(Refusal::CreatedNotIssued(waiting_for));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn look(&self, created: &SetupKey) -> Look {
        let place = Place::of(created, &self.namespace);
        let Place { namespace, name, .. } = place;
        let hidden = |refusal| match refusal {
            Refusal::Forbidden(reason) => Look::Hidden(place.known_by(format!("permission denied: {reason}"))),
            refusal => Look::NotYet(place.known_by(refusal)),
        };
        let attempt = Attempt::on("read SetupKey", namespace, name);
        let keys: Api<SetupKey> = Api::namespaced(self.keys.client.clone(), namespace);
        let key = match call(attempt, keys.get_opt(name)).await {
            Ok(Some(key)) if key.metadata.uid == created.metadata.uid => key,
            Ok(_) => return Look::Stuck(place.deleted()),
            Err(error) => return hidden(error.into()),
        };
        if let Some(reason) = stalled(&key) {
            return Look::Stuck(place.not_to_be_issued(reason));
        }
        match self.keys.value(&key).await {
            Ok(Some(value)) => Look::Issued(Box::new((key, value))),
            // Or the Secret changed after the status was written, and the controller is about to repair it.
            Ok(None) => Look::NotYet(place.not_issued_yet()),
            Err(error) => hidden(error.into()),
        }
    }
}

/// Where the key of a creation will be, in sentences for a caller whose answer does not show it.
#[derive(Clone, Copy)]
struct Place<'a> {
    namespace: &'a str,
    name: &'a str,
    secret: &'a str,
}

impl<'a> Place<'a> {
    fn of(created: &'a SetupKey, namespace: &'a str) -> Self {
        let name = created.metadata.name.as_deref().unwrap_or_default();
        Self { namespace, name, secret: created.secret_name() }
    }

    fn not_issued_yet(self) -> String {
        self.known_by("it is not issued yet")
    }

    fn known_by(self, why: impl fmt::Display) -> String {
        let Self { namespace, name, secret } = self;
        format!(
            "the setup key was created as SetupKey {namespace}/{name}, do not create it again; {why}; once the SetupKey is ready, Secret {namespace}/{secret} holds the key"
        )
    }

    fn not_to_be_issued(self, why: &str) -> String {
        let Self { namespace, name, .. } = self;
        format!(
            "the setup key was created as SetupKey {namespace}/{name}, do not create it again; it cannot be issued: {why}"
        )
    }

    fn deleted(self) -> String {
        let Self { namespace, name, .. } = self;
        format!("the setup key was created as SetupKey {namespace}/{name} and was deleted before it was issued")
    }
}

/// What one read of a new key shows. The sentences are for the caller.
enum Look {
    Issued(Box<(SetupKey, KeyValue)>),
    /// The controller needs more time.
    NotYet(String),
    /// The caller may not read the key.
    Hidden(String),
    /// Waiting longer does not help.
    Stuck(String),
}
