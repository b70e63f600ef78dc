//! Stories with a real NetBird server and real agents, and what the harness promises about both.

mod agents;
mod cluster_authority;
mod metrics;
mod proxy;
