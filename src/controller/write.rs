//! The writes of the controller, one function each. None of them decides anything.

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
        ledger::Swap,
        secret::{MetadataPatch, OwnedSecret, SentKey, Written},
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

/// Creates the Secret with this key. Creation, never apply: two writers cannot both succeed.
pub async fn create_secret(client: &Client, key: &SetupKey, minted: &Minted) -> Result<SecretWrite, Error> {
    send_creation(client, key, minted, &post_params()).await
}

/// What [`create_secret`] would store, found out by a dry run.
pub async fn rehearse_creation(client: &Client, key: &SetupKey, minted: &Minted) -> Result<SecretWrite, Error> {
    send_creation(client, key, minted, &PostParams { dry_run: true, ..post_params() }).await
}

async fn send_creation(
    client: &Client,
    key: &SetupKey,
    minted: &Minted,
    params: &PostParams,
) -> Result<SecretWrite, Error> {
    let namespace = key.namespace().unwrap_or_default();
    let metadata = minted.metadata(key);
    let mut secret = Secret {
        metadata: ObjectMeta {
            name: Some(key.secret_name().to_owned()),
            namespace: Some(namespace.clone()),
            owner_references: key.controller_owner_ref(&()).map(|owner| vec![owner]),
            labels: Some(metadata.labels),
            annotations: Some(metadata.annotations),
            ..ObjectMeta::default()
        },
        data: Some([(key.secret_key().to_owned(), ByteString(minted.value.expose().into()))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let attempt = Attempt::on("create Secret", &namespace, key.secret_name());
    let created = secrets::create(client, attempt, &namespace, &secret, params).await;
    secret.data.iter_mut().flat_map(|data| data.values_mut()).for_each(|data| data.0.zeroize());
    with_key(created, key, minted)
}

/// Puts this key into our Secret, and the labels and annotations that go with it. All else in it stays.
pub async fn replace_key(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    minted: &Minted,
) -> Result<SecretWrite, Error> {
    let replaced = send_replacement(client, key, secret, minted, &patch_params()).await;
    with_key(replaced, key, minted)
}

/// What [`replace_key`] would store, found out by a dry run.
pub async fn rehearse_replacement(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    minted: &Minted,
) -> Result<SecretWrite, Error> {
    let dry_run = PatchParams { dry_run: true, ..patch_params() };
    let replaced = send_replacement(client, key, secret, minted, &dry_run).await;
    with_key(replaced, key, minted)
}

async fn send_replacement(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    minted: &Minted,
    params: &PatchParams,
) -> Result<SecretData, Error> {
    let name = secret_name(key);
    let metadata = secret.drift_from(&minted.metadata(key));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(minted.value.expose()));
    let patch = SecretPatch {
        metadata: json!({
            "resourceVersion": secret.resource_version,
            "labels": metadata.labels,
            "annotations": metadata.annotations,
        }),
        data: [(key.secret_key(), encoded.as_str())].into(),
    };
    let attempt = Attempt::on("replace the key in Secret", &name.namespace, &name.name);
    secrets::patch(client, attempt, &name, &patch, params).await
}

/// A merge patch of a Secret, which borrows the key instead of copying it.
#[derive(Serialize)]
struct SecretPatch<'a> {
    metadata: Value,
    data: std::collections::BTreeMap<&'a str, &'a str>,
}

/// Restores the labels and annotations of our Secret.
pub async fn restore_metadata(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    patch: &MetadataPatch,
) -> Result<SecretWrite, Error> {
    let name = secret_name(key);
    let patch = json!({ "metadata": {
        "resourceVersion": secret.resource_version,
        "labels": patch.labels,
        "annotations": patch.annotations,
    }});
    let attempt = Attempt::on("restore the labels and annotations of Secret", &name.namespace, &name.name);
    match secrets::patch(client, attempt, &name, &patch, &patch_params()).await {
        Ok(stored) => Ok(SecretWrite::Stored(Box::new(owned(stored, key, Written::Metadata)))),
        Err(error) => not_written(error, str::to_owned),
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
