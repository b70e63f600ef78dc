//! Looking at the Secret of a key: in the cache where that is enough, and at the API server where it is not.

use std::sync::Arc;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{DeserializeGuard, Request, Resource},
};
use secrecy::zeroize::{Zeroize, Zeroizing};
use serde::Deserialize;

use super::watch::SecretMetadata;
use crate::{
    api::{Peer, SetupKey, metadata::KEY_ID_LABEL},
    cluster::call::{Attempt, Error, call},
    key::{
        KeyId, KeyValue,
        secret::{Metadata, Origin, OwnedSecret, SecretView, WrittenByUs, is_owned_by},
    },
};

/// What the caches alone tell of the Secret, or `None` when the API server must be asked.
pub fn in_cache(key: &SetupKey, cached: Option<&Arc<SecretMetadata>>) -> Option<SecretView> {
    if key.metadata.deletion_timestamp.is_some() {
        // Nothing is going to be done, so there is nothing to find out.
        return Some(SecretView::Unknown);
    }
    let status = key.status.as_ref();
    let seen_before = status.and_then(|status| status.observed_generation).is_some_and(|generation| generation >= 0);
    match cached {
        // A key that nobody has looked at: its Secret can be created outright, for creation fails if there is one.
        None if !seen_before => Some(SecretView::Absent),
        None => None,
        Some(secret) => is_as_recorded(key, secret).then_some(SecretView::AsRecorded),
    }
}

/// Whether the Secret is ours and still the version that was compared with the status, under the same spec.
fn is_as_recorded(key: &SetupKey, secret: &SecretMetadata) -> bool {
    let Some(status) = &key.status else { return false };
    let recorded = status.secret.as_ref().is_some_and(|recorded| {
        recorded.name == key.secret_name()
            && recorded.key == key.secret_key()
            && Some(&recorded.resource_version) == secret.metadata.resource_version.as_ref()
    });
    recorded
        && status.observed_generation == key.metadata.generation
        && status.digest.is_some()
        && is_owned_by(&secret.metadata, key)
}

/// Reads the Secret from the API server. The data of a Secret that is not ours is not asked for, so unless the cache has
/// shown that it is ours, its metadata is read first.
pub async fn live(client: &Client, key: &SetupKey, cached: Option<&Arc<SecretMetadata>>) -> Result<SecretView, Error> {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.secret_name());
    let attempt = || Attempt::on("read Secret", &namespace, name);
    if !cached.is_some_and(|secret| is_owned_by(&secret.metadata, key)) {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        match call(attempt(), secrets.get_metadata_opt(name)).await? {
            None => return Ok(SecretView::Absent),
            Some(found) if !is_owned_by(&found.metadata, key) => {
                return Ok(SecretView::not_owned(&found.metadata, key));
            }
            Some(_) => {}
        }
    }

    // Not `Api::get`: where an answer cannot be parsed, kube logs the whole of it.
    let request = Request::new(Secret::url_path(&(), Some(&namespace)));
    let request = request.get(name, &Default::default()).expect("the name of an object that exists makes a valid path");
    let answer = match call(attempt(), client.request_text(request)).await {
        Err(error) if error.code() == Some(404) => return Ok(SecretView::Absent),
        answer => Zeroizing::new(answer?),
    };
    let secret: ReadSecret = serde_json::from_str(&answer).map_err(|_| Error::Unreadable(attempt()))?;
    Ok(secret.seen_by(key))
}

/// How often the key of this id has been used, as far as the peers tell that are still there, which is all that is left of a
/// ledger that was lost: each was a use, and one of them the latest.
pub async fn count_peers(client: &Client, key: &SetupKey, id: &KeyId) -> Result<i64, Error> {
    let namespace = key.namespace().unwrap_or_default();
    let peers: Api<DeserializeGuard<Peer>> = Api::namespaced(client.clone(), &namespace);
    let mut page = ListParams::default().labels(&format!("{KEY_ID_LABEL}={id}")).limit(500);
    let (mut count, mut latest) = (0, 0);
    loop {
        let attempt = Attempt::on("count the Peers of SetupKey", &namespace, &key.name_any());
        let listed = call(attempt, peers.list(&page)).await?;
        count += i64::try_from(listed.items.len()).unwrap_or(i64::MAX);
        let readable = listed.items.iter().filter_map(|peer| peer.0.as_ref().ok());
        latest = readable.map(|peer| peer.spec.setup_key_ref.number).fold(latest, i64::max);
        match listed.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => page = page.continue_token(&more),
            None => return Ok(count.max(latest)),
        }
    }
}

/// A Secret, without the means to print it.
#[derive(Deserialize)]
struct ReadSecret {
    metadata: ObjectMeta,
    #[serde(default)]
    data: Option<std::collections::BTreeMap<String, ByteString>>,
}

impl ReadSecret {
    fn seen_by(mut self, key: &SetupKey) -> SecretView {
        if !is_owned_by(&self.metadata, key) {
            return SecretView::not_owned(&self.metadata, key);
        }
        let holds = self.data.as_ref().and_then(|data| data.get(key.secret_key()));
        let holds = holds.and_then(|data| KeyValue::parse(&data.0)).map(|value| value.fingerprint());
        self.data.iter_mut().flat_map(|data| data.values_mut()).for_each(|data| data.0.zeroize());
        let mut secret = owned(self.metadata);
        secret.holds = holds;
        SecretView::Owned(secret)
    }
}

/// Our Secret as its metadata shows it, with nothing known of its data.
pub fn owned(metadata: ObjectMeta) -> OwnedSecret {
    OwnedSecret {
        resource_version: metadata.resource_version.unwrap_or_default(),
        written_by_us: WrittenByUs::from_managed_fields(metadata.managed_fields.as_deref().unwrap_or_default()),
        metadata: Metadata {
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
        },
        holds: None,
        origin: Origin::Found,
    }
}
