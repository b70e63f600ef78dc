//! What clients are told.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Called, admission::Outcome, peers::Known, request::Complaint};
use crate::key::ledger::Verdict;

/// The machine is a peer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Enrolled {
    /// The name of the peer, by which it sends heartbeats and leaves.
    #[schema(pattern = "^peer-[0-9a-v]{20}$")]
    name: String,
    /// The namespace of the Peer.
    namespace: String,
    /// The groups that it has joined.
    groups: Vec<String>,
    /// Whether it is removed when it sends no heartbeats for a while.
    ephemeral: bool,
    /// The DNS labels that it has.
    extra_dns_labels: Vec<String>,
}

impl From<&Known> for Enrolled {
    fn from(peer: &Known) -> Self {
        Self {
            name: peer.name.clone(),
            namespace: peer.namespace.clone(),
            groups: peer.groups.clone(),
            ephemeral: peer.ephemeral,
            extra_dns_labels: peer.extra_dns_labels.clone(),
        }
    }
}

/// Why a request did not succeed.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// A sentence for a person.
    message: String,
    /// The field of the body that is wrong, with 422.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<&'static str>,
}

/// An answer.
#[derive(Debug)]
pub enum Answer {
    /// The machine is a peer.
    Enrolled(Arc<Known>),
    /// Done, and nothing to tell.
    Done,
    /// The body is not as it should be.
    Wrong(Complaint),
    /// The body is longer than it may be.
    TooLong,
    /// There is no usable Bearer token.
    NoToken,
    /// The key does not admit this machine. The one answer for every reason, so that nobody learns from it.
    Refused,
    /// There is no such peer, or the token is not its own.
    Unknown,
    /// This public key has joined with another token.
    Taken,
    /// The key admits no DNS labels.
    NoExtraDnsLabels,
    /// The peer of this public key is on its way out.
    Leaving,
    /// The cluster cannot be asked at the moment, or too many ask.
    Busy,
    /// This address has failed too often.
    Limited(Duration),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Joined { peer, .. } => Self::Enrolled(peer),
            Outcome::Not(Verdict::Taken) => Self::Taken,
            Outcome::Not(Verdict::Leaving) => Self::Leaving,
            Outcome::Not(Verdict::NoExtraDnsLabels) => Self::NoExtraDnsLabels,
            Outcome::Not(Verdict::Busy) => Self::Busy,
            Outcome::Not(_) => Self::Refused,
        }
    }
}

impl From<Called> for Answer {
    fn from(called: Called) -> Self {
        match called {
            Called::Done => Self::Done,
            Called::Unknown => Self::Unknown,
            Called::Busy => Self::Busy,
        }
    }
}

impl Answer {
    /// Whether it counts towards the limit of its address.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Enrolled(_) | Self::Done | Self::Leaving | Self::Busy | Self::Limited(_))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Enrolled(peer) => Json(Enrolled::from(peer.as_ref())).into_response(),
            Self::Done => StatusCode::NO_CONTENT.into_response(),
            Self::Wrong(complaint) => {
                let (status, field) = match complaint {
                    Complaint::NotJson => (StatusCode::BAD_REQUEST, None),
                    Complaint::Field { field, .. } => (StatusCode::UNPROCESSABLE_ENTITY, Some(field)),
                };
                (status, Json(Problem { message: complaint.to_string(), field })).into_response()
            }
            Self::TooLong => problem(StatusCode::PAYLOAD_TOO_LARGE, "the body may have 8 KiB"),
            Self::NoToken => {
                let mut response = problem(
                    StatusCode::UNAUTHORIZED,
                    "this call needs the header Authorization: Bearer and the token that the peer joined with",
                );
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            Self::Refused => problem(StatusCode::FORBIDDEN, "this setup key does not admit this machine"),
            Self::Unknown => problem(StatusCode::NOT_FOUND, "there is no peer of this name with this token"),
            Self::Taken => problem(StatusCode::CONFLICT, "this public key has joined with another token"),
            Self::NoExtraDnsLabels => {
                let message = "extraDnsLabels must be empty: this setup key does not allow any".to_owned();
                let problem = Problem { message, field: Some("extraDnsLabels") };
                (StatusCode::UNPROCESSABLE_ENTITY, Json(problem)).into_response()
            }
            Self::Leaving => later(
                StatusCode::SERVICE_UNAVAILABLE,
                Duration::from_secs(2),
                "the peer of this public key is being removed; come again when it has gone",
            ),
            Self::Busy => later(
                StatusCode::SERVICE_UNAVAILABLE,
                Duration::from_secs(1),
                "this cannot be answered at the moment; come again, nothing is counted twice",
            ),
            Self::Limited(wait) => later(
                StatusCode::TOO_MANY_REQUESTS,
                wait,
                "too many requests from this address have failed; come again later",
            ),
        }
    }
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(Problem { message: message.to_owned(), field: None })).into_response()
}

fn later(status: StatusCode, wait: Duration, message: &str) -> Response {
    let mut response = problem(status, message);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
    response
}
