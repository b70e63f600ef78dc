//! NetBird's REST API for setup keys, over the `SetupKey`s of one namespace.
//!
//! The service has no rights and no identity at the Kubernetes API. It makes each request with the token that the client
//! sent ([`caller`]), so RBAC decides, and the audit log names the client. [`wire`] reads the JSON of NetBird's clients, and
//! [`translate`] has what it means as a `SetupKey`; both are pure. [`keys`], [`creation`] and [`at_authority`] call the API server.

mod at_authority;
mod caller;
mod creation;
mod keys;
mod listing;
mod refusal;
mod routes;
mod said;
mod translate;
mod wire;

pub use caller::Cluster;
pub use routes::{Service, router};
