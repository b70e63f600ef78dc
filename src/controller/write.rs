//! The writes of the controller, one function each. None of them decides anything.

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, PartialObjectMeta, Patch},
    core::Request,
};
use rand::{TryRng, rngs::SysRng};
use secrecy::zeroize::Zeroizing;
use serde_json::{Map, Value, json};

use super::observe::owned;
use crate::{
    api::{SetupKey, SetupKeyStatus},
    cluster::{
        call::{Attempt, Error, call},
        patch_params, post_params,
    },
    key::{
        KeyId, KeyValue,
        plan::Issue,
        secret::{MetadataPatch, Origin, OwnedSecret, wanted_metadata},
    },
};

/// The API server answers with the metadata alone, so that the key does not come back over the wire.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// How an attempt to write the Secret ended.
pub enum Written {
    /// This is the Secret now.
    Secret(Box<OwnedSecret>),
    /// The API server does not let us, and says why.
    Refused(String),
    /// The Secret is not as it was when this was decided.
    Outdated(Error),
}

/// Creates the Secret with a new value. Creation, never apply: two writers cannot both succeed.
pub async fn create_secret(client: &Client, key: &SetupKey, issue: &Issue) -> Result<Written, Error> {
    let namespace = key.namespace().unwrap_or_default();
    let value = new_value()?;
    let wanted = wanted_metadata(key, &id_for(issue)?, issue.expires);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(key.secret_name().to_owned()),
            namespace: Some(namespace.clone()),
            owner_references: key.controller_owner_ref(&()).map(|owner| vec![owner]),
            labels: Some(wanted.labels),
            annotations: Some(wanted.annotations),
            ..ObjectMeta::default()
        },
        data: Some([(key.secret_key().to_owned(), ByteString(value.expose().into()))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let body = serde_json::to_vec(&secret).expect("a Secret is plain data");
    let request = Request::new(Secret::url_path(&(), Some(&namespace))).create(&post_params(), body);
    let attempt = Attempt::on("create Secret", &namespace, key.secret_name());
    send(client, attempt, request.expect("a path and a body make a request"), &value).await
}

/// Puts a new value into our Secret, leaving everything else in it alone but for the annotations that go with it.
pub async fn replace_key(
    client: &Client,
    key: &SetupKey,
    issue: &Issue,
    resource_version: &str,
) -> Result<Written, Error> {
    let namespace = key.namespace().unwrap_or_default();
    let value = new_value()?;
    let wanted = wanted_metadata(key, &id_for(issue)?, issue.expires);
    let patch = json!({
        "metadata": {
            "resourceVersion": resource_version,
            "labels": wanted.labels,
            "annotations": wanted.annotations,
        },
        "data": { key.secret_key(): BASE64_STANDARD.encode(value.expose()) },
    });
    let request = Request::new(Secret::url_path(&(), Some(&namespace)));
    let request = request.patch(key.secret_name(), &patch_params(), &Patch::Merge(&patch));
    let attempt = Attempt::on("replace the key in Secret", &namespace, key.secret_name());
    send(client, attempt, request.expect("a path and a patch make a request"), &value).await
}

/// Puts the labels and annotations of our Secret right.
pub async fn restore_metadata(
    client: &Client,
    key: &SetupKey,
    secret: &OwnedSecret,
    patch: &MetadataPatch,
) -> Result<Written, Error> {
    let namespace = key.namespace().unwrap_or_default();
    let patch = json!({ "metadata": {
        "resourceVersion": secret.resource_version,
        "labels": patch.labels,
        "annotations": patch.annotations,
    }});
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let attempt = Attempt::on("restore the labels and annotations of Secret", &namespace, key.secret_name());
    let (ours, patch) = (patch_params(), Patch::Merge(&patch));
    match call(attempt, secrets.patch_metadata(key.secret_name(), &ours, &patch)).await {
        Ok(written) => {
            let (holds, origin) = (secret.holds.clone(), secret.origin);
            let written = OwnedSecret { holds, origin, ..owned(written.metadata) };
            Ok(Written::Secret(Box::new(written)))
        }
        Err(error) => not_written(error, str::to_owned),
    }
}

/// Writes what changed of the status, if the `SetupKey` is still the one that it was computed from. Fields that did not
/// change are not sent, so that what others count there stays theirs.
pub async fn write_status(client: &Client, key: &SetupKey, status: &SetupKeyStatus) -> Result<SetupKey, Error> {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    let patch = json!({
        "metadata": { "resourceVersion": key.metadata.resource_version },
        "status": status_changes(key.status.as_ref(), status),
    });
    let keys: Api<SetupKey> = Api::namespaced(client.clone(), &namespace);
    let attempt = Attempt::on("write the status of SetupKey", &namespace, &name);
    call(attempt, keys.patch_status(&name, &patch_params(), &Patch::Merge(&patch))).await
}

fn status_changes(before: Option<&SetupKeyStatus>, after: &SetupKeyStatus) -> Map<String, Value> {
    let fields = |status: &SetupKeyStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let before = before.map_or_else(|| fields(&SetupKeyStatus::default()), fields);
    let after = fields(after);
    let removed = before.keys().filter(|field| !after.contains_key(*field)).map(|field| (field.clone(), Value::Null));
    let changed = after.iter().filter(|(field, value)| before.get(*field) != Some(value));
    removed.chain(changed.map(|(field, value)| (field.clone(), value.clone()))).collect()
}

/// Sends a Secret with a value in it, and makes sure that no answer quotes the value.
async fn send(
    client: &Client,
    attempt: Attempt,
    mut request: http::Request<Vec<u8>>,
    value: &KeyValue,
) -> Result<Written, Error> {
    request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(METADATA_ONLY));
    // Not `Client::request`: where an answer cannot be parsed, kube logs the whole of it.
    match call(attempt.clone(), client.request_text(request)).await {
        Ok(answer) => {
            let answer = Zeroizing::new(answer);
            let written: PartialObjectMeta<Secret> =
                serde_json::from_str(&answer).map_err(|_| Error::Unreadable(attempt))?;
            let holds = Some(value.fingerprint());
            let written = OwnedSecret { holds, origin: Origin::Minted, ..owned(written.metadata) };
            Ok(Written::Secret(Box::new(written)))
        }
        Err(error) => not_written(error.redacted(|text| value.redact(text)), |message| value.redact(message)),
    }
}

fn not_written(error: Error, redact: impl Fn(&str) -> String) -> Result<Written, Error> {
    if let Some(refusal) = error.refusal() {
        return Ok(Written::Refused(redact(refusal)));
    }
    match error.code() {
        Some(404 | 409) => Ok(Written::Outdated(error)),
        _ => Err(error),
    }
}

fn new_value() -> Result<KeyValue, Error> {
    let mut bytes = Zeroizing::new([0; 16]);
    SysRng.try_fill_bytes(bytes.as_mut())?;
    Ok(KeyValue::from_random_bytes(*bytes))
}

fn id_for(issue: &Issue) -> Result<KeyId, Error> {
    if let Some(id) = &issue.id {
        return Ok(id.clone());
    }
    let mut bytes = [0; 20];
    SysRng.try_fill_bytes(&mut bytes)?;
    Ok(KeyId::from_random_bytes(bytes))
}
