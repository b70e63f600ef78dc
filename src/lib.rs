//! A Kubernetes operator that makes network setup keys a resource.
//!
//! The layers, each of which knows only those below it:
//!
//! - [`controller`]: watches, asks the planner, performs one write at a time.
//! - [`serve`]: HTTP and TLS on a socket, within limits, with probes and metrics beside it.
//! - [`key`]: what a key is and what is to be done about it; values in, values out.
//! - [`api`]: the resources as users write them.

pub mod api;
pub mod controller;
pub mod key;
pub mod serve;
