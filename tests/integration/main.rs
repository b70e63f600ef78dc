//! The controller on a real control plane: each test has a namespace of its own and shows one promise.

mod acto_lite;
mod admission;
mod api_faults;
mod canary;
mod chart;
mod crash_matrix;
mod deletion;
mod enrollment;
mod examples;
mod expiry;
mod faults;
mod gitops;
mod gitops_health;
mod harness;
mod issuing;
mod leaders;
mod metrics;
mod observability;
mod operator_faults;
mod peers;
mod requests;
mod revocation;
mod secret;
mod settled;
mod stale;
mod undecodable;
