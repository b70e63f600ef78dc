//! Why a call to NetBird failed.

use std::time::Duration;

/// Why a call failed. Its text is for a status condition.
///
/// Users choose the host, and a status must not tell them what else is in the operator's network. So a host that refuses
/// connections, one that drops them and one that answers as something else read alike.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// There is no connection, or it was lost.
    #[error("{NO_NETBIRD}")]
    Unreachable,
    /// There was no answer in time.
    #[error("{NO_NETBIRD}")]
    Timeout,
    /// The answer is not NetBird's: a redirect, a page, or JSON of another kind.
    #[error("{NO_NETBIRD}")]
    NotNetBird {
        /// When to ask again, if the answer says so.
        retry_after: Option<Duration>,
    },
    /// The answer is longer than its limit.
    #[error("{NO_NETBIRD}")]
    TooLarge,
    /// The certificate cannot be trusted.
    #[error("the server's certificate cannot be trusted: {0}")]
    Certificate(&'static str),
    /// The host must not be called.
    #[error("the operator may not call this host: {0}")]
    HostRefused(&'static str),
    /// The URL begins with `http://`.
    #[error("netbird.url must begin with https://, because the token would be sent in the clear")]
    Insecure,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls,
    /// The token is not valid (401).
    #[error("NetBird refuses the token: {0}")]
    TokenRefused(String),
    /// The token's user may not do this (403).
    #[error("NetBird does not allow this to the token's user: {0}")]
    RoleTooLow(String),
    /// NetBird does not know the object (404).
    #[error("NetBird does not know it: {0}")]
    NotFound(String),
    /// The request is not accepted (400, 409, 412, 422).
    #[error("NetBird refuses the request: {0}")]
    Invalid(String),
    /// There were too many calls (429).
    #[error("NetBird answers no more calls for now")]
    RateLimited {
        /// When to ask again, if NetBird says so.
        retry_after: Option<Duration>,
    },
    /// NetBird failed (5xx).
    #[error("NetBird failed with status {code}")]
    Server {
        /// The HTTP status.
        code: u16,
        /// When to ask again, if NetBird says so.
        retry_after: Option<Duration>,
    },
}

const NO_NETBIRD: &str = "the host did not answer as a NetBird server";

impl Error {
    /// Whether NetBird may have carried out the call in spite of the error.
    pub fn may_have_been_carried_out(&self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Timeout | Self::NotNetBird { .. } | Self::TooLarge | Self::Server { .. }
        )
    }

    /// Whether NetBird says that there is no such setup key. It answers 404 for other reasons too.
    pub fn is_missing_key(&self) -> bool {
        matches!(self, Self::NotFound(line) if line.starts_with("setup key"))
    }

    /// The pause that the server asks for, at most an hour.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Server { retry_after, .. } | Self::NotNetBird { retry_after } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// The reason of the authority's condition Ready, or `None` if the error is about one key or group and the authority
    /// works.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable | Self::Timeout | Self::NotNetBird { .. } | Self::TooLarge | Self::Server { .. } => {
                Some("Unreachable")
            }
            Self::Certificate(_) | Self::Tls => Some("CertificateInvalid"),
            Self::HostRefused(_) | Self::Insecure => Some("HostRefused"),
            Self::TokenRefused(_) => Some("TokenRefused"),
            Self::RoleTooLow(_) => Some("RoleTooLow"),
            Self::RateLimited { .. } => Some("RateLimited"),
            Self::NotFound(_) | Self::Invalid(_) => None,
        }
    }

    /// The label `code` of a call that failed without an HTTP status, or in spite of one that says it succeeded.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Certificate(_) | Self::Tls => "certificate",
            Self::HostRefused(_) | Self::Insecure => "host_refused",
            _ => "unreadable",
        }
    }
}
