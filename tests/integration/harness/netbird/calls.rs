//! The calls that a proxy has seen. No header and no body is kept, so no token and no key.

use std::{fmt, time::Instant};

use http::{Method, Request};

/// A call, as it came in.
#[derive(Clone, Debug)]
pub struct Call {
    /// In the order of arrival at this proxy, from 0.
    pub number: usize,
    pub method: Method,
    pub path: String,
    pub query: String,
    pub at: Instant,
    /// Whether NetBird heard of it.
    pub forwarded: bool,
    /// The status that the client was sent, if it was sent one.
    pub status: Option<u16>,
}

/// The collections whose members have ids.
const COLLECTIONS: &[&str] = &["setup-keys", "groups", "peers", "users", "tokens"];

impl Call {
    pub(super) fn of<B>(request: &Request<B>, number: usize) -> Self {
        let uri = request.uri();
        Self {
            number,
            method: request.method().clone(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            at: Instant::now(),
            forwarded: false,
            status: None,
        }
    }

    /// Such as `DELETE /api/setup-keys/{id}`.
    pub fn route(&self) -> String {
        let mut parts: Vec<&str> = self.path.split('/').collect();
        for index in 1..parts.len() {
            if COLLECTIONS.contains(&parts[index - 1]) && !parts[index].is_empty() {
                parts[index] = "{id}";
            }
        }
        format!("{} {}", self.method, parts.join("/"))
    }

    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heard = if self.forwarded { "" } else { ", not passed on" };
        match self.status {
            Some(status) => write!(formatter, "{} {}: {status}{heard}", self.method, self.path),
            None => write!(formatter, "{} {}: no answer{heard}", self.method, self.path),
        }
    }
}

/// The calls of a route, such as `POST /api/setup-keys`.
pub fn on(route: &'static str) -> impl Fn(&Call) -> bool + Send + Sync + 'static {
    move |call| call.route() == route
}

pub fn any_call(_: &Call) -> bool {
    true
}
