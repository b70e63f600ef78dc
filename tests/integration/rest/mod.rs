//! NetBird's REST API over SetupKeys, on a real control plane.

mod at_netbird;
mod callers;
mod contract;
mod differential;
mod keys;
mod lists;
mod netbird_client;
mod outages;
mod tokens;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use setupkey_operator::{
    rest::{self, Service},
    serve::Limits,
};
use tower::ServiceExt;

use crate::harness::{Cluster, TestClock, admin_config};

/// Longer than a creation takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service for the namespace of a test. It runs with the administrator's configuration, so a request with the
/// service's own credentials would be granted everything.
struct Rest {
    router: Router,
}

/// An answer to a client.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// JSON, or text if it is not JSON.
    body: Value,
}

impl Rest {
    async fn of(cluster: &Cluster) -> Self {
        Self::with_patience(cluster, PATIENCE).await
    }

    async fn with_patience(cluster: &Cluster, patience: Duration) -> Self {
        Self::with(cluster, patience, TestClock::default()).await
    }

    async fn with_clock(cluster: &Cluster, clock: TestClock) -> Self {
        Self::with(cluster, PATIENCE, clock).await
    }

    async fn with(cluster: &Cluster, patience: Duration, clock: TestClock) -> Self {
        let config = admin_config().await;
        assert!(config.auth_info.token.is_some(), "the service has no token that a caller could borrow");
        Self::at(&config, &cluster.namespace, patience, clock)
    }

    fn at(config: &kube::Config, namespace: &str, patience: Duration, clock: TestClock) -> Self {
        let cluster = rest::Cluster::without_identity(config, namespace.to_owned()).unwrap();
        let service = Service { cluster, clock: Arc::new(clock), patience, requests: Default::default() };
        let limits = Limits { request: PATIENCE * 2, ..Limits::default() };
        Self { router: rest::router(service, &limits) }
    }

    /// Sends a request with this token.
    async fn ask(&self, token: &str, call: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(Some(&format!("Bearer {token}")), call, &body).await
    }

    /// Sends a request unchanged. The call is method and path.
    async fn send(&self, authorization: Option<&str>, call: &str, body: &str) -> Answer {
        let (method, path) = call.split_once(' ').expect("a method and a path");
        let request = Request::builder().method(method).uri(path);
        let request = authorization.into_iter().fold(request, |request, value| request.header("Authorization", value));
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

impl Answer {
    /// The body of the answer, which must be a success.
    fn granted(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    /// The message of the answer, which must be an error in NetBird's form with this code.
    fn refused(&self, code: u16) -> &str {
        assert_eq!((self.status.as_u16(), &self.body["code"]), (code, &json!(code)), "{}", self.body);
        assert_eq!(self.body.as_object().map(|fields| fields.len()), Some(2), "{}", self.body);
        self.body["message"].as_str().expect("a message")
    }

    fn warning(&self) -> &str {
        self.headers.get("Warning").map(|warning| warning.to_str().unwrap()).unwrap_or_default()
    }
}

/// A valid request to create a key.
fn a_key(name: &str) -> Value {
    json!({ "name": name, "type": "reusable", "expires_in": 86400, "auto_groups": [], "usage_limit": 0 })
}

/// A request to change a key.
fn a_change(revoked: bool, groups: &[&str]) -> Value {
    json!({ "revoked": revoked, "auto_groups": groups })
}

fn path(id: &Value) -> String {
    format!("/api/setup-keys/{}", id.as_str().expect("an id"))
}
