//! A real Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager.
//!
//! A mock repeats what its author believed. This crate starts the real programs, in seconds and without a container
//! engine. So RBAC, admission, garbage collection and token requests are the ones that users will meet. Without a node,
//! pods are accepted and never run. `control-plane run --node` has one, which needs root on Linux: see `node/`.
//!
//! - A test binary calls [`shared`] and gets the one control plane of its process, or the one that
//!   `control-plane run -- cargo test` has started for several of them.
//! - A test that breaks things starts a [`ControlPlane`] of its own; so does one that calls
//!   [`ControlPlane::restart_api_server`].
//! - Each control plane can run on another [`Store`] than etcd.
//! - A test that needs NetBird starts its real management server, and real agents: see [`netbird`].
//!
//! On Linux, nothing outlives the process that started it, however that process ends: see `process.rs` for the programs
//! and `janitor.rs` for the files.

mod authority;
mod certificates;
mod command;
mod control_plane;
mod data_dir;
mod error;
mod flags;
mod janitor;
mod kubeconfig;
mod kubectl;
pub mod netbird;
mod node;
mod process;
mod shared;
mod store;
mod tools;

pub use authority::{Authority, Identity, server as server_certificate};
pub use control_plane::{ControlPlane, Options};
pub use error::Error;
pub use node::{Machine, NodeOptions, furnish, missing_packages, versions as node_versions};
pub use process::tie_to_this_thread;
pub use shared::{Access, KUBECONFIG_ENV, shared};
pub use store::{STORE_ENV, Store};
