//! Stories with a real NetBird server and real agents, and what the harness promises about both.

mod agents;
mod crash_matrix;
mod keys;
mod proxy;
mod world;
