//! What a decision is made from.

use std::collections::BTreeSet;

use super::{KeyId, freshness::Freshness, ledger::Use, remote::AuthorityView, secret::SecretView};
use crate::api::SetupKey;

/// Everything that a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The resource, with the status as last written. Where another writer has altered the record in it, without that
    /// record ([`without_record`]).
    pub key: &'a SetupKey,
    /// The resource as it is stored. A report is compared with its status.
    pub stored: &'a SetupKey,
    /// Where `key` comes from.
    pub freshness: Freshness,
    /// The authority behind the key.
    pub authority: &'a AuthorityView,
    /// The Secret of the key's name.
    pub secret: &'a SecretView,
    /// What kept this pass from reading or writing, if something did.
    pub trouble: Option<&'a Trouble>,
    /// How a replacement of the key would end, if this pass has tried it with a dry run.
    pub rehearsal: Option<Rehearsal>,
    /// How many peers joined with the id that the Secret carries, if this pass has counted them.
    pub counted: Option<i64>,
    /// Pending entries whose replica has had its time. The controller completes them.
    pub abandoned: &'a BTreeSet<Use>,
    /// Whether this pass has created the Peers of these entries.
    pub peers_created: bool,
    /// Whether the last pass has failed.
    pub retried: bool,
}

/// What is known of the writer of a record, which is the id, the digest and the expiry in the status of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The operator wrote it, as far as is known.
    Kept,
    /// The same, but its digest stands on record for another key too. It must be compared with the Secret.
    Disputed,
    /// Another writer has changed it since the operator wrote it. It is worth nothing.
    Altered,
}

/// What keeps a pass from reading or writing what it must.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// What could not be done.
    pub with: Subject,
    /// Whether trying again changes nothing.
    pub persistence: Persistence,
    /// The API server's message, or another sentence that says why.
    pub why: String,
}

/// The objects that a pass has trouble with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The Secret could not be read or written.
    Secret,
    /// The Peers of a lost ledger could not be counted.
    Peers,
    /// A call to the authority failed.
    Authority,
}

/// How long trouble lasts, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Persistence {
    /// The API server refuses, and will until a person has changed something: a right, a quota, a policy.
    Refused,
    /// Several tries in a row have failed.
    Lasting,
    /// The first tries have failed. The next may not.
    Passing,
}

impl Trouble {
    /// Whether it is too early to report it.
    pub fn is_passing(&self) -> bool {
        self.persistence == Persistence::Passing
    }
}

/// What a dry run of a replacement has shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rehearsal {
    /// The API server would store the key that is sent.
    Kept,
    /// It would store something else.
    Altered,
}

/// The id on record.
pub(super) fn id_in_status(key: &SetupKey) -> Option<KeyId> {
    KeyId::parse(key.status.as_ref()?.id.as_deref()?)
}
