//! A record of every request that a client sends.

use std::sync::{Arc, Mutex};

use http::{Method, Request};
use tower::{Layer, Service};

/// The requests sent so far. Cheap to clone; clones share the record.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<Vec<(Method, String)>>>);

impl Requests {
    /// Everything sent so far, as "METHOD /path?query", but for watches, lists and events.
    pub fn on_objects(&self) -> Vec<String> {
        let sent = self.0.lock().unwrap();
        let of_objects = sent.iter().filter(|(method, uri)| {
            let path = uri.split('?').next().unwrap_or_default();
            let list_or_watch = *method == Method::GET && (path.ends_with("/setupkeys") || path.ends_with("/secrets"));
            !list_or_watch && !path.ends_with("/events")
        });
        of_objects.map(|(method, uri)| format!("{method} {uri}")).collect()
    }

    /// Only those that change something.
    pub fn writes(&self) -> Vec<String> {
        self.on_objects().into_iter().filter(|request| !request.starts_with("GET")).collect()
    }

    /// Forgets what was sent.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl<S> Layer<S> for Requests {
    type Service = Recorded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Recorded { inner, requests: self.clone() }
    }
}

/// A client that is recorded.
#[derive(Clone)]
pub struct Recorded<S> {
    inner: S,
    requests: Requests,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Recorded<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let entry = (request.method().clone(), request.uri().to_string());
        self.requests.0.lock().unwrap().push(entry);
        self.inner.call(request)
    }
}
