//! Why a request was not granted, in NetBird's form: `{"message", "code"}`.

use std::time::Duration;

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use kube::core::Status;
use serde::Serialize;

use super::said;
use crate::cluster::call::{self, Attempt};

/// The type of most answers. NetBird: util.go, WriteJSONObject.
pub const JSON_UTF8: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");

/// Why a request was not granted. Where NetBird has a text, this uses it.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No token, or a scheme that is neither `Bearer` nor `Token`.
    #[error("no valid authentication provided")]
    NoToken,
    /// The API server does not accept the token: it is wrong, has expired or is for another audience.
    #[error("token invalid")]
    TokenInvalid,
    /// The caller lacks a right, which the text names, or a policy forbids the call.
    #[error("permission denied: {0}")]
    Forbidden(String),
    /// No key has this id.
    #[error("setup key: {} not found", .0.to_lowercase())]
    NotFound(String),
    /// What stands in the path cannot be an id, so no key has it. It is not quoted, because it may be a key.
    #[error("setup key not found")]
    NotAnId,
    /// The body is not a JSON object with fields of the right types.
    #[error("couldn't parse JSON request")]
    NotJson,
    /// The body is longer than the limit.
    #[error("the request body is too large")]
    TooLarge,
    /// A value is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// Another write came first, or the id is not unique.
    #[error("{0}")]
    Conflict(String),
    /// The API server asks for a pause.
    #[error("too many requests")]
    TooMany {
        /// How long the pause is, in whole seconds.
        retry_after: Duration,
    },
    /// This process has no room for another list.
    #[error("too many lists are under way; try again")]
    Busy,
    /// The key was created, but the caller may not read it. The text says where it is.
    #[error("{0}")]
    CreatedButHidden(String),
    /// The key was created, but is not issued. The text says why, and where the key will be.
    #[error("{0}")]
    CreatedNotIssued(String),
    /// The `SetupKey` is written, but its authority has not followed. The text says why.
    #[error("{0}")]
    NotThereYet(String),
    /// The API server cannot be reached, or fails.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// The HTTP status. NetBird: util.go.
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::NoToken | Refusal::TokenInvalid => StatusCode::UNAUTHORIZED,
            Refusal::Forbidden(_) | Refusal::CreatedButHidden(_) => StatusCode::FORBIDDEN,
            Refusal::NotFound(_) | Refusal::NotAnId => StatusCode::NOT_FOUND,
            Refusal::NotJson => StatusCode::BAD_REQUEST,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::CreatedNotIssued(_) | Refusal::NotThereYet(_) => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Busy | Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// What a failed call to the API server means to the caller.
impl From<call::Error> for Refusal {
    fn from(error: call::Error) -> Self {
        let pause = error.pause();
        match error {
            call::Error::Api { attempt, source } => match *source {
                kube::Error::Api(status) => Self::from_status(&attempt, *status, pause),
                // This error could quote the answer, and the answer could hold a key.
                kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                    Self::Unavailable(format!("could not {attempt}: the answer of kubernetes could not be read"))
                }
                // These errors name at most the server.
                error => {
                    tracing::warn!(%error, "could not {attempt}");
                    Self::Unavailable(format!("could not {attempt}: kubernetes cannot be reached"))
                }
            },
            call::Error::Timeout { attempt, limit } => {
                let seconds = limit.as_secs();
                Self::Unavailable(format!("could not {attempt}: kubernetes did not answer within {seconds} s"))
            }
            error @ call::Error::Unreadable(_) => Self::Unavailable(error.to_string()),
        }
    }
}

impl Refusal {
    fn from_status(attempt: &Attempt, status: Status, pause: Option<Duration>) -> Self {
        match status.code {
            401 => Self::TokenInvalid,
            403 => Self::Forbidden(said::forbidden(&status.message)),
            // Where an object can be missing, the caller of this has handled that before.
            404 => Self::Unavailable(format!("could not {attempt}: there is no such resource or namespace")),
            409 => Self::Conflict(format!("could not {attempt}: another change came first; try again")),
            422 => Self::Invalid(said::invalid(&status)),
            429 => Self::TooMany { retry_after: pause.unwrap_or(Duration::from_secs(1)) },
            code => {
                tracing::warn!(code, message = status.message, "could not {attempt}");
                Self::Unavailable(format!("could not {attempt}: kubernetes answered {code}"))
            }
        }
    }
}

/// An error in NetBird's form.
pub fn answer(status: StatusCode, message: &str) -> Response {
    #[derive(Serialize)]
    struct ErrorResponse<'a> {
        message: &'a str,
        code: u16,
    }
    (status, [(CONTENT_TYPE, JSON_UTF8)], Json(ErrorResponse { message, code: status.as_u16() })).into_response()
}

impl From<BytesRejection> for Refusal {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE { Self::TooLarge } else { Self::NotJson }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = answer(self.status(), &self.to_string());
        let headers = response.headers_mut();
        match self {
            Refusal::NoToken | Refusal::TokenInvalid => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Refusal::TooMany { retry_after } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs()));
            }
            Refusal::Busy => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(answer: serde_json::Value) -> Refusal {
        let source = Box::new(kube::Error::Api(serde_json::from_value(answer).unwrap()));
        call::Error::Api { attempt: Attempt::on("create SetupKey", "n", "k"), source }.into()
    }

    #[test]
    fn answers_of_kubernetes_become_netbirds() {
        for (code, becomes, text) in [
            (401, 401, "token invalid"),
            (403, 403, "permission denied: why"),
            (404, 503, "could not create SetupKey n/k: there is no such resource or namespace"),
            (409, 409, "could not create SetupKey n/k: another change came first; try again"),
            (422, 422, "why"),
            (429, 429, "too many requests"),
            (500, 503, "could not create SetupKey n/k: kubernetes answered 500"),
        ] {
            let refusal = refusal(json!({ "code": code, "message": "why" }));
            assert_eq!((refusal.status().as_u16(), refusal.to_string().as_str()), (becomes, text), "{code}");
        }
    }
}
