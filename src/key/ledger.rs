//! The ledger of a key: which machines it has admitted, and how often it was used.
//!
//! An enrollment has one commit point: a compare-and-swap of the `SetupKey`'s status. It counts the use and enters the
//! machine under `pending`, or it fails and nothing has happened. Afterwards the Peer is created and the entry is cleared,
//! by the replica or, if the replica dies, by the controller. A use is never given back. So `usedTimes` is the number of
//! distinct peers ever admitted, never exceeds the limit and never goes down, whatever crashes.
//!
//! Every function here takes the object as it was read and returns what to write under that object's resourceVersion. The
//! version covers the spec too, so a revocation that has returned is part of every object that can still be swapped.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{Digest, Facts, KeyId, PeerName, PublicKey};
use crate::api::{Peer, PendingPeer, PreviousKey, SetupKey, State, Timestamp};

/// Entries that may be pending at a time. An entry takes at most 2.8 KiB, so the status stays well below the 1.5 MiB that
/// etcd accepts.
pub const MOST_PENDING: usize = 200;

/// How long a replica may create the Peers that it committed and clear their entries, counted from the moment it sent the
/// swap. It starts no request after that.
pub const OWNER_TIME: Duration = Duration::from_secs(8);

/// How long one request of a replica may take. A creation that is sent at the end of [`OWNER_TIME`] is over so much later.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);

/// How long the controller leaves an entry to the replica that committed it, counted from when the controller first saw the
/// entry pending. Two processes that complete one entry at the same time could bring back a Peer that was deleted.
pub const HANDOVER: Duration = Duration::from_secs(15);

// The replica's last request is over before the controller begins.
const _: () = assert!(OWNER_TIME.as_secs() + REQUEST_TIME.as_secs() < HANDOVER.as_secs());

/// One use of a key. Each key id counts its uses from 1, so a number alone does not identify a use.
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

    /// The same, in an entry that may not name its key: such an entry belongs to the key on record.
    pub fn in_key(key: &SetupKey, entry: &PendingPeer) -> Self {
        let on_record = || key.status.as_ref().and_then(|status| status.id.clone()).unwrap_or_default();
        let key_id = if entry.key_id.is_empty() { on_record() } else { entry.key_id.clone() };
        Self { key_id, number: entry.number }
    }
}

/// A machine that asks to join.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applicant {
    /// The digest of the key that it presented.
    pub key: Digest,
    /// Its public key, from which the name of its Peer is made.
    pub public_key: PublicKey,
    /// The name that it gives itself.
    pub hostname: String,
    /// The DNS labels that it asks for.
    pub extra_dns_labels: Vec<String>,
    /// The digest of the token that it chose. The same token is the same machine.
    pub token: Digest,
}

/// The Peer that exists under the name of an applicant, as far as it matters to the ledger.
///
/// It is looked up *after* the key was read: if an entry is no longer pending in that version, its Peer exists by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Existing {
    /// The digest of its token.
    pub token: Digest,
    /// Whether it is being deleted.
    pub leaving: bool,
}

impl From<&Peer> for Existing {
    fn from(peer: &Peer) -> Self {
        Self {
            token: Digest::from_base64(&peer.spec.token_digest),
            leaving: peer.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// How the Peer under a machine's name relates to the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Met {
    /// There is no Peer of that name.
    NoPeer,
    /// The machine's own Peer.
    Own,
    /// The machine's own Peer, which is being deleted.
    OwnLeaving,
    /// A Peer that joined with another token.
    Other,
}

/// Compares the token of a machine with the Peer under its name.
pub fn meet(existing: Option<&Existing>, token: &Digest) -> Met {
    match existing {
        None => Met::NoPeer,
        Some(existing) if existing.token != *token => Met::Other,
        Some(existing) if existing.leaving => Met::OwnLeaving,
        Some(_) => Met::Own,
    }
}

/// The ledger's decision on an applicant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Admitted with this swap, if the swap succeeds.
    Admitted,
    /// Admitted before, and about to become a Peer. Nothing is counted.
    Pending,
    /// A Peer already. Nothing is counted, and the key no longer matters.
    Known,
    /// Not admitted.
    Not(Refusal),
}

/// Why a machine is not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Another token has joined with this public key.
    Taken,
    /// The Peer of this public key is being deleted. There is an answer once it is gone.
    Leaving,
    /// The key admits no peer: it is unknown, expired, revoked, overused or being deleted. The machine is not told which.
    Refused,
    /// The key admits peers, but none with DNS labels.
    NoExtraDnsLabels,
    /// Too many entries are pending, or the API server does not answer. The machine may ask again soon.
    Busy,
}

impl Refusal {
    /// The value of the label `result` of the metric `setupkey_enrollments`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Leaving => "leaving",
            Self::Refused => "refused",
            Self::NoExtraDnsLabels => "extra_dns_labels",
            Self::Busy => "busy",
        }
    }
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
    /// `previous`, in which nothing changes but `usedTimes`.
    pub previous: Vec<PreviousKey>,
}

impl Swap {
    /// The object to send as an update of the status. The update fails if the key has changed since `basis` was read. The
    /// status of `basis` must be whole, because it is replaced as a whole.
    pub fn onto(self, basis: &SetupKey) -> SetupKey {
        let mut key = basis.clone();
        let status = key.status.get_or_insert_default();
        (status.used_times, status.last_used, status.pending) = (self.used_times, self.last_used, self.pending);
        status.previous = self.previous;
        key
    }

    /// The merge patch of the status. It fails if the key has changed since `basis` was read.
    pub fn patch(&self, basis: &SetupKey) -> Value {
        let pending = (!self.pending.is_empty()).then_some(&self.pending);
        let previous = (!self.previous.is_empty()).then_some(&self.previous);
        json!({
            "metadata": { "resourceVersion": basis.metadata.resource_version, "uid": basis.metadata.uid },
            "status": {
                "usedTimes": self.used_times, "lastUsed": self.last_used, "pending": pending, "previous": previous,
            },
        })
    }

    /// The uses of the key with this id, the current one of `basis` or a replaced one.
    fn uses_of(&mut self, basis: &SetupKey, id: &KeyId) -> Option<&mut i64> {
        let current = basis.status.as_ref().and_then(|status| status.id.as_deref());
        if current == Some(id.as_str()) {
            return Some(&mut self.used_times);
        }
        let previous = self.previous.iter_mut().find(|previous| previous.id == id.as_str())?;
        Some(&mut previous.used_times)
    }
}

/// Decides on applicants that came at about the same time, in their order, and clears entries in the same swap.
///
/// `clearable` are the uses whose Peer was seen to exist. The swap is `None` when there is nothing to write.
pub fn admit(
    key: &SetupKey,
    applicants: &[(&Applicant, Option<Existing>)],
    clearable: &BTreeSet<Use>,
    now: DateTime<Utc>,
) -> (Option<Swap>, Vec<Verdict>) {
    // Match against the entries from before clearing as well. Otherwise a machine that was looked up just before its Peer
    // was created would be counted twice.
    let before = unchanged(key).pending;
    let mut swap = clear(key, clearable).unwrap_or_else(|| unchanged(key));
    let verdicts: Vec<_> = applicants
        .iter()
        .map(|(applicant, found)| judge(key, &before, &mut swap, applicant, found.as_ref(), now))
        .collect();
    ((swap != unchanged(key)).then_some(swap), verdicts)
}

/// Removes the entries of these uses, whose Peers were seen to exist, from `pending`. `None` when none of them is there.
///
/// By use and not by name: the answer to an earlier swap may have been lost, and the same machine may have been admitted
/// again since.
pub fn clear(key: &SetupKey, clearable: &BTreeSet<Use>) -> Option<Swap> {
    let mut swap = unchanged(key);
    let before = swap.pending.len();
    swap.pending.retain(|entry| !clearable.contains(&Use::of(entry)));
    (swap.pending.len() != before).then_some(swap)
}

/// Whether a key admits a peer now, as far as this object shows. An object from a cache is good enough to refuse by,
/// because a refusal changes nothing.
pub fn admits(key: &SetupKey, presented: &Digest, now: DateTime<Utc>) -> bool {
    self::presented(key, presented).is_some_and(|facts| facts.state(now) == State::Valid)
}

fn unchanged(key: &SetupKey) -> Swap {
    Swap {
        used_times: key.used_times(),
        last_used: key.status.as_ref().and_then(|status| status.last_used),
        pending: key.pending().to_vec(),
        previous: key.previous().to_vec(),
    }
}

/// The key that was presented, the current one or a replaced one, if this service admits peers with it at all.
fn presented(key: &SetupKey, presented: &Digest) -> Option<Facts> {
    // NetBird admits the peers of its keys.
    let is_ours = key.spec.authority_ref.is_none() && key.metadata.deletion_timestamp.is_none();
    is_ours.then(|| Facts::presented(key, presented)).flatten()
}

/// The id of the key that was presented, if it admits a peer with the uses in `swap`.
fn admitting(key: &SetupKey, swap: &mut Swap, digest: &Digest, now: DateTime<Utc>) -> Option<KeyId> {
    let facts = presented(key, digest)?;
    let used_times = *swap.uses_of(key, &facts.id)?;
    let facts = Facts { used_times, ..facts };
    (facts.state(now) == State::Valid).then_some(facts.id)
}

fn judge(
    key: &SetupKey,
    before: &[PendingPeer],
    swap: &mut Swap,
    applicant: &Applicant,
    found: Option<&Existing>,
    now: DateTime<Utc>,
) -> Verdict {
    let name = PeerName::of(&applicant.public_key);
    let pending = before.iter().chain(&swap.pending).find(|entry| entry.name == name.as_str());
    let is_own = pending.map(|entry| entry.token_digest == applicant.token.as_str());
    let admitting = admitting(key, swap, &applicant.key, now);
    // A known machine needs only its token. An unknown one learns nothing without a key that admits it.
    match (meet(found, &applicant.token), is_own, admitting) {
        (Met::Own, _, _) => Verdict::Known,
        (Met::OwnLeaving, _, _) => Verdict::Not(Refusal::Leaving),
        (Met::NoPeer, Some(true), _) => Verdict::Pending,
        (_, _, None) => Verdict::Not(Refusal::Refused),
        (Met::Other, _, _) | (_, Some(_), _) => Verdict::Not(Refusal::Taken),
        _ if !applicant.extra_dns_labels.is_empty() && !key.spec.allow_extra_dns_labels => {
            Verdict::Not(Refusal::NoExtraDnsLabels)
        }
        _ if swap.pending.len() >= MOST_PENDING => Verdict::Not(Refusal::Busy),
        (_, _, Some(id)) => {
            let Some(uses) = swap.uses_of(key, &id) else { return Verdict::Not(Refusal::Refused) };
            *uses += 1;
            let number = *uses;
            swap.last_used = swap.last_used.max(Some(now.into()));
            swap.pending.push(PendingPeer {
                key_id: id.to_string(),
                number,
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
