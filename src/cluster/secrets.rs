//! The one place that reads and writes Secrets with their data.
//!
//! kube logs an answer that it cannot parse, and its typed objects print their data. So requests that carry a key go through
//! [`Client::request_text`] and return a [`SecretData`]. That type can be neither printed nor cloned, and wipes its memory
//! when it is dropped. The bodies of requests are wiped too, except for the copy that the HTTP client takes.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client, Resource,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    core::Request,
};
use secrecy::zeroize::{Zeroize, Zeroizing};
use serde::{Deserialize, Serialize};

use super::{
    ObjectName,
    call::{Attempt, Error, call},
};

/// A Secret with its data.
#[derive(Deserialize)]
pub struct SecretData {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Whether its data can never change again.
    #[serde(default)]
    pub immutable: bool,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

impl SecretData {
    /// The value of this data key.
    pub fn get(&self, data_key: &str) -> Option<&[u8]> {
        Some(&self.data.as_ref()?.get(data_key)?.0)
    }
}

impl Drop for SecretData {
    fn drop(&mut self) {
        self.data.iter_mut().flat_map(BTreeMap::values_mut).for_each(|data| data.0.zeroize());
    }
}

/// Reads a Secret, or `None` when there is none.
pub async fn read(client: &Client, name: &ObjectName) -> Result<Option<SecretData>, Error> {
    let attempt = Attempt::on("read Secret", &name.namespace, &name.name);
    let request = Request::new(Secret::url_path(&(), Some(&name.namespace))).get(&name.name, &Default::default());
    // An error here means that the name is invalid, so no such Secret can exist.
    let Ok(request) = request else { return Ok(None) };
    match exchange(client, attempt, request).await {
        Err(error) if error.code() == Some(404) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Creates a Secret and returns what the API server has stored, which admission may have changed.
pub async fn create(
    client: &Client,
    attempt: Attempt,
    namespace: &str,
    secret: &impl Serialize,
    params: &PostParams,
) -> Result<SecretData, Error> {
    let body = Zeroizing::new(serde_json::to_vec(secret).expect("a Secret is plain data"));
    let request = Request::new(Secret::url_path(&(), Some(namespace))).create(params, body.to_vec());
    exchange(client, attempt, request.expect("a path and a body make a request")).await
}

/// Patches a Secret by a merge patch and returns what the API server has stored, which admission may have changed.
pub async fn patch(
    client: &Client,
    attempt: Attempt,
    name: &ObjectName,
    patch: &impl Serialize,
    params: &PatchParams,
) -> Result<SecretData, Error> {
    let request = Request::new(Secret::url_path(&(), Some(&name.namespace)));
    let request = request.patch(&name.name, params, &Patch::Merge(patch));
    exchange(client, attempt, request.expect("a path and a patch make a request")).await
}

async fn exchange(client: &Client, attempt: Attempt, request: http::Request<Vec<u8>>) -> Result<SecretData, Error> {
    let answer = Zeroizing::new(call(attempt.clone(), client.request_text(request)).await?);
    serde_json::from_str(&answer).map_err(|_| Error::Unreadable(attempt))
}

#[cfg(test)]
mod tests {
    use static_assertions::assert_not_impl_any;

    use super::*;

    assert_not_impl_any!(SecretData: std::fmt::Debug, Clone, serde::Serialize);

    #[test]
    fn a_secret_without_data_reads_as_one_without_keys() {
        for text in
            [r#"{"metadata":{}}"#, r#"{"metadata":{},"data":null}"#, r#"{"metadata":{},"data":{"other":"YQ=="}}"#]
        {
            let secret: SecretData = serde_json::from_str(text).unwrap();
            assert_eq!(secret.get("setup-key"), None, "{text}");
        }
    }
}
