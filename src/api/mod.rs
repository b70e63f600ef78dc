//! What users write and read: the custom resources of the group `setupkey.dev`.
//!
//! Types here carry the schema, its rules and its documentation, and nothing that decides. `kubectl explain` prints
//! the doc comments of this module, so they are written for the people who read them there.

mod authority;
mod crd;
mod lifetime;
pub mod metadata;
mod peer;
mod rules;
mod setup_key;
mod status;
mod timestamp;

pub use authority::{
    Authority, AuthoritySpec, AuthorityStatus, ClusterAuthority, ClusterAuthoritySpec, NetBird, TokenSecret,
};
pub use crd::{CrdManifest, crd_manifests};
pub use lifetime::Lifetime;
pub use peer::{Peer, PeerSpec, PeerStatus, SetupKeyReference};
pub use setup_key::{
    AuthorityKind, AuthorityReference, DeletionPolicy, KeyType, Rotation, SecretTemplate, SetupKey, SetupKeySpec,
};
pub use status::{AtAuthority, KeyStanding, PendingPeer, PreviousKey, SecretReference, SetupKeyStatus, State};
pub use timestamp::Timestamp;

/// The API group of every resource and the prefix of every label and annotation of this project.
pub const GROUP: &str = "setupkey.dev";
