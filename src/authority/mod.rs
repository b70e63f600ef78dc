//! The authorities: each makes the values of its keys, and admits peers by them.
//!
//! The controller asks one, the cluster itself, for a key to be issued and writes what it gets. [`netbird`] has the calls to a
//! NetBird management server.

pub mod in_cluster;
pub mod netbird;

use crate::{
    api::{SetupKey, Timestamp},
    key::{
        KeyId, KeyValue,
        secret::{Metadata, wanted_metadata},
    },
};

/// A key that was made, and that nothing has stored yet.
pub struct Minted {
    /// The public id.
    pub id: KeyId,
    /// The value. This is the only copy.
    pub value: KeyValue,
    /// The last second in which the key admits peers.
    pub expires: Timestamp,
}

impl Minted {
    /// The labels and annotations that go with the key into the Secret.
    pub fn metadata(&self, key: &SetupKey) -> Metadata {
        wanted_metadata(key, &self.id, self.expires)
    }
}
