//! A log of every request that passes, and of its answer.
//!
//! Tests ask it named questions, such as [`Requests::swaps`]. A method and a path in a test would go stale when the
//! product sends another method: the count would be 0, and an upper bound would always hold.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use tower::{Layer, Service};

/// The requests so far. Cheap to clone: clones share the log.
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

    /// Whether the request is a watch that begins with a list.
    pub fn is_streamed_list(&self) -> bool {
        self.query.contains("sendInitialEvents=true")
    }

    /// Whether the request lists all objects of a kind, in a page.
    pub fn is_list(&self) -> bool {
        let collections = ["/setupkeys", "/secrets", "/peers", "/authorities", "/clusterauthorities", "/namespaces"];
        let collection = collections.iter().any(|end| self.path.ends_with(end));
        self.method == Method::GET && collection && !self.is_watch()
    }

    /// Whether the request changes a SetupKey, a Secret or a Peer.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && !self.path.contains("/events")
    }

    /// Whether the request reads or writes one SetupKey, Secret or Peer.
    fn is_on_object(&self) -> bool {
        self.is_write() || (self.method == Method::GET && !self.is_list() && !self.is_watch())
    }

    /// Whether these are the last parts of the path.
    fn ends_with(&self, parts: &[&str]) -> bool {
        let path: Vec<_> = self.path.split('/').collect();
        path.ends_with(parts)
    }

    /// The SetupKey, Secret or Peer that the request is about, as "secrets/name". For a creation or a list, "secrets".
    fn object(&self) -> String {
        let parts: Vec<_> = self.path.split('/').collect();
        let at = parts.iter().position(|part| matches!(*part, "setupkeys" | "secrets" | "peers"));
        at.map(|at| parts[at..].iter().take(2).copied().collect::<Vec<_>>().join("/")).unwrap_or_default()
    }
}

impl fmt::Debug for Requests {
    /// Each request with the time since the first one.
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

    /// Every request that reads or writes one object, as "METHOD /path". Watches, lists and events are left out.
    pub fn on_objects(&self) -> Vec<String> {
        self.pick(|entry| entry.what.is_on_object())
    }

    /// The paths that were listed in pages.
    pub fn paged(&self) -> BTreeSet<String> {
        let entries = self.0.lock().unwrap();
        let pages =
            entries.iter().map(|entry| &entry.what).filter(|what| what.is_list() && what.query.contains("limit="));
        pages.map(|what| what.path.clone()).collect()
    }

    /// Only the requests that ask for a change.
    pub fn writes(&self) -> Vec<String> {
        self.pick(|entry| entry.what.is_write())
    }

    /// Only the requests that made a change.
    pub fn applied(&self) -> Vec<String> {
        self.pick(|entry| entry.what.is_write() && entry.status.is_some_and(|status| status < 300))
    }

    /// How many of these requests made a change.
    pub fn changes(&self, of: impl Fn(&Sent) -> bool) -> usize {
        self.pick(|entry| of(&entry.what) && entry.status.is_some_and(|status| status < 300)).len()
    }

    /// Writes of the status of a SetupKey, which holds the ledger. Those of a replica are swaps.
    pub fn swaps(&self, key: &str) -> usize {
        self.moments(|sent| sent.is_write() && sent.ends_with(&["setupkeys", key, "status"])).len()
    }

    /// Writes of the status of a Peer by a replica, which stores there when the Peer was seen.
    pub fn heartbeats(&self, peer: &str) -> usize {
        self.moments(|sent| sent.is_write() && sent.ends_with(&["peers", peer, "status"])).len()
    }

    /// Reads of single Peers.
    pub fn peer_look_ups(&self) -> usize {
        self.moments(|sent| sent.method == Method::GET && sent.object().starts_with("peers/")).len()
    }

    /// When Secrets were created, failed attempts included.
    pub fn secret_creations(&self) -> Vec<Instant> {
        self.moments(|sent| sent.method == Method::POST && sent.ends_with(&["secrets"]))
    }

    /// Writes of Secrets, as "METHOD /path".
    pub fn secret_writes(&self) -> Vec<String> {
        self.pick(|entry| entry.what.is_write() && entry.what.object().starts_with("secrets"))
    }

    fn moments(&self, wanted: impl Fn(&Sent) -> bool) -> Vec<Instant> {
        self.0.lock().unwrap().iter().filter(|entry| wanted(&entry.what)).map(|entry| entry.at).collect()
    }

    /// The largest number of requests on one object within any second, and that object. At least one request must be
    /// there.
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
        busiest.max().expect("a request on an object")
    }

    /// Forgets all requests so far.
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

/// A client whose requests are logged.
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

/// The questions find requests by what they do, not by how the API server spells them.
mod tests {
    use super::*;

    fn record(sent: &[(Method, &str)]) -> Requests {
        let requests = Requests::default();
        for (method, path) in sent {
            let request = Request::builder().method(method).uri(*path).body(()).unwrap();
            let entry = Entry { what: Sent::of(&request), at: Instant::now(), status: None };
            requests.0.lock().unwrap().push(entry);
        }
        requests
    }

    #[test]
    fn a_write_of_a_status_is_counted_whatever_its_verb() {
        let key = "/apis/setupkey.dev/v1alpha1/namespaces/n/setupkeys/office/status";
        let peer = "/apis/setupkey.dev/v1alpha1/namespaces/n/peers/peer-1/status";
        for verb in [Method::PUT, Method::PATCH] {
            let requests = record(&[(verb.clone(), key), (verb, peer), (Method::GET, key), (Method::GET, peer)]);
            assert_eq!((requests.swaps("office"), requests.swaps("of"), requests.swaps("peer-1")), (1, 0, 0));
            assert_eq!((requests.heartbeats("peer-1"), requests.heartbeats("office")), (1, 0));
        }
    }

    #[test]
    fn a_look_up_is_a_read_of_one_peer_and_a_creation_is_no_other_write() {
        let peers = "/apis/setupkey.dev/v1alpha1/namespaces/n/peers";
        let (peer, secrets) = (format!("{peers}/peer-1"), "/api/v1/namespaces/n/secrets");
        let secret = format!("{secrets}/office");
        let requests = record(&[
            (Method::GET, &peer),
            (Method::DELETE, &peer),
            (Method::POST, peers),
            (Method::GET, &format!("{peers}?watch=true")),
            (Method::GET, &format!("{peers}?limit=100")),
            (Method::POST, secrets),
            (Method::PATCH, &secret),
            (Method::GET, &secret),
        ]);
        assert_eq!((requests.peer_look_ups(), requests.secret_creations().len()), (1, 1));
        assert_eq!(requests.secret_writes(), [format!("POST {secrets}"), format!("PATCH {secret}")]);
    }
}
