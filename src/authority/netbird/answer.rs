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
            // So NetBird says that it does not know a token any more. Nothing must be taken for deleted because of it, and
            // the line quotes the digest of the token.
            404 if message.starts_with("invalid token") => Error::TokenRefused("invalid token".to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_in_seconds_or_until_a_date_and_an_hour_at_most() {
        let now = "2026-11-24T06:00:00Z".parse().unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("Tue, 24 Nov 2026 06:00:30 GMT", Some(30)),
            ("Tue, 24 Nov 2026 05:00:00 GMT", Some(0)),
            ("99999999", Some(3600)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(pause(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_refusal_of_netbird_has_its_line_without_secrets() {
        let token = Token::parse(b"nbp_secret").unwrap();
        let read = |status: u16| {
            let body = format!(r#"{{"message":"no to NBP_SECRET\n","code":{status}}}"#).into_bytes().into();
            Answer { status, is_json: true, retry_after: None, body }.read(&token, |_| Some(())).unwrap_err()
        };
        let line = || "no to ****".to_owned();
        assert_eq!(read(401), Error::TokenRefused(line()));
        assert_eq!(read(403), Error::RoleTooLow(line()));
        assert_eq!(read(404), Error::NotFound(line()));
        for status in [400, 409, 412, 422] {
            assert_eq!(read(status), Error::Invalid(line()));
        }
        assert_eq!(read(500), Error::Server { code: 500, retry_after: None });
        for status in [201, 204, 302, 600] {
            assert_eq!(read(status), Error::NotNetBird { retry_after: None }, "{status}");
        }
    }
}
