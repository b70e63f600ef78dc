//! The controller on a real control plane: each test has a namespace of its own and shows one promise.

mod admission;
mod canary;
mod deletion;
mod examples;
mod expiry;
mod gitops;
mod harness;
mod issuing;
mod requests;
mod revocation;
mod secret;
mod settled;
mod undecodable;
