//! A record of every request that passes, and of the answer.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use tower::{Layer, Service};

/// The requests so far. Cheap to clone; clones share the record.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<Vec<Entry>>>);

struct Entry {
    what: Sent,
    at: Instant,
    status: Option<u16>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Sent {
    pub method: Method,
    pub path: String,
    pub query: String,
}

impl Sent {
    pub fn of<B>(request: &Request<B>) -> Self {
        let uri = request.uri();
        Self {
            method: request.method().clone(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
        }
    }

    pub fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }

    /// Whether it asks for all objects of a kind.
    pub fn is_list(&self) -> bool {
        let collection = ["/setupkeys", "/secrets", "/peers"].iter().any(|end| self.path.ends_with(end));
        self.method == Method::GET && collection && !self.is_watch()
    }

    /// Whether it changes a SetupKey, a Secret or a Peer.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && !self.path.contains("/events")
    }

    /// Whether it reads or writes one SetupKey, Secret or Peer.
    fn is_on_object(&self) -> bool {
        self.is_write() || (self.method == Method::GET && !self.is_list() && !self.is_watch())
    }

    /// The name of the SetupKey, Secret or Peer, or what it is a request for.
    fn object(&self) -> String {
        let parts: Vec<_> = self.path.split('/').collect();
        let at = parts.iter().position(|part| matches!(*part, "setupkeys" | "secrets" | "peers"));
        at.map(|at| parts[at..].iter().take(2).copied().collect::<Vec<_>>().join("/")).unwrap_or_default()
    }
}

impl fmt::Debug for Requests {
    /// What was sent when, since the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.0.lock().unwrap();
        let lines = entries.iter().map(|entry| {
            let after = entry.at - entries[0].at;
            format!("{after:?}: {} {} {:?}", entry.what.method, entry.what.path, entry.status)
        });
        f.debug_list().entries(lines).finish()
    }
}

impl Requests {
    fn pick(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<String> {
        let entries = self.0.lock().unwrap();
        let picked = entries.iter().filter(|entry| wanted(entry));
        picked.map(|entry| format!("{} {}", entry.what.method, entry.what.path)).collect()
    }

    /// Everything that reads or writes one object, as "METHOD /path"; no watches, lists and events.
    pub fn on_objects(&self) -> Vec<String> {
        self.pick(|entry| entry.what.is_on_object())
    }

    /// Only those that ask for a change.
    pub fn writes(&self) -> Vec<String> {
        self.pick(|entry| entry.what.is_write())
    }

    /// Only those that made a change.
    pub fn applied(&self) -> Vec<String> {
        self.pick(|entry| entry.what.is_write() && entry.status.is_some_and(|status| status < 300))
    }

    /// When requests with this method and end of path were sent.
    pub fn times(&self, method: &str, ending: &str) -> Vec<Instant> {
        let entries = self.0.lock().unwrap();
        let picked = entries.iter().filter(|entry| entry.what.method == method && entry.what.path.ends_with(ending));
        picked.map(|entry| entry.at).collect()
    }

    /// The most requests on one object within any second, and on which.
    pub fn busiest_second(&self) -> (usize, String) {
        let mut moments: HashMap<String, Vec<Instant>> = HashMap::new();
        for entry in self.0.lock().unwrap().iter().filter(|entry| entry.what.is_on_object()) {
            moments.entry(entry.what.object()).or_default().push(entry.at);
        }
        let within_a_second = |moments: &[Instant]| {
            let until = moments[0] + Duration::from_secs(1);
            moments.iter().take_while(|at| **at < until).count()
        };
        let busiest = moments.into_iter().map(|(object, moments)| {
            let counts = (0..moments.len()).map(|from| within_a_second(&moments[from..]));
            (counts.max().unwrap_or_default(), object)
        });
        busiest.max().unwrap_or_default()
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
pub struct Recorded<S> {
    inner: S,
    requests: Requests,
}

impl<S, A, B> Service<Request<A>> for Recorded<S>
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
        let requests = self.requests.clone();
        let place = {
            let mut entries = requests.0.lock().unwrap();
            entries.push(Entry { what: Sent::of(&request), at: Instant::now(), status: None });
            entries.len() - 1
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let (Ok(answer), Some(entry)) = (&answer, requests.0.lock().unwrap().get_mut(place)) {
                entry.status = Some(answer.status().as_u16());
            }
            answer
        })
    }
}
