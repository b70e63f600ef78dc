use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    enrollment::cache::{CachedPeer, Peers},
    key::{
        Digest, PeerName,
        ledger::{Applicant, Met, Refusal, meet},
    },
};

/// How a request to join ends.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The machine is a peer, since now or since before.
    Joined {
        /// The peer.
        peer: Arc<CachedPeer>,
        /// Whether this request used the key.
        admitted: bool,
    },
    /// It is not, and why.
    Not(Refusal),
}

impl Outcome {
    /// The machine may ask again soon.
    pub const BUSY: Self = Self::Not(Refusal::Busy);

    /// The outcome for a machine that its token alone decides on. `None` if this Peer is not its own.
    pub fn by_token(peer: Option<Arc<CachedPeer>>, token: &Digest, admitted: bool) -> Option<Self> {
        let peer = peer?;
        match meet(Some(&peer.existing), token) {
            Met::Own => Some(Self::Joined { peer, admitted }),
            Met::OwnLeaving => Some(Self::Not(Refusal::Leaving)),
            Met::NoPeer | Met::Other => None,
        }
    }

    /// Waits until another process has created the Peer of an admitted machine.
    pub async fn of_arrival(peers: &Peers, namespace: &str, applicant: &Applicant, deadline: Instant) -> Self {
        let name = PeerName::of(&applicant.public_key);
        match tokio::time::timeout_at(deadline, peers.arrival(namespace, &name)).await {
            Ok(peer) => Self::by_token(Some(peer), &applicant.token, false).unwrap_or(Self::Not(Refusal::Taken)),
            Err(_) => Self::BUSY,
        }
    }

    /// The value of the label `result` of the metric `setupkey_enrollments`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Joined { admitted: true, .. } => "admitted",
            Self::Joined { admitted: false, .. } => "known",
            Self::Not(refusal) => refusal.label(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Peer;

    fn peer(leaving: bool) -> Option<Arc<CachedPeer>> {
        let mut peer: Peer = serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer", "metadata": { "name": "peer", "namespace": "n" },
            "spec": {
                "publicKey": "", "hostname": "ada", "tokenDigest": Digest::of("token").as_str(),
                "setupKeyRef": { "name": "office", "uid": "u", "id": "id-1", "use": 1 },
            },
        }))
        .unwrap();
        peer.metadata.deletion_timestamp =
            leaving.then(|| serde_json::from_value(json!("2026-11-24T06:00:00Z")).unwrap());
        Some(Arc::new(peer.into()))
    }

    fn label(peer: Option<Arc<CachedPeer>>, token: &str, admitted: bool) -> Option<&'static str> {
        Outcome::by_token(peer, &Digest::of(token), admitted).map(|outcome| outcome.label())
    }

    #[test]
    fn its_own_token_lets_a_machine_in_and_no_other_does() {
        assert_eq!(label(peer(false), "token", true), Some("admitted"));
        assert_eq!(label(peer(false), "token", false), Some("known"));
        assert_eq!(label(peer(true), "token", false), Some("leaving"));
        for peer in [None, peer(false), peer(true)] {
            assert_eq!(label(peer, "another", false), None);
        }
    }
}
