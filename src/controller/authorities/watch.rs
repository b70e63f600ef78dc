//! The watches of authorities and namespaces.

use std::{collections::HashMap, fmt::Debug, pin::pin, sync::Arc};

use futures::{
    StreamExt,
    future::{join_all, join3},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Resource, ResourceExt,
    api::PartialObjectMeta,
    core::DeserializeGuard,
    runtime::watcher::{Config, Event},
};
use serde::de::DeserializeOwned;

use super::{
    Authorities,
    object::{AuthorityName, AuthorityObject},
};
use crate::{
    api::{Authority, AuthorityKind, ClusterAuthority},
    cluster::{call::log_restart, pages, scoped},
};

/// Watches until it is dropped.
pub async fn run(all: Arc<Authorities>, namespaces: Vec<Option<String>>) {
    let in_scopes = namespaces.into_iter().map(|namespace| {
        let objects: Api<DeserializeGuard<Authority>> = scoped(&all.client, namespace.as_deref());
        authorities(Arc::clone(&all), objects, namespace)
    });
    if !all.of_cluster {
        join_all(in_scopes).await;
        return;
    }
    let of_cluster: Api<DeserializeGuard<ClusterAuthority>> = Api::all(all.client.clone());
    let of_cluster = authorities(Arc::clone(&all), of_cluster, None);
    join3(join_all(in_scopes), of_cluster, self::namespaces(Arc::clone(&all))).await;
}

/// Watches the objects of one kind, in a namespace or in all.
async fn authorities<K>(all: Arc<Authorities>, objects: Api<DeserializeGuard<K>>, namespace: Option<String>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    for<'a> AuthorityObject: From<&'a K>,
{
    let kind = if K::kind(&()) == "Authority" { AuthorityKind::Authority } else { AuthorityKind::ClusterAuthority };
    let mut events = pin!(pages::watch(objects, Config::default()));
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(read(object)),
            Ok(Event::InitDone) => all.listed(kind, namespace.as_deref(), std::mem::take(&mut listed)),
            Ok(Event::Apply(object)) => read(object).into_iter().for_each(|object| all.changed(object)),
            Ok(Event::Delete(object)) => {
                let namespace = object.namespace().unwrap_or_default();
                all.deleted(&AuthorityName { kind, namespace, name: object.name_any() });
            }
            Err(error) => log_restart(K::kind(&()), &error),
        }
    }
}

/// An object that cannot be decoded is left alone, and must not stop the others.
fn read<K>(object: DeserializeGuard<K>) -> Option<AuthorityObject>
where
    for<'a> AuthorityObject: From<&'a K>,
{
    match object.0 {
        Ok(object) => Some(AuthorityObject::from(&object)),
        Err(error) => {
            let name = error.metadata.name.clone();
            tracing::warn!(?name, %error, "an authority cannot be decoded and is left alone");
            None
        }
    }
}

/// The labels of namespaces, which decide about the use of `ClusterAuthority`s.
async fn namespaces(all: Arc<Authorities>) {
    let objects: Api<PartialObjectMeta<Namespace>> = Api::all(all.client.clone());
    let mut events = pin!(pages::watch(objects, Config::default()));
    let labels = |object: PartialObjectMeta<Namespace>| {
        (object.metadata.name.unwrap_or_default(), object.metadata.labels.unwrap_or_default())
    };
    let mut listed = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend([labels(object)]),
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut listed);
                all.namespaces_changed(|namespaces| *namespaces = listed, None);
            }
            Ok(Event::Apply(object)) => {
                let (name, labels) = labels(object);
                let of = name.clone();
                all.namespaces_changed(|namespaces| drop(namespaces.insert(name, labels)), Some(&of));
            }
            Ok(Event::Delete(object)) => {
                let name = object.name_any();
                all.namespaces_changed(|namespaces| drop(namespaces.remove(&name)), Some(&name));
            }
            Err(error) => tracing::debug!(%error, "the watch of namespaces failed and is started again"),
        }
    }
}
