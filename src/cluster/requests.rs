//! Metrics of the requests to the API server, counted by a layer of the client.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tower::{Layer, Service};

/// Counters and latencies of requests to the API server. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Requests {
    total: Family<RequestLabels, Counter>,
    seconds: Family<VerbLabels, Histogram>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    verb: &'static str,
    resource: &'static str,
    /// The HTTP status, or `error` when there was no answer.
    code: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct VerbLabels {
    verb: &'static str,
    resource: &'static str,
}

impl Default for Requests {
    fn default() -> Self {
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Self { total: Family::default(), seconds: Family::new_with_constructor(histogram) }
    }
}

impl Requests {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "setupkey_api_requests",
            "Requests to the Kubernetes API server, by verb, resource and HTTP status",
            self.total.clone(),
        );
        registry.register(
            "setupkey_api_request_duration_seconds",
            "Time until the Kubernetes API server began to answer; for a watch, until it began",
            self.seconds.clone(),
        );
    }

    /// The layer that counts the requests of a client.
    pub fn layer(&self) -> CountRequests {
        CountRequests(self.clone())
    }
}

/// The layer that counts the requests of a client.
#[derive(Clone, Debug)]
pub struct CountRequests(Requests);

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { inner, requests: self.0.clone() }
    }
}

/// A client whose requests are counted.
pub struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (resource, named) = resource(request.uri().path());
        let verb = verb(request.method(), named, request.uri().query().unwrap_or_default());
        let (requests, started) = (self.requests.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code =
                answer.as_ref().map_or_else(|_| "error".to_owned(), |answer| answer.status().as_str().to_owned());
            requests.total.get_or_create(&RequestLabels { verb, resource, code }).inc();
            let seconds = requests.seconds.get_or_create(&VerbLabels { verb, resource });
            seconds.observe(started.elapsed().as_secs_f64());
            answer
        })
    }
}

/// The resource in a path, and whether the path names one object.
fn resource(path: &str) -> (&'static str, bool) {
    const KNOWN: [&str; 5] = ["setupkeys", "peers", "secrets", "events", "leases"];
    let mut parts = path.split('/');
    let found = parts.find_map(|part| KNOWN.into_iter().find(|known| *known == part));
    let named = parts.next().is_some();
    match (found, parts.next()) {
        (Some("setupkeys"), Some("status")) => ("setupkeys/status", named),
        (Some("peers"), Some("status")) => ("peers/status", named),
        (Some(found), _) => (found, named),
        (None, _) => ("other", false),
    }
}

/// RBAC's verb for a request.
fn verb(method: &Method, named: bool, query: &str) -> &'static str {
    match *method {
        Method::GET if query.contains("watch=true") => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_rbac_names_them() {
        for (method, path, query, named) in [
            (Method::GET, "/api/v1/namespaces/n/secrets/s", "", ("get", "secrets")),
            (Method::GET, "/api/v1/secrets", "watch=true", ("watch", "secrets")),
            (Method::GET, "/apis/setupkey.dev/v1alpha1/setupkeys", "limit=500", ("list", "setupkeys")),
            (Method::POST, "/api/v1/namespaces/n/secrets", "", ("create", "secrets")),
            (
                Method::PATCH,
                "/apis/setupkey.dev/v1alpha1/namespaces/n/setupkeys/k/status",
                "",
                ("patch", "setupkeys/status"),
            ),
            (Method::GET, "/version", "", ("list", "other")),
        ] {
            let (resource, is_named) = resource(path);
            assert_eq!((verb(&method, is_named, query), resource), named, "{path}");
        }
    }
}
