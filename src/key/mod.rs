//! What a setup key is, and what is to be done about it: values in, values out.
//!
//! Nothing here has a client, a clock or a log. The moment is always an argument, and so is every random byte.

pub mod claim;
pub mod conditions;
pub mod data_keys;
mod digest;
pub mod expected;
mod facts;
mod findings;
mod freshness;
pub mod groups;
mod id;
pub mod ledger;
pub mod mirror;
mod observed;
pub mod peer;
pub mod plan;
pub mod presence;
pub mod record;
pub mod remote;
pub mod report;
pub mod rotation;
pub mod secret;
pub mod size;
pub mod transition;
mod value;

pub use digest::Digest;
pub use facts::{Facts, issued_at};
pub use id::KeyId;
pub use peer::{PeerName, PublicKey};
pub use value::{Fingerprint, KeyValue};
