//! Stories with a real NetBird server and real agents, and what the harness promises about both.

mod agents;
mod behind_our_back;
mod cluster_authority;
mod crash_matrix;
mod deletion;
mod keys;
mod leaked_key;
mod leaks;
mod management_url;
mod metrics;
mod outage;
mod proxy;
mod rotation;
mod secrets;
mod selector;
mod token_expiry;
pub mod world;
