//! SetupKeys and Peers as the watches show them, found by what requests carry: a key's digest, a peer's name and token.

mod keys;
mod peer;
mod peers;

pub use keys::{KeyVersion, Keys, stripped, version_of};
pub use peer::CachedPeer;
pub use peers::{Found, Peers};
