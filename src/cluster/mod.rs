//! The way to the API server, for every part that talks to it: calls with a time limit, the wall clock beside which they
//! are made, and the requests counted.

mod backoff;
pub mod call;
pub mod clock;
mod object_name;
pub mod openmetrics;
pub mod readiness;
mod requests;
pub mod secrets;

pub use backoff::{backoff, watch_backoff};
pub use call::tuned;
pub use clock::{Clock, SystemClock};
use kube::{
    Api, Client, Resource,
    api::{PatchParams, PostParams},
    core::NamespaceResourceScope,
};
pub use object_name::ObjectName;
pub use readiness::Readiness;
pub use requests::{CountRequests, Requests};

use crate::api::metadata::MANAGER;

/// Where a process works.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every namespace.
    Cluster,
    /// These namespaces, each with watches of its own, so that no right on the whole cluster is needed.
    Namespaces(Vec<String>),
}

impl Scope {
    /// What each watch is about: a namespace, or all of them.
    pub fn watched(self) -> Vec<Option<String>> {
        match self {
            Scope::Cluster => vec![None],
            Scope::Namespaces(namespaces) => namespaces.into_iter().map(Some).collect(),
        }
    }
}

/// The objects of one namespace, or of all.
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Objects in one page of a list. A process keeps the memory that it needs to read a page: at 10,000 keys, pages of 500 cost
/// 6 MiB more.
pub const PAGE: u32 = 100;

/// The version of an object as a number. They grow, and Kubernetes 1.35 made that a promise; a server whose versions are
/// no numbers has none.
pub fn version(resource_version: &str) -> Option<u64> {
    resource_version.parse().ok()
}

/// Writes under our name, by which a later pass knows what is ours.
pub fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// The same for creating and replacing.
pub fn post_params() -> PostParams {
    PostParams { field_manager: patch_params().field_manager, ..PostParams::default() }
}
