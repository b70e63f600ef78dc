//! The machine's side of enrollment: join with a key, send heartbeats, leave.
//!
//! The key pair and the token of a machine are [on disk](identity) before it asks to join for the first time. So it can crash
//! at any moment and start again: it asks with the same two, and the service answers the same without another use of the
//! key.

pub mod client;
pub mod identity;

use std::time::Duration;

use backon::BackoffBuilder;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use client::{Client, Error, Reply};
use identity::Identity;

use crate::protocol::Enrolled;

/// A replica may not know a key yet that was issued a moment ago. So a machine is refused after this many refusals, with this
/// pause between them.
const REFUSALS: u32 = 6;
const AFTER_REFUSAL: Duration = Duration::from_secs(2);

/// A replica may not know a peer yet that joined a moment ago. So a peer was removed after this many replies that it is
/// unknown, with this pause between them.
const UNKNOWN: u32 = 5;
const AFTER_UNKNOWN: Duration = Duration::from_secs(2);

/// How long a service that does not answer may delay the end.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// What a machine says of itself.
pub struct Introduction {
    /// Its name.
    pub hostname: String,
    /// The DNS labels that it would like to have.
    pub extra_dns_labels: Vec<String>,
}

/// Whether a peer leaves when it is stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leave {
    /// If it is ephemeral.
    IfEphemeral,
    /// Always.
    Always,
    /// It stays a peer. An ephemeral peer is removed when it was not seen for a while.
    Never,
}

/// How a run ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// It was stopped.
    Stopped,
    /// The service does not admit the machine. The text says why.
    Refused(String),
    /// The peer was removed.
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
    let mut attempts = Attempts::new();
    loop {
        match attempts.joined(service.enroll(identity, key, introduction).await) {
            Next::End(joined) => return joined,
            Next::Again(pause) => tokio::time::sleep(pause).await,
        }
    }
}

/// Ends when the peer is removed.
async fn stay(service: &Client, identity: &Identity, peer: &Enrolled, every: Duration) {
    let mut attempts = Attempts::new();
    loop {
        match attempts.seen(service.heartbeat(identity, peer).await, every) {
            Next::End(()) => return,
            Next::Again(pause) => tokio::time::sleep(pause).await,
        }
    }
}

async fn go(service: &Client, identity: &Identity, peer: &Enrolled) {
    let mut attempts = Attempts::new();
    loop {
        let after = match service.leave(identity, peer).await {
            Ok(Reply::Done(()) | Reply::Refused { .. }) => return,
            Ok(Reply::Later(after)) => after,
            Err(_) => None,
        };
        tokio::time::sleep(attempts.pause(after)).await;
    }
}

/// What to do after a call.
#[derive(Debug, Eq, PartialEq)]
enum Next<T> {
    /// There is nothing more to do.
    End(T),
    /// Call again after this pause.
    Again(Duration),
}

/// Calls of one kind, and how the latest of them failed.
struct Attempts {
    pauses: backon::ExponentialBackoff,
    /// Refusals in a row.
    refusals: u32,
}

impl Attempts {
    fn new() -> Self {
        Self { pauses: pauses(), refusals: 0 }
    }

    /// After a request to join.
    fn joined(&mut self, reply: Result<Reply<Enrolled>, Error>) -> Next<Result<Enrolled, String>> {
        match reply {
            Ok(Reply::Done(joined)) => Next::End(Ok(joined)),
            Ok(Reply::Refused { status: 403, sentence }) => {
                self.refusals += 1;
                if self.refusals == REFUSALS { Next::End(Err(sentence)) } else { Next::Again(AFTER_REFUSAL) }
            }
            Ok(Reply::Refused { sentence, .. }) => Next::End(Err(sentence)),
            Ok(Reply::Later(after)) => Next::Again(self.pause(after)),
            Err(error) => {
                tracing::warn!(%error, "could not join; retrying");
                Next::Again(self.pause(None))
            }
        }
    }

    /// After a heartbeat. The next one is due within `every`, whatever happens.
    fn seen(&mut self, reply: Result<Reply<()>, Error>, every: Duration) -> Next<()> {
        match reply {
            Ok(Reply::Done(())) => {
                *self = Self::new();
                // Jitter: machines that were started together do not call together for ever.
                Next::Again(every.mul_f64(0.9 + 0.1 * rand::random::<f64>()))
            }
            Ok(Reply::Refused { sentence, .. }) => {
                self.refusals += 1;
                if self.refusals == UNKNOWN {
                    return Next::End(());
                }
                tracing::debug!(%sentence, "the heartbeat was refused; retrying");
                Next::Again(AFTER_UNKNOWN.min(every))
            }
            Ok(Reply::Later(after)) => Next::Again(self.pause(after).min(every)),
            Err(error) => {
                tracing::warn!(%error, "could not send a heartbeat; retrying");
                Next::Again(self.pause(None).min(every))
            }
        }
    }

    /// Longer each time, and at least as long as the service asks for.
    fn pause(&mut self, asked: Option<Duration>) -> Duration {
        self.pauses.next().unwrap_or_default().max(asked.unwrap_or_default())
    }
}

fn pauses() -> backon::ExponentialBackoff {
    let builder = backon::ExponentialBuilder::new().with_min_delay(Duration::from_millis(250));
    builder.with_max_delay(Duration::from_secs(15)).with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(status: u16) -> Result<Reply<T>, Error> {
        Ok(Reply::Refused { status, sentence: "no".to_owned() })
    }

    fn later<T>(seconds: u64) -> Result<Reply<T>, Error> {
        Ok(Reply::Later(Some(Duration::from_secs(seconds))))
    }

    #[test]
    fn a_machine_asks_six_times_before_it_takes_no_for_an_answer() {
        let mut attempts = Attempts::new();
        for _ in 1..REFUSALS {
            assert_eq!(attempts.joined(refused(403)), Next::Again(AFTER_REFUSAL));
            // The service may be busy in between.
            assert!(matches!(attempts.joined(later(0)), Next::Again(_)));
        }
        assert_eq!(attempts.joined(refused(403)), Next::End(Err("no".to_owned())));
    }

    #[test]
    fn asking_again_does_not_help_a_request_that_is_wrong() {
        for status in [400, 409, 422] {
            assert_eq!(Attempts::new().joined(refused(status)), Next::End(Err("no".to_owned())), "{status}");
        }
    }

    #[test]
    fn a_machine_waits_at_least_as_long_as_the_service_asks_for() {
        let mut attempts = Attempts::new();
        let Next::Again(pause) = attempts.joined(later(60)) else { panic!("it gives up") };
        assert_eq!(pause, Duration::from_secs(60));
        let pauses: Vec<_> = (0..10).map(|_| attempts.pause(None)).collect();
        assert!(pauses[0] < Duration::from_secs(2) && pauses[9] >= Duration::from_secs(15), "{pauses:?}");
    }

    #[test]
    fn a_peer_was_removed_when_it_is_unknown_five_times_in_a_row() {
        let (mut attempts, every) = (Attempts::new(), Duration::from_secs(60));
        for _ in 1..UNKNOWN {
            assert_eq!(attempts.seen(refused(404), every), Next::Again(AFTER_UNKNOWN));
        }
        let Next::Again(pause) = attempts.seen(Ok(Reply::Done(())), every) else { panic!("it is gone") };
        assert!(pause <= every && pause >= every.mul_f64(0.9), "{pause:?}");
        for _ in 1..UNKNOWN {
            assert_eq!(attempts.seen(refused(404), every), Next::Again(AFTER_UNKNOWN));
        }
        assert_eq!(attempts.seen(refused(404), every), Next::End(()));
    }

    #[test]
    fn a_heartbeat_is_never_put_off_beyond_its_interval() {
        let every = Duration::from_secs(1);
        assert_eq!(Attempts::new().seen(later(60), every), Next::Again(every));
        assert_eq!(Attempts::new().seen(refused(404), every), Next::Again(every));
    }
}
