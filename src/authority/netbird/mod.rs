//! NetBird's management API: the calls that keep the keys of an authority.
//!
//! An authority's URL is chosen by a user of the cluster, and the operator calls it with its own network. So [`Hosts`] says
//! which hosts may be called, no redirect is followed, every answer has a limit, and an [`Error`] quotes nothing of an answer
//! but NetBird's own line, shortened and without secrets.

mod answer;
mod client;
mod endpoint;
mod error;
mod hosts;
pub mod json;
mod message;
mod read;
mod token;
mod transport;

pub use client::{Caller, Client};
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use error::Error;
pub use hosts::{HostPattern, Hosts, InvalidHostPattern};
pub use token::{InvalidToken, Token};
pub use transport::Observer;
