//! Calls to the API server: each has a time limit, and its error says what was attempted on which object.

use std::{error::Error as StdError, fmt, io, iter, time::Duration};

use kube::runtime::watcher;

/// The time limit of [`call`]. kube itself sets no limit on reading an answer.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The longest silence on a connection. The API server sends a bookmark on most idle watches every minute; see [`is_silence`].
pub const SILENCE: Duration = Duration::from_secs(90);

/// The client configuration that every part of the product uses.
///
/// It turns off kube's own retries: up to 15 per call, and too fast for an API server in trouble. Callers retry the whole
/// operation instead, because what they decided on may have changed since.
///
/// A connection without a byte for [`SILENCE`] is closed. TCP's keepalive does not notice a server or a proxy that holds a
/// connection and sends nothing, and a silent watch would be noticed only at the end of its time, after 295 s.
pub fn tuned(mut config: kube::Config) -> kube::Config {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(SILENCE);
    // The time counts from the last request, and not from the end of the one before it.
    config.reset_reader_on_write = true;
    config
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server answered with an error, or could not be reached.
    #[error("could not {attempt}: {}", reason(source.as_ref()))]
    Api {
        /// What was attempted, and on which object.
        attempt: Attempt,
        /// The error of the client.
        source: Box<kube::Error>,
    },
    /// There was no answer in time.
    #[error("could not {attempt}: no answer within {} s", limit.as_secs())]
    Timeout {
        /// What was attempted, and on which object.
        attempt: Attempt,
        /// The time limit that passed.
        limit: Duration,
    },
    /// The answer could not be decoded. It is not quoted, because it may hold a key.
    #[error("could not {0}: the answer could not be read")]
    Unreadable(Attempt),
}

/// What was attempted on which object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attempt(String);

impl Attempt {
    /// An attempt that is about no single object, as in "list SetupKeys of namespace network".
    pub fn to(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// An attempt to do something, as in "read Secret", on an object.
    pub fn on(what: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{what} {namespace}/{name}"))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error {
    /// What was attempted, and on which object.
    pub fn attempt(&self) -> &Attempt {
        match self {
            Error::Api { attempt, .. } | Error::Timeout { attempt, .. } | Error::Unreadable(attempt) => attempt,
        }
    }

    /// The HTTP status with which the API server answered, if it answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the API server does not know the resource itself, as before a CRD is installed. It answers 404 then too, and
    /// names no object.
    pub fn is_missing_resource(&self) -> bool {
        let Error::Api { source, .. } = self else { return false };
        let kube::Error::Api(status) = source.as_ref() else { return false };
        status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty())
    }

    /// The pause that the API server asks for, if it does. A 429 without a figure, from an overloaded server, means one
    /// second, as its header says.
    pub fn pause(&self) -> Option<Duration> {
        let Error::Api { source, .. } = self else { return None };
        match source.as_ref() {
            kube::Error::Api(status) if status.code == 429 || status.code == 503 => {
                let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                let least = if status.code == 429 { 1 } else { 0 };
                Some(Duration::from_secs(asked.max(least).into()))
            }
            _ => None,
        }
    }

    /// Why the call failed, for people: the API server's message where there is one.
    pub fn why(&self) -> String {
        match self {
            Error::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.message.clone(),
                source => reason(source),
            },
            Error::Timeout { limit, .. } => format!("the API server has not answered within {} s", limit.as_secs()),
            Error::Unreadable(_) => "the answer could not be read".to_owned(),
        }
    }

    /// The API server's message, if a retry does not change the answer: a missing right, a quota, an admission policy, or an
    /// invalid object.
    pub fn refusal(&self) -> Option<&str> {
        let Error::Api { source, .. } = self else { return None };
        match source.as_ref() {
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 405 | 413 | 422) => Some(&status.message),
            _ => None,
        }
    }
}

impl Error {
    /// The error with the API server's message passed through `redact`.
    pub fn redacted(mut self, redact: impl Fn(&str) -> String) -> Self {
        if let Error::Api { source, .. } = &mut self
            && let kube::Error::Api(status) = source.as_mut()
        {
            status.message = redact(&status.message);
            // The causes can quote the object too. The rest of the details, such as the pause, is kept.
            status.details.iter_mut().for_each(|details| details.causes.clear());
        }
        self
    }
}

/// An error, its cause, the cause of that one, and so on.
pub fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// The message of an error, with the causes of a connection that failed: kube's says "client error (Connect)" and no more. The
/// causes of other errors are left out, because those of a decoder can quote a key.
pub fn reason(error: &(dyn StdError + 'static)) -> String {
    let is_connection =
        |error: &&(dyn StdError + 'static)| matches!(error.downcast_ref(), Some(kube::Error::Service(_)));
    let mut text = error.to_string();
    for cause in causes(error).skip_while(|error| !is_connection(error)).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether a watch has ended because no byte arrived for [`SILENCE`]. That is no failure: an API server sends no bookmarks on a
/// watch if nothing of its kind has changed since the server started. The watch goes on where it was, with one more request.
pub fn is_silence(error: &watcher::Error) -> bool {
    let watcher::Error::WatchFailed(error) = error else { return false };
    causes(error)
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut))
}

/// Logs that a watch is started again after this error.
pub fn log_restart(kind: impl fmt::Display, error: &watcher::Error) {
    if is_silence(error) {
        tracing::debug!(%kind, "the watch was silent and is started again");
    } else {
        tracing::warn!(%kind, error = %reason(error), "the watch failed and is started again");
    }
}

/// Waits for an answer, for at most 10 s.
pub async fn call<T>(attempt: Attempt, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    call_within(TIME_LIMIT, attempt, answer).await
}

/// Waits for an answer, for at most `limit`.
pub async fn call_within<T>(
    limit: Duration,
    attempt: Attempt,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Api { attempt, source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { attempt, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Connect(#[source] io::Error);

    #[test]
    fn a_connection_that_fails_says_why() {
        let refused = Connect(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        let error = Error::Api {
            attempt: Attempt::on("read Secret", "network", "office"),
            source: Box::new(kube::Error::Service(Box::new(refused))),
        };
        let why = "ServiceError: client error (Connect): connection refused";
        assert_eq!(error.to_string(), format!("could not read Secret network/office: {why}"));
        assert_eq!(error.why(), why);
    }

    #[test]
    fn a_watch_without_a_byte_is_silent_and_one_that_breaks_is_not() {
        let of = |kind: io::ErrorKind| {
            watcher::Error::WatchFailed(kube::Error::ReadEvents(io::Error::other(Connect(kind.into()))))
        };
        assert!(is_silence(&of(io::ErrorKind::TimedOut)));
        assert!(!is_silence(&of(io::ErrorKind::ConnectionReset)));
    }

    #[test]
    fn the_causes_of_other_errors_are_left_out() {
        let unreadable = serde_json::from_str::<u8>(r#""563A1F41""#).unwrap_err();
        let error = Connect(io::Error::other(unreadable));
        assert_eq!(reason(&error), "client error (Connect)");
    }
}
