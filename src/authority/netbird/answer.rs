//! What an answer of HTTP means.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{
    HeaderMap,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use secrecy::zeroize::Zeroizing;

use super::{Error, Token, json::Problem, message::shown};

/// The longest pause that is accepted from a server. One that errs must not stop an authority for days.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// An answer. The body may hold a key.
pub struct Answer {
    pub status: u16,
    pub is_json: bool,
    pub retry_after: Option<Duration>,
    pub body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// An answer without its body.
    pub fn new(status: u16, headers: &HeaderMap, now: DateTime<Utc>) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let is_json = text(CONTENT_TYPE).is_some_and(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        });
        Self {
            status,
            is_json,
            retry_after: text(RETRY_AFTER).and_then(|text| pause(text, now)),
            body: Zeroizing::default(),
        }
    }

    /// The value in the answer, or NetBird's refusal.
    ///
    /// A status alone is not believed, whatever it is but 429: a gateway without a backend answers 404 and 503 too, and a
    /// sign-in page 200 and 401.
    pub fn read<T>(&self, token: &Token, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, Error> {
        let retry_after = self.retry_after;
        if self.status == 429 {
            return Err(Error::RateLimited { retry_after });
        }
        let not_netbird = || Error::NotNetBird { retry_after };
        if !self.is_json {
            return Err(not_netbird());
        }
        if self.status == 200 {
            return read(&self.body).ok_or_else(not_netbird);
        }
        let problem = serde_json::from_slice(&self.body).ok().filter(|problem: &Problem| problem.code == self.status);
        let message = problem.map(|problem| shown(&problem.message, token)).ok_or_else(not_netbird)?;
        Err(match self.status {
            401 => Error::TokenRefused(message),
            403 => Error::RoleTooLow(message),
            404 => Error::NotFound(message),
            400..500 => Error::Invalid(message),
            code @ 500..600 => Error::Server { code, retry_after },
            _ => not_netbird(),
        })
    }
}

/// The pause in a header `Retry-After`, which has seconds or a date.
fn pause(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(pause.min(LONGEST_PAUSE))
}
