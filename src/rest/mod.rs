//! NetBird's REST API for setup keys, over the `SetupKey`s of one namespace.
//!
//! The service has no rights and no identity at the Kubernetes API. Each request is made with the token that the client
//! sent ([`caller`]), so RBAC decides, and the audit log names who did it. What NetBird's clients send and expect is in
//! [`wire`], what it means as a `SetupKey` in [`translate`]; both are pure. [`keys`] and
//! [`creation`] talk to Kubernetes.

mod caller;
mod creation;
mod gitops;
mod keys;
mod refusal;
mod routes;
mod translate;
mod wire;

pub use caller::Cluster;
pub use routes::{Service, router};
