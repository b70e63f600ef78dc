//! Why a request was not granted, in NetBird's form: `{"message", "code"}`.

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use kube::core::Status;
use serde::Serialize;

/// Why a request was not granted. The texts are NetBird's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No token, or a scheme that is neither `Bearer` nor `Token`.
    #[error("no valid authentication provided")]
    NoToken,
    /// Kubernetes does not know the token: it is wrong, has expired or is for another audience.
    #[error("token invalid")]
    TokenInvalid,
    /// The caller lacks a right; Kubernetes' sentence says which.
    #[error("permission denied: {0}")]
    Forbidden(String),
    /// No key has this id.
    #[error("setup key: {} not found", .0.to_lowercase())]
    NotFound(String),
    /// The body is not what it should be.
    #[error("couldn't parse JSON request")]
    NotJson,
    /// The body is longer than anybody needs.
    #[error("the request body is too large")]
    TooLarge,
    /// A value is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// The object is not in a state to be changed.
    #[error("{0}")]
    Conflict(String),
    /// Kubernetes asks for patience.
    #[error("too many requests")]
    TooMany {
        /// Seconds.
        retry_after: u32,
    },
    /// The key was created, and what follows says why it is not in the answer and where it is.
    #[error("{0}")]
    CreatedButHidden(String),
    /// The key was created and is not issued yet.
    #[error("{0}")]
    CreatedNotIssued(String),
    /// Kubernetes cannot be reached, or fails.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// The HTTP status. NetBird: util.go.
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::NoToken | Refusal::TokenInvalid => StatusCode::UNAUTHORIZED,
            Refusal::Forbidden(_) | Refusal::CreatedButHidden(_) => StatusCode::FORBIDDEN,
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::NotJson => StatusCode::BAD_REQUEST,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::CreatedNotIssued(_) => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What a failed call means to the caller. `attempt` says what was tried on which object.
    pub fn from_kubernetes(attempt: &str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_answer(attempt, *status),
            // The error of a connection names the server at most; that of an answer could quote it.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Unavailable(format!("could not {attempt}: the answer of kubernetes could not be read"))
            }
            error => {
                tracing::warn!(%error, "could not {attempt}");
                Self::Unavailable(format!("could not {attempt}: kubernetes cannot be reached"))
            }
        }
    }

    fn from_answer(attempt: &str, status: Status) -> Self {
        match status.code {
            401 => Self::TokenInvalid,
            403 => Self::Forbidden(status.message),
            409 => Self::Conflict(format!("could not {attempt}: {}", status.message)),
            422 => Self::Invalid(sentence(&status)),
            429 => {
                let asked = status.details.map_or(0, |details| details.retry_after_seconds);
                Self::TooMany { retry_after: asked.max(1) }
            }
            _ => Self::Unavailable(format!("could not {attempt}: {}", status.message)),
        }
    }
}

/// What the rules of the CRD, or a policy, have against a value: each field as NetBird calls it.
fn sentence(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let sentences: Vec<_> = causes
        .filter(|cause| !cause.message.is_empty())
        .map(|cause| match netbirds_name(&cause.field) {
            Some(field) => format!("{field}: {}", cause.message),
            None => cause.message.clone(),
        })
        .collect();
    if sentences.is_empty() { status.message.clone() } else { sentences.join("; ") }
}

fn netbirds_name(field: &str) -> Option<&'static str> {
    let field = field.strip_prefix("spec.")?;
    let field = field.split(['[', '.']).next().unwrap_or(field);
    Some(match field {
        "name" => "name",
        "type" => "type",
        "expiresIn" => "expires_in",
        "autoGroups" => "auto_groups",
        "usageLimit" => "usage_limit",
        "ephemeral" => "ephemeral",
        "allowExtraDnsLabels" => "allow_extra_dns_labels",
        "revoked" => "revoked",
        _ => return None,
    })
}

/// An error in NetBird's form.
pub fn answer(status: StatusCode, message: &str) -> Response {
    #[derive(Serialize)]
    struct ErrorResponse<'a> {
        message: &'a str,
        code: u16,
    }
    (status, Json(ErrorResponse { message, code: status.as_u16() })).into_response()
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
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
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

    fn status(answer: serde_json::Value) -> Box<Status> {
        serde_json::from_value(answer).unwrap()
    }

    fn refusal(answer: serde_json::Value) -> Refusal {
        Refusal::from_kubernetes("create SetupKey n/k", kube::Error::Api(status(answer)))
    }

    #[test]
    fn a_field_is_called_as_the_client_called_it() {
        let refusal = refusal(json!({ "code": 422, "message": "SetupKey \"k\" is invalid", "details": { "causes": [
            { "field": "spec.autoGroups[1]", "message": "Invalid value: \"a b\": no spaces" },
            { "field": "spec.usageLimit", "message": "Invalid value: 5: too many" },
        ] } }));
        let said = "auto_groups: Invalid value: \"a b\": no spaces; usage_limit: Invalid value: 5: too many";
        assert_eq!((refusal.status().as_u16(), refusal.to_string().as_str()), (422, said));
    }

    #[test]
    fn answers_of_kubernetes_become_netbirds() {
        for (code, becomes, text) in [
            (401, 401, "token invalid"),
            (403, 403, "permission denied: why"),
            (404, 503, "could not create SetupKey n/k: why"),
            (409, 409, "could not create SetupKey n/k: why"),
            (422, 422, "why"),
            (429, 429, "too many requests"),
            (500, 503, "could not create SetupKey n/k: why"),
        ] {
            let refusal = refusal(json!({ "code": code, "message": "why" }));
            assert_eq!((refusal.status().as_u16(), refusal.to_string().as_str()), (becomes, text), "{code}");
        }
    }
}
