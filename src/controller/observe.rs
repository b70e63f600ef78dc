//! Looking at the Secret and the Peers of a key: in the cache where that is enough, at the API server where it is not.

use std::pin::pin;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt, api::ListParams, core::DeserializeGuard};

use super::watch::SecretMetadata;
use crate::{
    api::{Peer, SetupKey, metadata::KEY_ID_LABEL},
    cluster::{
        ObjectName,
        call::{Attempt, Error, call},
        pages::{self, Paging},
        secrets::{self, SecretData},
    },
    key::{
        KeyId, KeyValue,
        conditions::is_ready,
        data_keys::{WantedData, looked_at},
        remote::AuthorityView,
        rotation,
        secret::{Held, Metadata, OwnedSecret, SecretView, Written, WrittenByUs, is_owned_by},
    },
};

/// What the caches alone tell about the Secret, or `None` when the API server must be asked.
pub fn in_cache(
    key: &SetupKey,
    authority: &AuthorityView,
    cached: Option<&SecretMetadata>,
    now: DateTime<Utc>,
) -> Option<SecretView> {
    if key.metadata.deletion_timestamp.is_some() {
        // The planner leaves the Secret alone, so there is nothing to find out.
        return Some(SecretView::Unread);
    }
    let status = key.status.as_ref();
    let seen_before = status.and_then(|status| status.observed_generation).is_some_and(|generation| generation >= 0);
    match cached {
        // A key that no pass has seen yet: its Secret can be created outright, because creation fails if there is one.
        None if !seen_before => Some(SecretView::Absent),
        None => None,
        Some(secret) => is_unchanged(key, authority, secret, now).then_some(SecretView::Unchanged),
    }
}

/// Whether the Secret is ours and still the version that was compared with this generation of the spec and found equal.
///
/// A version on record is not enough: it is also written when the Secret was read and could not be put right. And it must be
/// good enough for what is due: a rotation writes the Secret, and so does another URL of the authority.
fn is_unchanged(key: &SetupKey, authority: &AuthorityView, secret: &SecretMetadata, now: DateTime<Utc>) -> bool {
    let Some(status) = &key.status else { return false };
    let recorded = status.secret.as_ref().is_some_and(|recorded| {
        recorded.name == key.secret_name()
            && recorded.key == key.secret_key()
            && Some(&recorded.resource_version) == secret.metadata.resource_version.as_ref()
            && WantedData::of(key, authority).has_recorded_url(recorded)
    });
    recorded
        && status.observed_generation == key.metadata.generation
        && status.digest.is_some()
        && is_ready(key)
        && is_owned_by(&secret.metadata, key)
        && rotation::due(key, now).is_none()
        && rotation::is_told(key, now)
}

/// Reads the Secret from the API server. The data of a Secret that is not ours is not asked for, so its metadata is read
/// first, unless the cache has shown that it is ours.
pub async fn live(client: &Client, key: &SetupKey, cached: Option<&SecretMetadata>) -> Result<SecretView, Error> {
    let name = ObjectName::new(key.namespace().unwrap_or_default(), key.secret_name());
    if !cached.is_some_and(|secret| is_owned_by(&secret.metadata, key)) {
        let attempt = Attempt::on("read Secret", &name.namespace, &name.name);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &name.namespace);
        match call(attempt, secrets.get_metadata_opt(&name.name)).await? {
            None => return Ok(SecretView::Absent),
            Some(found) if !is_owned_by(&found.metadata, key) => {
                return Ok(SecretView::not_owned(&found.metadata, key));
            }
            Some(_) => {}
        }
    }
    Ok(match secrets::read(client, &name).await? {
        None => SecretView::Absent,
        Some(secret) if !is_owned_by(&secret.metadata, key) => SecretView::not_owned(&secret.metadata, key),
        Some(secret) => SecretView::Owned(owned(secret, key, Written::Nothing)),
    })
}

/// Our Secret as the API server has it.
pub fn owned(mut secret: SecretData, key: &SetupKey, written: Written) -> OwnedSecret {
    let holds = secret.get(key.secret_key()).and_then(KeyValue::parse).map(|value| value.fingerprint());
    let metadata = std::mem::take(&mut secret.metadata);
    let written_by_us = WrittenByUs::from_managed_fields(metadata.managed_fields.as_deref().unwrap_or_default());
    let names = looked_at(key, &written_by_us.data);
    let data = names.into_iter().filter_map(|name| Some((name.to_owned(), Held::of(secret.get(name)?)))).collect();
    OwnedSecret {
        resource_version: metadata.resource_version.unwrap_or_default(),
        written_by_us,
        metadata: Metadata {
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
        },
        immutable: secret.immutable,
        holds,
        data,
        belongs_to_another: false,
        written,
    }
}

/// How often the key of this id was used, from what is left of a lost ledger: the Peers. Each was a use, and one of them the
/// latest.
pub async fn count_peers(client: &Client, key: &SetupKey, id: &KeyId) -> Result<i64, Error> {
    let namespace = key.namespace().unwrap_or_default();
    let peers: Api<DeserializeGuard<Peer>> = Api::namespaced(client.clone(), &namespace);
    let joined_with = ListParams::default().labels(&format!("{KEY_ID_LABEL}={id}"));
    let attempt = Attempt::on("count the Peers of SetupKey", &namespace, &key.name_any());
    let mut pages = pin!(pages::list(peers, joined_with, attempt, Paging::default()));
    let (mut count, mut latest) = (0, 0);
    while let Some(page) = pages.try_next().await? {
        count += i64::try_from(page.len()).unwrap_or(i64::MAX);
        let readable = page.iter().filter_map(|peer| peer.0.as_ref().ok());
        latest = readable.map(|peer| peer.spec.setup_key_ref.number).fold(latest, i64::max);
    }
    Ok(count.max(latest))
}
