//! A Kubernetes operator that makes network setup keys a resource.
//!
//! The layers, from top to bottom. Each uses only the layers below it:
//!
//! - [`controller`]: watches objects, asks the planner for the next step, and performs one write at a time.
//! - [`enrollment`]: admits machines that present a key, and counts them in the key's status.
//! - [`agent`]: the machine's side of enrollment.
//! - [`rest`]: NetBird's REST API for the resources.
//! - [`actions`]: what people do with keys, for the REST API and for `kubectl setupkey`.
//! - [`audit`]: what is unwise about keys; values in, values out.
//! - [`authority`]: makes the values of keys.
//! - [`serve`]: HTTP and TLS on a socket, with limits, probes and metrics.
//! - [`cluster`]: calls to the API server, and their limits.
//! - [`protocol`]: the wire format of enrollment, and its limits.
//! - [`key`]: what a key is, and what to do about it next; values in, values out.
//! - [`api`]: the resources that users write.
//! - [`plain`]: texts of others, as people are shown them.

pub mod actions;
// It keeps its secrets in files that only their owner may read, in the way of Unix.
#[cfg(unix)]
pub mod agent;
pub mod api;
pub mod audit;
pub mod authority;
pub mod cluster;
pub mod controller;
pub mod enrollment;
pub mod key;
pub mod plain;
pub mod protocol;
pub mod rest;
pub mod serve;
