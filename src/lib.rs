//! A Kubernetes operator that makes network setup keys a resource.
//!
//! The layers, each of which knows only those below it:
//!
//! - [`controller`]: watches, asks the planner, performs one write at a time.
//! - [`enrollment`]: admits machines that present a key, through the ledger in its status.
//! - [`agent`]: the machine's side of enrollment.
//! - [`rest`]: NetBird's REST API over the resources.
//! - [`cluster`]: calls to the API server, with their limits.
//! - [`serve`]: HTTP and TLS on a socket, within limits, with probes and metrics beside it.
//! - [`protocol`]: the wire format of enrollment, and its limits.
//! - [`key`]: what a key is and what is to be done about it; values in, values out.
//! - [`api`]: the resources as users write them.

pub mod agent;
pub mod api;
pub mod authority;
pub mod cluster;
pub mod controller;
pub mod enrollment;
pub mod key;
pub mod protocol;
pub mod rest;
pub mod serve;
