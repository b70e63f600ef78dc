//! The machine's side: join with a key, tell that one is there, leave.
//!
//! What makes a machine known, its key pair and its token, is [on disk](identity) before it asks to join for the first time.
//! So it can die at any moment and start again: it asks with the same two, and the service answers the same without
//! another use of the key.

pub mod client;
pub mod identity;

use std::time::Duration;

use backon::BackoffBuilder;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use client::{Answer, Client};
use identity::Identity;

use crate::protocol::Enrolled;

/// A key that was issued a moment ago may not be known to the service yet: tries, and the time between them.
const REFUSALS: u32 = 6;
const AFTER_REFUSAL: Duration = Duration::from_secs(2);

/// A peer that joined a moment ago may not be known to every replica yet; one that is unknown so often is gone.
const UNKNOWN: u32 = 5;
const AFTER_UNKNOWN: Duration = Duration::from_secs(2);

/// How long the end may be held up by a service that does not answer.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// What a machine says of itself.
pub struct Introduction {
    /// Its name.
    pub hostname: String,
    /// The DNS labels that it would like to have.
    pub extra_dns_labels: Vec<String>,
}

/// When a peer leaves at the end, other than by being removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leave {
    /// If it is ephemeral.
    IfEphemeral,
    /// In any case.
    Always,
    /// It stays a peer. An ephemeral one is removed when it was not seen for a while.
    Never,
}

/// How it ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// As it was told to.
    Stopped,
    /// The service does not admit it, and says so.
    Refused(String),
    /// Somebody has removed the peer.
    Removed(String),
}

/// Joins, and sends heartbeats until `stop` is cancelled.
pub async fn run(
    service: &Client,
    identity: &Identity,
    key: SecretString,
    introduction: &Introduction,
    heartbeat: Duration,
    leave: Leave,
    stop: CancellationToken,
) -> End {
    let joined = tokio::select! {
        joined = join(service, identity, &key, introduction) => joined,
        () = stop.cancelled() => return End::Stopped,
    };
    drop(key);
    let peer = match joined {
        Ok(peer) => peer,
        Err(sentence) => return End::Refused(sentence),
    };
    tracing::info!(name = %peer.name, namespace = %peer.namespace, groups = ?peer.groups, ephemeral = peer.ephemeral, "joined");
    tokio::select! {
        () = stay(service, identity, &peer, heartbeat) => {
            return End::Removed(format!("peer {} was removed", peer.name));
        }
        () = stop.cancelled() => {}
    }
    if leave == Leave::Always || leave == Leave::IfEphemeral && peer.ephemeral {
        match tokio::time::timeout(LAST_WORDS, go(service, identity, &peer)).await {
            Ok(()) => tracing::info!(name = %peer.name, "left"),
            Err(_) => tracing::warn!(name = %peer.name, "the service does not answer; the peer stays for now"),
        }
    }
    End::Stopped
}

async fn join(
    service: &Client,
    identity: &Identity,
    key: &SecretString,
    introduction: &Introduction,
) -> Result<Enrolled, String> {
    let (mut pauses, mut refusals) = (pauses(), 0);
    loop {
        let pause = match service.enroll(identity, key, introduction).await {
            Ok(Answer::Yes(joined)) => return Ok(joined),
            Ok(Answer::No { status: 403, sentence }) => {
                refusals += 1;
                if refusals == REFUSALS {
                    return Err(sentence);
                }
                AFTER_REFUSAL
            }
            Ok(Answer::No { sentence, .. }) => return Err(sentence),
            Ok(Answer::Later(after)) => later(after, &mut pauses),
            Err(error) => {
                tracing::warn!(%error, "not joined yet");
                later(None, &mut pauses)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Ends when the peer is gone.
async fn stay(service: &Client, identity: &Identity, peer: &Enrolled, every: Duration) {
    let (mut pauses_after_errors, mut unknown) = (pauses(), 0);
    loop {
        let pause = match service.heartbeat(identity, &peer.name).await {
            Ok(Answer::Yes(())) => {
                (pauses_after_errors, unknown) = (pauses(), 0);
                // Machines that were started together do not come together for ever.
                every.mul_f64(0.9 + 0.1 * rand::random::<f64>())
            }
            Ok(Answer::No { sentence, .. }) => {
                unknown += 1;
                if unknown == UNKNOWN {
                    return;
                }
                tracing::debug!(%sentence, "heartbeat");
                AFTER_UNKNOWN.min(every)
            }
            Ok(Answer::Later(after)) => later(after, &mut pauses_after_errors).min(every),
            Err(error) => {
                tracing::warn!(%error, "no heartbeat");
                later(None, &mut pauses_after_errors).min(every)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn go(service: &Client, identity: &Identity, peer: &Enrolled) {
    let mut pauses = pauses();
    loop {
        let after = match service.leave(identity, &peer.name).await {
            Ok(Answer::Yes(()) | Answer::No { .. }) => return,
            Ok(Answer::Later(after)) => after,
            Err(_) => None,
        };
        tokio::time::sleep(later(after, &mut pauses)).await;
    }
}

fn pauses() -> backon::ExponentialBackoff {
    let builder = backon::ExponentialBuilder::new().with_min_delay(Duration::from_millis(250));
    builder.with_max_delay(Duration::from_secs(15)).with_jitter().without_max_times().build()
}

/// As long as the service asks for, and longer each time.
fn later(asked: Option<Duration>, pauses: &mut backon::ExponentialBackoff) -> Duration {
    pauses.next().unwrap_or_default().max(asked.unwrap_or_default())
}
