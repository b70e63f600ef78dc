//! Calls to the API server: each has a time limit, and each error says what was attempted on which object.

use std::{fmt, time::Duration};

/// The longest that one call may take, unless it is told otherwise. kube sets no limit of its own on reading an answer.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The client configuration that every part counts on.
///
/// kube would try a call again by itself, up to 15 times and faster than is fair to a server that is in trouble. What
/// failed is tried again as a whole instead, for what was true before the call may no longer be.
pub fn tuned(mut config: kube::Config) -> kube::Config {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or could not be reached.
    #[error("could not {attempt}: {source}")]
    Api {
        /// What was attempted, and on which object.
        attempt: Attempt,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// There was no answer in time.
    #[error("could not {attempt}: no answer within {} s", limit.as_secs())]
    Timeout {
        /// What was attempted, and on which object.
        attempt: Attempt,
        /// How long that was waited for.
        limit: Duration,
    },
    /// The answer was not what the API server sends. It is not quoted, for it may hold a key.
    #[error("could not {0}: the answer could not be read")]
    Unreadable(Attempt),
    /// The operating system has no random bytes to give.
    #[error("could not draw random bytes for a key: {0}")]
    Random(#[from] rand::rngs::SysError),
    /// The planner asked for write after write.
    #[error("did not settle after {0} steps; it is tried again")]
    Unsettled(usize),
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

    /// How long the API server asks to be left alone, if it does. It answers 429 without a figure when it is overloaded;
    /// its header says one second then.
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

    /// The API server's sentence, if this is an answer that trying again does not change: a right that is missing, a
    /// quota, an admission policy, an object it does not accept.
    pub fn refusal(&self) -> Option<&str> {
        let Error::Api { source, .. } = self else { return None };
        match source.as_ref() {
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 405 | 413 | 422) => Some(&status.message),
            _ => None,
        }
    }
}

impl Error {
    /// The error with something masked out of what the API server said.
    pub fn redacted(mut self, redact: impl Fn(&str) -> String) -> Self {
        if let Error::Api { source, .. } = &mut self
            && let kube::Error::Api(status) = source.as_mut()
        {
            status.message = redact(&status.message);
            // The causes quote too; the pause that the server asks for stays.
            status.details.iter_mut().for_each(|details| details.causes.clear());
        }
        self
    }
}

/// Waits for an answer, for as long as a call may take.
pub async fn call<T>(attempt: Attempt, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    call_within(TIME_LIMIT, attempt, answer).await
}

/// Waits for an answer, for so long.
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
