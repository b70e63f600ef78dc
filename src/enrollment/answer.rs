//! The answers to clients: status, headers and body.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};

use super::{admission::Outcome, cache::CachedPeer, request::Complaint, service::Called};
use crate::{
    key::ledger::Refusal,
    protocol::{Enrolled, Problem},
};

/// An answer.
#[derive(Debug)]
pub enum Answer {
    /// The machine is a peer.
    Enrolled(Arc<CachedPeer>),
    /// The machine is not admitted, or the call cannot be answered now.
    Not(Refusal),
    /// Done; there is no body.
    Done,
    /// There is no such peer, or the token is not its own.
    Unknown,
    /// The call names no namespace, and several have such a peer.
    Ambiguous,
    /// The body is not valid.
    Wrong(Complaint),
    /// The body is too long.
    TooLong,
    /// The body ended early, or its chunks are broken.
    Unreadable,
    /// There is no usable Bearer token.
    NoToken,
    /// There is no such path.
    NoSuchPath,
    /// The path has no such method.
    NoSuchMethod,
    /// This address has failed too often.
    Limited(Duration),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Joined { peer, .. } => Self::Enrolled(peer),
            Outcome::Not(refusal) => Self::Not(refusal),
        }
    }
}

impl From<Called> for Answer {
    fn from(called: Called) -> Self {
        match called {
            Called::Done => Self::Done,
            Called::Unknown => Self::Unknown,
            Called::Ambiguous => Self::Ambiguous,
            Called::Busy => Self::Not(Refusal::Busy),
        }
    }
}

impl Answer {
    /// Whether it counts as a failure of its address.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Not(Refusal::Taken | Refusal::Refused | Refusal::NoExtraDnsLabels) => true,
            Self::Unknown | Self::Wrong(_) | Self::TooLong | Self::Unreadable | Self::NoToken => true,
            // The token is right, and the machine is not to blame for another Peer.
            Self::Ambiguous => false,
            Self::Not(Refusal::Leaving | Refusal::Busy) => false,
            Self::Enrolled(_) | Self::Done | Self::Limited(_) | Self::NoSuchPath | Self::NoSuchMethod => false,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Enrolled(peer) => Json(Enrolled::from(peer.as_ref())).into_response(),
            Self::Not(refusal) => refused(refusal),
            Self::Done => StatusCode::NO_CONTENT.into_response(),
            Self::Unknown => problem(StatusCode::NOT_FOUND, None, "there is no such peer with this token"),
            Self::Ambiguous => problem(
                StatusCode::CONFLICT,
                None,
                "peers of this name and token are in several namespaces; call /v1/namespaces/{namespace}/peers/{name} \
                 with the namespace that the answer to /v1/enroll has",
            ),
            Self::Wrong(complaint) => {
                let (status, field) = match complaint {
                    Complaint::NotJson => (StatusCode::BAD_REQUEST, None),
                    Complaint::Field { field, .. } => (StatusCode::UNPROCESSABLE_ENTITY, Some(field)),
                };
                problem(status, field, &complaint.to_string())
            }
            Self::TooLong => problem(StatusCode::PAYLOAD_TOO_LARGE, None, "the body may have 8 KiB"),
            Self::Unreadable => {
                problem(StatusCode::BAD_REQUEST, None, "the body ended early, or its chunks are broken")
            }
            Self::NoSuchPath => problem(StatusCode::NOT_FOUND, None, "there is no such path; see /openapi.json"),
            Self::NoSuchMethod => {
                problem(StatusCode::METHOD_NOT_ALLOWED, None, "this path has no such method; see /openapi.json")
            }
            Self::NoToken => {
                let message =
                    "this call needs one header Authorization: Bearer and the token that the peer joined with";
                let mut response = problem(StatusCode::UNAUTHORIZED, None, message);
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            Self::Limited(wait) => later(
                StatusCode::TOO_MANY_REQUESTS,
                wait,
                "too many requests from this address have failed; try again later",
            ),
        }
    }
}

/// The one answer to every key that admits no peer is [`Refusal::Refused`], so that a stranger learns nothing from it.
fn refused(refusal: Refusal) -> Response {
    match refusal {
        Refusal::Refused => problem(StatusCode::FORBIDDEN, None, "this setup key does not admit this machine"),
        Refusal::Taken => problem(StatusCode::CONFLICT, None, "this public key has joined with another token"),
        Refusal::NoExtraDnsLabels => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            Some("extraDnsLabels"),
            "extraDnsLabels must be empty: this setup key does not allow any",
        ),
        Refusal::Leaving => later(
            StatusCode::SERVICE_UNAVAILABLE,
            Duration::from_secs(2),
            "the peer of this public key is being removed; try again when it has gone",
        ),
        Refusal::Busy => later(
            StatusCode::SERVICE_UNAVAILABLE,
            Duration::from_secs(1),
            "this request cannot be answered at the moment; try again, nothing is counted twice",
        ),
    }
}

fn problem(status: StatusCode, field: Option<&str>, message: &str) -> Response {
    (status, Json(Problem { message: message.to_owned(), field: field.map(str::to_owned) })).into_response()
}

/// Retry-After is in whole seconds, rounded up, and at least 1.
fn later(status: StatusCode, wait: Duration, message: &str) -> Response {
    let mut response = problem(status, None, message);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSALS: [(Refusal, u16, Option<u64>, bool); 5] = [
        (Refusal::Refused, 403, None, true),
        (Refusal::Taken, 409, None, true),
        (Refusal::NoExtraDnsLabels, 422, None, true),
        (Refusal::Leaving, 503, Some(2), false),
        (Refusal::Busy, 503, Some(1), false),
    ];

    fn after(response: &Response) -> Option<u64> {
        response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
    }

    #[test]
    fn each_refusal_has_its_status_and_those_that_pass_are_no_failures() {
        for (refusal, status, wait, is_failure) in REFUSALS {
            let answer = Answer::Not(refusal);
            assert_eq!(answer.is_failure(), is_failure, "{refusal:?}");
            let response = answer.into_response();
            assert_eq!((response.status().as_u16(), after(&response)), (status, wait), "{refusal:?}");
        }
    }

    #[test]
    fn a_client_is_told_to_wait_whole_seconds_and_at_least_one() {
        for (wait, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_500, 60)] {
            let response = Answer::Limited(Duration::from_millis(wait)).into_response();
            assert_eq!((response.status().as_u16(), after(&response)), (429, Some(seconds)), "{wait} ms");
        }
    }

    #[test]
    fn an_invalid_body_is_400_or_422() {
        let field = Complaint::Field { field: "token", rule: "is missing" };
        for (complaint, status) in [(Complaint::NotJson, 400), (field, 422)] {
            let answer = Answer::Wrong(complaint);
            assert!(answer.is_failure());
            assert_eq!(answer.into_response().status().as_u16(), status);
        }
    }
}
