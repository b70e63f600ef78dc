use std::time::Duration;

use rand::rngs::SysError;

use crate::{authority::netbird, cluster::call};

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed.
    #[error(transparent)]
    Call(#[from] call::Error),
    /// A call to the authority of the key failed.
    #[error("could not {attempt} at {authority}: {source}")]
    Authority {
        /// What was attempted, as in "create a key".
        attempt: &'static str,
        /// The authority.
        authority: String,
        /// The error of the client.
        source: netbird::Error,
    },
    /// The operating system has no random bytes to give.
    #[error("could not draw random bytes for a key: {0}")]
    Random(#[from] SysError),
    /// Whether a value is on record for another key is not known yet.
    #[error("the SetupKeys of all namespaces are not listed yet")]
    NotListed,
    /// The planner asked for step after step.
    #[error("the key did not settle after {0} steps")]
    Unsettled(usize),
}

impl Error {
    /// The HTTP status with which the API server answered, if it answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Call(error) => error.code(),
            Error::Authority { .. } | Error::Random(_) | Error::NotListed | Error::Unsettled(_) => None,
        }
    }

    /// How long the other side asks to be left alone, if it does.
    pub fn pause(&self) -> Option<Duration> {
        match self {
            Error::Call(error) => error.pause(),
            Error::Authority { source, .. } => source.retry_after(),
            Error::Random(_) | Error::NotListed | Error::Unsettled(_) => None,
        }
    }
}
