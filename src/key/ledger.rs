//! The ledger of a key: who is admitted, and what is counted.
//!
//! The only commit point of an enrollment is one compare-and-swap of the status of the `SetupKey`: it counts the use and
//! enters the peer under `pending`, or it fails and nothing has happened. After it, the peer is created and the entry is
//! cleared, by whoever comes to it; a use is never given back. So whatever dies in between, `usedTimes` counts the
//! distinct peers ever admitted, never exceeds the limit, and never goes down.
//!
//! Everything here takes the object as it was read and answers with what to write under that object's resourceVersion,
//! which covers the spec as well: a revocation that has returned to its caller is in every object that can still be
//! swapped.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{Digest, Facts, PeerName, PublicKey};
use crate::api::{PendingPeer, SetupKey, State, Timestamp};

/// Entries that may be pending at a time. An entry is at most 2.8 KiB, so that the status stays well below the 1.5 MiB
/// that etcd takes.
pub const MOST_PENDING: usize = 200;

/// For how long after it was first seen pending an entry is left to the replica that committed it. Only then does the
/// controller create its Peer and clear it, for two who do so at a time could bring a peer back that was sent away. A
/// replica must have stopped by then, its last call included.
pub const ORPHAN_AGE: Duration = Duration::from_secs(15);

/// One use of a key. The number alone would not do: each revision of a key counts its uses from 1.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Use {
    /// The public id of the key that was used.
    pub key_id: String,
    /// 1 for the first use.
    pub number: i64,
}

impl Use {
    /// The use that this entry of `status.pending` stands for.
    pub fn of(entry: &PendingPeer) -> Self {
        Self { key_id: entry.key_id.clone(), number: entry.number }
    }
}

/// A machine that asks to join.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applicant {
    /// By which the key that it presented is recognised.
    pub key: Digest,
    /// Its public key, which makes its name.
    pub public_key: PublicKey,
    /// How it calls itself.
    pub hostname: String,
    /// The DNS labels that it asks for.
    pub extra_dns_labels: Vec<String>,
    /// The digest of the token that it chose, by which it is known again.
    pub token: Digest,
}

/// What the API server has under the name of an applicant, looked up after the key was read: a Peer whose entry is no
/// longer pending in what was read exists by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OnRecord {
    /// No Peer.
    Nobody,
    /// A Peer.
    Peer {
        /// The digest of its token.
        token: Digest,
        /// Whether it is being deleted.
        leaving: bool,
    },
}

/// What becomes of an applicant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Admitted with this swap, if the swap succeeds.
    Admitted,
    /// Admitted before, and about to become a Peer. Nothing is counted.
    Pending,
    /// A Peer already. Nothing is counted, and the key no longer matters.
    Known,
    /// Another token has joined with this public key.
    Taken,
    /// The Peer of this public key is being deleted; there is an answer once it is gone.
    Leaving,
    /// The key admits nobody: it is unknown, expired, revoked, overused or being deleted. Which of these is nobody's
    /// business.
    Refused,
    /// The key admits peers, but none that bring DNS labels.
    NoExtraDnsLabels,
    /// Too many are pending; there is room soon.
    Busy,
}

/// The fields of the status that a swap writes; all others stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Swap {
    /// `usedTimes`.
    pub used_times: i64,
    /// `lastUsed`.
    pub last_used: Option<Timestamp>,
    /// `pending`.
    pub pending: Vec<PendingPeer>,
}

impl Swap {
    /// The object whose status makes it, or fails if the key is no longer what `basis` was. Nothing may be missing from the
    /// status of `basis`.
    pub fn onto(self, basis: &SetupKey) -> SetupKey {
        let mut key = basis.clone();
        let status = key.status.get_or_insert_default();
        (status.used_times, status.last_used, status.pending) = (self.used_times, self.last_used, self.pending);
        key
    }

    /// The merge patch of the status that makes it, or fails if the key is no longer what `basis` was.
    pub fn patch(&self, basis: &SetupKey) -> Value {
        let pending = (!self.pending.is_empty()).then_some(&self.pending);
        json!({
            "metadata": { "resourceVersion": basis.metadata.resource_version, "uid": basis.metadata.uid },
            "status": { "usedTimes": self.used_times, "lastUsed": self.last_used, "pending": pending },
        })
    }
}

/// Decides on applicants that came at about the same time, in their order, and clears entries on the way.
///
/// `recorded` has the numbers of entries of which a Peer was seen to exist. The swap is `None` when there is nothing to write.
pub fn admit(
    key: &SetupKey,
    applicants: &[(&Applicant, OnRecord)],
    recorded: &BTreeSet<Use>,
    now: DateTime<Utc>,
) -> (Option<Swap>, Vec<Verdict>) {
    // An applicant whose entry is cleared by this very swap may have been looked up before its Peer was there. So the
    // entries to be cleared speak too, or such a machine would be counted twice.
    let before = unchanged(key).pending;
    let mut swap = clear(key, recorded).unwrap_or_else(|| unchanged(key));
    let verdicts: Vec<_> =
        applicants.iter().map(|(applicant, found)| judge(key, &before, &mut swap, applicant, found, now)).collect();
    ((swap != unchanged(key)).then_some(swap), verdicts)
}

/// Takes the entries with these numbers, of which a Peer was seen to exist, out of `pending`. `None` when none of them
/// is there.
///
/// By number and not by name: whoever did not hear that its swap went through would otherwise clear what the same machine
/// has entered since.
pub fn clear(key: &SetupKey, recorded: &BTreeSet<Use>) -> Option<Swap> {
    let mut swap = unchanged(key);
    let before = swap.pending.len();
    swap.pending.retain(|entry| !recorded.contains(&Use::of(entry)));
    (swap.pending.len() != before).then_some(swap)
}

/// Whether a key admits a peer now, as far as this object tells. An object from a cache is good enough to refuse by,
/// for what has been refused has changed nothing.
pub fn admits(key: &SetupKey, presented: &Digest, now: DateTime<Utc>) -> bool {
    admits_after(key, presented, key.used_times(), now)
}

fn unchanged(key: &SetupKey) -> Swap {
    Swap {
        used_times: key.used_times(),
        last_used: key.status.as_ref().and_then(|status| status.last_used),
        pending: key.pending().to_vec(),
    }
}

fn admits_after(key: &SetupKey, presented: &Digest, used_times: i64, now: DateTime<Utc>) -> bool {
    let Some(facts) = Facts::of(key).map(|facts| Facts { used_times, ..facts }) else { return false };
    key.metadata.deletion_timestamp.is_none() && facts.digest == *presented && facts.state(now) == State::Valid
}

fn judge(
    key: &SetupKey,
    before: &[PendingPeer],
    swap: &mut Swap,
    applicant: &Applicant,
    found: &OnRecord,
    now: DateTime<Utc>,
) -> Verdict {
    let name = PeerName::of(&applicant.public_key);
    let pending = before.iter().chain(&swap.pending).find(|entry| entry.name == name.as_str());
    let admits = |used_times| admits_after(key, &applicant.key, used_times, now);
    // A machine that is known is let in on its token alone. One that is not learns nothing without a key that admits it.
    match (found, pending) {
        (OnRecord::Peer { token, leaving: false }, _) if *token == applicant.token => Verdict::Known,
        (OnRecord::Peer { token, leaving: true }, _) if *token == applicant.token => Verdict::Leaving,
        (OnRecord::Nobody, Some(entry)) if entry.token_digest == applicant.token.as_str() => Verdict::Pending,
        (OnRecord::Peer { .. }, _) | (_, Some(_)) if admits(swap.used_times) => Verdict::Taken,
        _ if !admits(swap.used_times) => Verdict::Refused,
        _ if !applicant.extra_dns_labels.is_empty() && !key.spec.allow_extra_dns_labels => Verdict::NoExtraDnsLabels,
        _ if swap.pending.len() >= MOST_PENDING => Verdict::Busy,
        _ => {
            swap.used_times += 1;
            swap.last_used = swap.last_used.max(Some(now.into()));
            swap.pending.push(PendingPeer {
                key_id: Facts::of(key).map(|facts| facts.id.to_string()).unwrap_or_default(),
                number: swap.used_times,
                name: name.to_string(),
                public_key: applicant.public_key.to_string(),
                hostname: applicant.hostname.clone(),
                extra_dns_labels: applicant.extra_dns_labels.clone(),
                token_digest: applicant.token.to_string(),
                since: now.into(),
            });
            Verdict::Admitted
        }
    }
}

#[cfg(test)]
mod tests;
