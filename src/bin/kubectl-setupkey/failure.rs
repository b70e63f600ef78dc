//! Why a verb could not do its work: one sentence with what was attempted, on which object, and what to do.

use std::{fmt, io};

use setupkey_operator::{
    actions::rights,
    cluster::{call, kubeconfig},
};

/// How the client's error begins when there is no connection.
const NO_CONNECTION: &str = "ServiceError: client error (Connect): ";

/// Why a verb could not do its work.
#[derive(Debug)]
pub struct Failure {
    sentence: String,
    is_closed_pipe: bool,
}

impl Failure {
    /// A failure with this sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), is_closed_pipe: false }
    }

    /// Whether the reader of the output has closed its pipe.
    pub fn is_closed_pipe(&self) -> bool {
        self.is_closed_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let is_closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self { sentence: format!("the output cannot be written: {error}"), is_closed_pipe }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("the output cannot be made: {error}"))
    }
}

impl From<serde_yaml::Error> for Failure {
    fn from(error: serde_yaml::Error) -> Self {
        Self::new(format!("the output cannot be made: {error}"))
    }
}

impl From<kubeconfig::Error> for Failure {
    fn from(error: kubeconfig::Error) -> Self {
        Self::new(match error {
            kubeconfig::Error::None => {
                "there is no cluster to work with: give --kubeconfig, or set KUBECONFIG to a kubeconfig file".to_owned()
            }
            error => error.to_string(),
        })
    }
}

impl From<call::Error> for Failure {
    fn from(error: call::Error) -> Self {
        let attempt = error.attempt();
        if error.is_missing_resource() {
            return Self::new(format!(
                "could not {attempt}: the cluster has no such resource; install the CRDs of setupkey-operator, or choose another --context"
            ));
        }
        let why = error.why();
        Self::new(match error.code() {
            Some(401) => format!("could not {attempt}: the cluster does not accept your credentials; log in again"),
            Some(403) => match rights::missing(&why) {
                Some(right) => format!("could not {attempt}: {right}; ask an administrator for that right"),
                None => format!("could not {attempt}: {why}"),
            },
            _ => match why.strip_prefix(NO_CONNECTION) {
                Some(why) => format!("could not {attempt}: the API server cannot be reached: {why}"),
                None => format!("could not {attempt}: {why}"),
            },
        })
    }
}
