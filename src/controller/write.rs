//! The writes of the controller, one function each. None of them decides anything.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use secrecy::zeroize::{Zeroize, Zeroizing};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::observe::owned;
use crate::{
    api::{Peer, PendingPeer, SetupKey, SetupKeyStatus, metadata::AUTHORITY_FINALIZER},
    authority::Minted,
    cluster::{
        ObjectName,
        call::{Attempt, Error, call},
        patch_params, post_params,
        secrets::{self, SecretData},
    },
    key::{
        KeyValue,
        ledger::Swap,
        secret::{DataChange, DataPatch, MetadataPatch, OwnedSecret, Restoration, SentKey, Written},
    },
};

/// Peers of one key that are created at the same time.
const PEERS_AT_ONCE: usize = 8;

/// How an attempt to write the Secret ended.
pub enum SecretWrite {
    /// The API server has stored this.
    Stored(Box<OwnedSecret>),
    /// The API server refuses the write, and says why.
    Refused(String),
    /// The Secret is not what it was when the write was decided on.
    Outdated(Error),
}

/// Creates the Secret with this key and these further data keys. Creation, never apply: two writers cannot both succeed.
pub async fn create_secret(
    client: &Client,
    key: &SetupKey,
    minted: &Minted,
    data: &DataPatch,
) -> Result<SecretWrite, Error> {
    send_creation(client, key, minted, data, &post_params()).await
}

/// What [`create_secret`] would store, found out by a dry run.
pub async fn rehearse_creation(
    client: &Client,
    key: &SetupKey,
    minted: &Minted,
    data: &DataPatch,
) -> Result<SecretWrite, Error> {
    send_creation(client, key, minted, data, &PostParams { dry_run: true, ..post_params() }).await
}

async fn send_creation(
    client: &Client,
    key: &SetupKey,
    minted: &Minted,
    data: &DataPatch,
    params: &PostParams,
) -> Result<SecretWrite, Error> {
    let namespace = key.namespace().unwrap_or_default();
    let metadata = minted.metadata(key);
    let contents = data.iter().filter_map(|(name, change)| match change {
        DataChange::SetupKey => Some((name.as_str(), minted.value.expose())),
        DataChange::Url(url) => Some((name.as_str(), url.as_str())),
        DataChange::Removal => None,
    });
    let contents = contents.chain([(key.secret_key(), minted.value.expose())]);
    let mut secret = Secret {
        metadata: ObjectMeta {
            name: Some(key.secret_name().to_owned()),
            namespace: Some(namespace.clone()),
            owner_references: key.controller_owner_ref(&()).map(|owner| vec![owner]),
            labels: Some(metadata.labels),
            annotations: Some(metadata.annotations),
            ..ObjectMeta::default()
        },
        data: Some(contents.map(|(name, content)| (name.to_owned(), ByteString(content.into()))).collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let attempt = Attempt::on("create Secret", &namespace, key.secret_name());
    let created = secrets::create(client, attempt, &namespace, &secret, params).await;
    secret.data.iter_mut().flat_map(|data| data.values_mut()).for_each(|data| data.0.zeroize());
    with_key(created, key, minted)
}

/// Puts this key into our Secret, and the labels, annotations and further data keys that go with it. All else in it stays.
pub async fn replace_key(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    minted: &Minted,
    data: &DataPatch,
) -> Result<SecretWrite, Error> {
    let replaced = send_replacement(client, key, secret, minted, data, &patch_params()).await;
    with_key(replaced, key, minted)
}

/// What [`replace_key`] would store, found out by a dry run.
pub async fn rehearse_replacement(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    minted: &Minted,
    data: &DataPatch,
) -> Result<SecretWrite, Error> {
    let dry_run = PatchParams { dry_run: true, ..patch_params() };
    let replaced = send_replacement(client, key, secret, minted, data, &dry_run).await;
    with_key(replaced, key, minted)
}

async fn send_replacement(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    minted: &Minted,
    data: &DataPatch,
    params: &PatchParams,
) -> Result<SecretData, Error> {
    let name = secret_name(key);
    let metadata = secret.drift_from(&minted.metadata(key));
    let encoded = encoded(&minted.value);
    let mut patch = SecretPatch::new(secret, &metadata, data, Some(&encoded));
    patch.data.insert(key.secret_key(), Some(Cow::Borrowed(&encoded)));
    let attempt = Attempt::on("replace the key in Secret", &name.namespace, &name.name);
    secrets::patch(client, attempt, &name, &patch, params).await
}

/// A merge patch of a version of a Secret. It borrows the key instead of copying it.
#[derive(Serialize)]
struct SecretPatch<'a> {
    metadata: Value,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    data: BTreeMap<&'a str, Option<Cow<'a, str>>>,
}

impl<'a> SecretPatch<'a> {
    /// These changes, where `encoded` is the key in base64. Without it, no data key gets it.
    fn new(secret: &OwnedSecret, metadata: &MetadataPatch, data: &'a DataPatch, encoded: Option<&'a str>) -> Self {
        let value = |change: &DataChange| match change {
            DataChange::SetupKey => encoded.map(|encoded| Some(Cow::Borrowed(encoded))),
            DataChange::Url(url) => Some(Some(Cow::Owned(BASE64_STANDARD.encode(url)))),
            DataChange::Removal => Some(None),
        };
        Self {
            metadata: json!({
                "resourceVersion": secret.resource_version,
                "labels": metadata.labels,
                "annotations": metadata.annotations,
            }),
            data: data.iter().filter_map(|(name, change)| Some((name.as_str(), value(change)?))).collect(),
        }
    }
}

fn encoded(value: &KeyValue) -> Zeroizing<String> {
    Zeroizing::new(BASE64_STANDARD.encode(value.expose()))
}

/// Restores the labels, annotations and further data keys of our Secret. The aliases are copied from the key in it.
///
/// The patch is refused unless the Secret is still the version that was decided on, so that is the version that is read here.
pub async fn restore(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    changes: &Restoration,
) -> Result<SecretWrite, Error> {
    let name = secret_name(key);
    let copies = changes.data.values().any(|change| *change == DataChange::SetupKey);
    let read = if copies { secrets::read(client, &name).await? } else { None };
    let value = read.as_ref().and_then(|read| KeyValue::parse(read.get(key.secret_key())?));
    let encoded = value.as_ref().map(encoded);
    let encoded = encoded.as_ref().map(|encoded| encoded.as_str());
    let patch = SecretPatch::new(secret, &changes.metadata, &changes.data, encoded);
    let attempt = Attempt::on("restore the metadata and data keys of Secret", &name.namespace, &name.name);
    let redact = |text: &str| value.as_ref().map_or_else(|| text.to_owned(), |value| value.redact(text));
    match secrets::patch(client, attempt, &name, &patch, &patch_params()).await {
        Ok(stored) => Ok(SecretWrite::Stored(Box::new(owned(stored, key, Written::Restoration)))),
        Err(error) => not_written(error.redacted(redact), redact),
    }
}

/// Writes what changed of the status, if the `SetupKey` is still the one that the status was computed from. Fields that did
/// not change are not sent, so that what others count there stays theirs.
pub async fn write_status(client: &Client, key: &SetupKey, status: &SetupKeyStatus) -> Result<SetupKey, Error> {
    let patch = json!({
        "metadata": { "resourceVersion": key.metadata.resource_version },
        "status": changes(key.status.as_ref().unwrap_or(&SetupKeyStatus::default()), status),
    });
    patch_status(client, key, "write the status of SetupKey", patch).await
}

/// Puts our finalizer on the `SetupKey`, or takes it off, if it is still the one that this was decided on.
pub async fn set_finalizer(client: &Client, key: &SetupKey, present: bool) -> Result<SetupKey, Error> {
    let ObjectName { namespace, name } = ObjectName::of(key);
    let others = key.finalizers().iter().filter(|finalizer| *finalizer != AUTHORITY_FINALIZER).cloned();
    let finalizers: Vec<_> = others.chain(present.then(|| AUTHORITY_FINALIZER.to_owned())).collect();
    let patch = json!({
        "metadata": { "resourceVersion": key.metadata.resource_version, "finalizers": finalizers },
    });
    let keys: Api<SetupKey> = Api::namespaced(client.clone(), &namespace);
    let attempt = Attempt::on("write the finalizer of SetupKey", &namespace, &name);
    call(attempt, keys.patch(&name, &patch_params(), &Patch::Merge(patch))).await
}

/// Takes entries out of the ledger, if the `SetupKey` is still the one that this was computed from.
pub async fn clear_entries(client: &Client, key: &SetupKey, swap: &Swap) -> Result<SetupKey, Error> {
    patch_status(client, key, "clear pending entries of SetupKey", swap.patch(key)).await
}

/// Creates the Peers of these entries of the key. One that exists is as good: its name is made of the machine's public key.
pub async fn create_peers(
    client: &Client,
    key: &SetupKey,
    entries: impl Iterator<Item = &PendingPeer>,
) -> Result<(), Error> {
    let namespace = key.namespace().unwrap_or_default();
    let peers: Api<Peer> = Api::namespaced(client.clone(), &namespace);
    let wanted: Vec<_> = entries.map(|entry| Peer::from_entry(key, entry)).collect();
    stream::iter(wanted)
        .map(Ok)
        .try_for_each_concurrent(PEERS_AT_ONCE, |peer| {
            let (peers, namespace) = (&peers, &namespace);
            async move {
                let attempt = Attempt::on("create Peer", namespace, &peer.name_any());
                match call(attempt, peers.create(&post_params(), &peer)).await {
                    Err(error) if error.code() == Some(409) => Ok(()),
                    created => created.map(drop),
                }
            }
        })
        .await
}

fn secret_name(key: &SetupKey) -> ObjectName {
    ObjectName::new(key.namespace().unwrap_or_default(), key.secret_name())
}

async fn patch_status(client: &Client, key: &SetupKey, what: &str, patch: Value) -> Result<SetupKey, Error> {
    let ObjectName { namespace, name } = ObjectName::of(key);
    let keys: Api<SetupKey> = Api::namespaced(client.clone(), &namespace);
    call(Attempt::on(what, &namespace, &name), keys.patch_status(&name, &patch_params(), &Patch::Merge(patch))).await
}

/// The fields of a status that differ, as a merge patch takes them.
pub fn changes<T: Serialize>(before: &T, after: &T) -> Map<String, Value> {
    let fields = |status: &T| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let removed = before.keys().filter(|field| !after.contains_key(*field)).map(|field| (field.clone(), Value::Null));
    let changed = after.iter().filter(|(field, value)| before.get(*field) != Some(value));
    removed.chain(changed.map(|(field, value)| (field.clone(), value.clone()))).collect()
}

/// The end of a write that carried a key. No message of it quotes the key.
fn with_key(answer: Result<SecretData, Error>, key: &SetupKey, minted: &Minted) -> Result<SecretWrite, Error> {
    match answer {
        Ok(stored) => {
            let digest = minted.value.fingerprint().digest;
            let sent = Written::Key(SentKey { digest, id: minted.id.clone(), expires: minted.expires });
            Ok(SecretWrite::Stored(Box::new(owned(stored, key, sent))))
        }
        Err(error) => {
            not_written(error.redacted(|text| minted.value.redact(text)), |message| minted.value.redact(message))
        }
    }
}

fn not_written(error: Error, redact: impl Fn(&str) -> String) -> Result<SecretWrite, Error> {
    if let Some(refusal) = error.refusal() {
        return Ok(SecretWrite::Refused(redact(refusal)));
    }
    match error.code() {
        Some(404 | 409) => Ok(SecretWrite::Outdated(error)),
        _ => Err(error),
    }
}
