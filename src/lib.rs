//! A Kubernetes operator that makes network setup keys a resource.
//!
//! The layers, each of which knows only those below it:
//!
//! - [`controller`]: watches, asks the planner, performs one write at a time.
//! - [`key`]: what a key is and what is to be done about it; values in, values out.
//! - [`api`]: the resources as users write them.

pub mod api;
pub mod controller;
pub mod key;
