use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, TryStreamExt};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{DeserializeGuard, NamespaceResourceScope, error_boundary::InvalidObject},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    api::{SetupKey, Timestamp, metadata::ROTATE_ANNOTATION},
    cluster::{
        ObjectName,
        call::{Attempt, Error, call_within},
        pages::{self, Paging},
        scoped, secrets,
    },
    key::{Digest, Facts, KeyValue, issued_at},
};

/// The `SetupKey`s that one caller may see and change.
#[derive(Clone)]
pub struct Keys {
    /// The client, with the caller's rights.
    pub client: Client,
    /// The field manager of the writes.
    pub manager: &'static str,
    /// The time limit of each call, but for Secrets, which have 10 s.
    pub limit: Duration,
    /// Objects in one page of a list, at most.
    pub page: u32,
}

/// One page of a list.
pub struct Page {
    /// The keys on it.
    pub keys: Vec<SetupKey>,
    /// What cannot be decoded. It hides no other key.
    pub undecodable: Vec<InvalidObject>,
}

impl Keys {
    /// The keys of one namespace, or of all, that these parameters select, a page at a time.
    pub fn pages(
        &self,
        namespace: Option<&str>,
        params: ListParams,
    ) -> impl Stream<Item = Result<Page, Error>> + use<> {
        let keys: Api<DeserializeGuard<SetupKey>> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        pages::list(keys, params, list_of("SetupKeys", namespace), self.paging()).map_ok(|page| {
            let mut read = Page { keys: Vec::with_capacity(page.len()), undecodable: Vec::new() };
            for DeserializeGuard(key) in page {
                match key {
                    Ok(key) => read.keys.push(key),
                    Err(invalid) => read.undecodable.push(invalid),
                }
            }
            read
        })
    }

    /// All keys that these parameters select.
    pub async fn list(&self, namespace: Option<&str>, params: ListParams) -> Result<Page, Error> {
        let mut pages = std::pin::pin!(self.pages(namespace, params));
        let mut all = Page { keys: Vec::new(), undecodable: Vec::new() };
        while let Some(page) = pages.next().await {
            let page = page?;
            all.keys.extend(page.keys);
            all.undecodable.extend(page.undecodable);
        }
        Ok(all)
    }

    /// Objects of another kind of one namespace, or of all, such as Peers, pods and events.
    pub async fn list_of<K>(&self, kind: &str, namespace: Option<&str>, params: ListParams) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        self.pages_of(kind, namespace, params).try_concat().await
    }

    /// The same a page at a time, for objects that can be many.
    pub fn pages_of<K>(
        &self,
        kind: &str,
        namespace: Option<&str>,
        params: ListParams,
    ) -> impl Stream<Item = Result<Vec<K>, Error>> + use<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let objects = scoped::<K>(&self.client, namespace);
        pages::list(objects, params, list_of(kind, namespace), self.paging())
    }

    /// The key of this name, if there is one. A caller who may list keys and not get them is answered too.
    pub async fn get(&self, name: &ObjectName) -> Result<Option<SetupKey>, Error> {
        let attempt = Attempt::on("read SetupKey", &name.namespace, &name.name);
        let keys = self.api(&name.namespace);
        match call_within(self.limit, attempt, keys.get(&name.name)).await {
            Ok(key) => Ok(Some(key)),
            // Without the CRD, the answer names no object.
            Err(error) if error.code() == Some(404) && !error.is_missing_resource() => Ok(None),
            Err(forbidden) if forbidden.code() == Some(403) => match self.listed(name).await {
                Err(error) if error.code() == Some(403) => Err(forbidden),
                listed => listed,
            },
            Err(error) => Err(error),
        }
    }

    /// The key of this name, by a list. One that cannot be decoded is an error: it is there.
    pub(super) async fn listed(&self, name: &ObjectName) -> Result<Option<SetupKey>, Error> {
        let params = ListParams::default().fields(&format!("metadata.name={}", name.name));
        let mut page = self.list(Some(&name.namespace), params).await?;
        if page.undecodable.is_empty() {
            Ok(page.keys.pop())
        } else {
            Err(Error::Unreadable(Attempt::on("read SetupKey", &name.namespace, &name.name)))
        }
    }

    /// Creates a key. With `dry_run`, the API server only says what it would create.
    pub async fn create(&self, namespace: &str, key: &SetupKey, dry_run: bool) -> Result<SetupKey, Error> {
        let attempt = match &key.metadata.name {
            Some(name) => Attempt::on("create SetupKey", namespace, name),
            None => Attempt::to(format!("create a SetupKey in namespace {namespace}")),
        };
        let params = PostParams { dry_run, field_manager: Some(self.manager.to_owned()) };
        let keys = self.api(namespace);
        call_within(self.limit, attempt, keys.create(&params, key)).await
    }

    /// Creates a key from a manifest as it is, so that the API server fills in what it leaves out.
    pub async fn create_from(
        &self,
        namespace: &str,
        manifest: &DynamicObject,
        dry_run: bool,
    ) -> Result<DynamicObject, Error> {
        let attempt = Attempt::on("create SetupKey", namespace, &manifest.name_any());
        let params = PostParams { dry_run, field_manager: Some(self.manager.to_owned()) };
        let keys = self.as_they_are(namespace);
        call_within(self.limit, attempt, keys.create(&params, manifest)).await
    }

    /// The key of this name with every text as it is stored. A [`SetupKey`] has `24h` where the spec says `1440m`.
    pub async fn stored(&self, name: &ObjectName) -> Result<DynamicObject, Error> {
        let attempt = Attempt::on("read SetupKey", &name.namespace, &name.name);
        call_within(self.limit, attempt, self.as_they_are(&name.namespace).get(&name.name)).await
    }

    /// Changes a key by a merge patch. The UID is a precondition: the patch fails with 409 if another `SetupKey` has taken the
    /// name.
    pub async fn patch(&self, key: &SetupKey, mut patch: Value) -> Result<SetupKey, Error> {
        let name = ObjectName::of(key);
        patch["apiVersion"] = SetupKey::api_version(&()).into();
        patch["kind"] = SetupKey::kind(&()).into();
        patch["metadata"]["uid"] = json!(key.metadata.uid);
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        let attempt = Attempt::on("change SetupKey", &name.namespace, &name.name);
        let (keys, patch) = (self.api(&name.namespace), Patch::Merge(patch));
        call_within(self.limit, attempt, keys.patch(&name.name, &params, &patch)).await
    }

    /// Revokes the key, or takes the revocation back.
    pub async fn set_revoked(&self, key: &SetupKey, revoked: bool) -> Result<SetupKey, Error> {
        self.patch(key, json!({ "spec": { "revoked": revoked } })).await
    }

    /// Asks for the next key. Returns the key, and the moment that was asked for.
    pub async fn request_rotation(&self, key: &SetupKey, now: DateTime<Utc>) -> Result<(SetupKey, Timestamp), Error> {
        let moment = moment_of_request(key, now);
        let patch = json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: moment } } });
        Ok((self.patch(key, patch).await?, moment))
    }

    /// The value of the key, or `None` while the Secret does not hold the key that the status speaks of.
    pub async fn value(&self, key: &SetupKey) -> Result<Option<KeyValue>, Error> {
        let Some(facts) = Facts::of(key) else { return Ok(None) };
        let namespace = key.namespace().unwrap_or_default();
        let secret = secrets::read(&self.client, &ObjectName::new(namespace, key.secret_name())).await?;
        let value = secret.and_then(|secret| KeyValue::parse(secret.get(key.secret_key())?));
        Ok(value.filter(|value| Digest::of(value.expose()) == facts.digest))
    }

    /// How lists are asked for.
    pub fn paging(&self) -> Paging {
        Paging { objects: self.page, limit: self.limit }
    }

    fn as_they_are(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<SetupKey>(&()))
    }

    fn api(&self, namespace: &str) -> Api<SetupKey> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// The moment for which a rotation is asked for: this one, or the first second that counts as a new request. That is later
/// than the issue of the current key, and not before the `SetupKey` was created. The clock of the caller may be behind.
pub fn moment_of_request(key: &SetupKey, now: DateTime<Utc>) -> Timestamp {
    let issued = key.status.as_ref().and_then(|status| issued_at(&key.spec, status));
    let created = key.metadata.creation_timestamp.as_ref().map(Timestamp::from);
    let first = issued.map(|issued| issued.plus_seconds(1)).max(created);
    Timestamp::from(now).max(first.unwrap_or(now.into()))
}

fn list_of(kind: &str, namespace: Option<&str>) -> Attempt {
    Attempt::to(match namespace {
        Some(namespace) => format!("list {kind} of namespace {namespace}"),
        None => format!("list {kind} of all namespaces"),
    })
}
