//! What every part needs to call the API server: the way to it, time limits, errors, lists in pages, Secrets, backoff, metrics
//! of requests, and the clock.

mod backoff;
mod bucket;
pub mod call;
pub mod clock;
mod connection;
pub mod kubeconfig;
pub mod lean;
mod object_name;
pub mod openmetrics;
pub mod pages;
mod proxy;
pub mod readiness;
mod requests;
pub mod secrets;

pub use backoff::{backoff, watch_backoff};
pub use bucket::Bucket;
pub use call::tuned;
pub use clock::{Clock, SystemClock};
pub use connection::connect;
use kube::{
    Api, Client, Resource,
    api::ObjectMeta,
    api::{PatchParams, PostParams},
    core::{DeserializeGuard, NamespaceResourceScope, error_boundary::InvalidObject},
};
pub use lean::{Lean, Parts};
pub use object_name::ObjectName;
pub use readiness::Readiness;
pub use requests::{CountRequests, Requests};

use crate::{
    api::{SetupKey, metadata::MANAGER},
    key::size::too_large,
};

/// The namespaces in which a process works.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every namespace.
    Cluster,
    /// These namespaces. Each has its own watches, so no cluster-wide right is needed.
    Namespaces(Vec<String>),
}

impl Scope {
    /// One item per watch: its namespace, or `None` for all namespaces.
    pub fn watched(self) -> Vec<Option<String>> {
        match self {
            Scope::Cluster => vec![None],
            Scope::Namespaces(namespaces) => namespaces.into_iter().map(Some).collect(),
        }
    }
}

/// The objects of one namespace, or of all namespaces.
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Makes a key that is too large to be handled one that cannot be decoded. All else leaves such a key alone.
pub fn bound(key: &mut DeserializeGuard<SetupKey>) {
    let Ok(decoded) = &mut key.0 else { return };
    if let Some(error) = too_large(decoded) {
        let mut metadata = std::mem::take(&mut decoded.metadata);
        strip(&mut metadata);
        key.0 = Err(InvalidObject { error, metadata });
    }
}

/// Drops the metadata of a key that nothing is decided from. It can be most of the key.
pub fn strip(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.labels = None;
    metadata.annotations = None;
    metadata.finalizers = None;
    metadata.owner_references = None;
}

/// A resource version as a number, by which two versions can be ordered. Kubernetes guarantees the order since 1.35. `None`
/// if the API server uses something other than numbers.
pub fn version(resource_version: &str) -> Option<u64> {
    resource_version.parse().ok()
}

/// Parameters of a patch with the operator as field manager, which tells its fields from those of others.
pub fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// The same for a creation or an update.
pub fn post_params() -> PostParams {
    PostParams { field_manager: patch_params().field_manager, ..PostParams::default() }
}
