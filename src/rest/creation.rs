//! Creating a key, and waiting until there is something to show.
//!
//! The answer to a creation is the one place where a key is shown, and a creation is not to be repeated. So whoever
//! cannot be answered with the key is told where it is going to be.

use std::{collections::BTreeMap, fmt, time::Duration};

use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::Secret,
    },
};
use kube::{Api, Resource, api::PostParams, core::Request};
use secrecy::zeroize::{Zeroize, Zeroizing};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{
    keys::{FIELD_MANAGER, Failure, Keys, limited, within_limit},
    refusal::Refusal,
};
use crate::{
    api::SetupKey,
    key::{
        Digest, KeyValue,
        conditions::{READY, STALLED},
    },
};

/// Between two looks at a key that is to be issued.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Keys {
    /// Creates a key and waits, for so long, until it is issued.
    ///
    /// A caller who could not be shown it is refused before anything is created.
    pub async fn create(&self, key: &SetupKey, patience: Duration) -> Result<(SetupKey, KeyValue), Refusal> {
        if !self.may_read_secrets().await? {
            return Err(Refusal::Forbidden(format!(
                "the answer to a creation shows the key, which takes the right to get secrets in namespace {}; nothing was created",
                self.namespace
            )));
        }
        let attempt = format!("create a SetupKey in namespace {}", self.namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = limited(&attempt, self.keys.create(&params, key)).await.map_err(|failure| match failure {
            Failure::Other(Refusal::Unavailable(sentence)) => Refusal::Unavailable(format!(
                "{sentence}; whether it was created is not known, so list the keys before you try again"
            )),
            failure => failure.without_an_object(&attempt),
        })?;
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
        let key = match within_limit(&format!("read SetupKey {namespace}/{name}"), self.keys.get_opt(name)).await {
            Ok(Some(key)) if key.metadata.uid == created.metadata.uid => key,
            Ok(_) => return Look::Stuck(place.deleted()),
            Err(refusal) => return hidden(refusal),
        };
        if let Some(reason) = stalled(&key) {
            return Look::Stuck(place.not_to_be_issued(reason));
        }
        let digest = key.status.as_ref().and_then(|status| status.id.as_ref().and(status.digest.clone()));
        let Some(digest) = digest else { return Look::NotYet(place.not_issued_yet()) };
        match self.value(&key).await {
            Ok(Some(value)) if Digest::of(value.expose()).as_str() == digest => Look::Issued(Box::new((key, value))),
            // The Secret was changed after the status was written; the controller is about to mend it.
            Ok(_) => Look::NotYet(place.not_issued_yet()),
            Err(refusal) => hidden(refusal),
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
}

/// Where a key that was created is to be found, in sentences for a caller who did not get it.
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
        format!("the setup key was created as SetupKey {namespace}/{name} and deleted by somebody before it was issued")
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
    data: BTreeMap<String, ByteString>,
}

impl Drop for SecretData {
    fn drop(&mut self) {
        self.data.values_mut().for_each(|data| data.0.zeroize());
    }
}

/// Why a person must act before the key can be issued.
fn stalled(key: &SetupKey) -> Option<&str> {
    let conditions = &key.status.as_ref()?.conditions;
    let condition = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    condition(STALLED).filter(|stalled| stalled.status == "True")?;
    condition(READY).map(|ready| ready.message.as_str())
}
