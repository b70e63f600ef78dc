//! What can go wrong with a call to NetBird, and with which calls it does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Response;
use hyper::body::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::calls::Call;

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection is closed. NetBird does not hear of the call.
    DropBefore,
    /// NetBird answers the call, and the connection is closed in place of the answer.
    DropAfter,
    /// The call is passed on after this long.
    Delay(Duration),
    /// No answer, ever. NetBird does not hear of the call.
    Silence,
    /// The connection is closed in the middle of NetBird's answer.
    Cut,
    /// This answer, and NetBird does not hear of the call.
    Answer(Canned),
    /// NetBird answers the call, and this answer takes the place of its own.
    Replace(Canned),
    /// The call is held until [`Injection::release`], and then passed on. If the client goes away first, NetBird does
    /// not hear of the call.
    PauseBefore,
    /// NetBird answers the call. The answer is held until [`Injection::release`]. Without a release, the client's own
    /// limit ends the wait.
    PauseAfter,
}

/// Which of the calls that match get the fault.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    Every,
    First(usize),
    /// Counted from 0.
    Nth(usize),
}

impl Which {
    fn has(self, number: usize) -> bool {
        match self {
            Self::Every => true,
            Self::First(count) => number < count,
            Self::Nth(nth) => number == nth,
        }
    }
}

/// An invented answer.
#[derive(Clone, Debug)]
pub struct Canned {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Canned {
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { status, headers: vec![("content-type", content_type.to_owned())], body: body.into() }
    }

    /// A refusal in NetBird's form.
    pub fn refusal(status: u16, message: &str) -> Self {
        let body = serde_json::json!({ "message": message, "code": status });
        Self::new(status, "application/json; charset=UTF-8", body.to_string())
    }

    /// 429. NetBird itself sends no Retry-After.
    pub fn too_many_requests(retry_after: Option<&str>) -> Self {
        let mut answer = Self::refusal(429, "too many requests");
        answer.headers.extend(retry_after.map(|value| ("retry-after", value.to_owned())));
        answer
    }

    /// The page of a proxy or of a login form.
    pub fn page(status: u16) -> Self {
        Self::new(status, "text/html", "<!doctype html><title>Hello</title><p>This is not NetBird.")
    }

    pub fn redirect(location: &str) -> Self {
        let mut answer = Self::new(302, "text/html", "");
        answer.headers.push(("location", location.to_owned()));
        answer
    }

    pub(super) fn response(&self) -> Response<Bytes> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(*name, value);
        }
        response.body(self.body.clone()).expect("a test invents valid answers")
    }
}

type Matches = dyn Fn(&Call) -> bool + Send + Sync;

/// A fault that calls meet. Cheap to clone. The fault stays when this value is dropped.
#[derive(Clone)]
pub struct Injection {
    matches: Arc<Matches>,
    which: Which,
    fault: Fault,
    seen: watch::Sender<usize>,
    hits: watch::Sender<usize>,
    released: CancellationToken,
    removed: Arc<AtomicBool>,
}

impl Injection {
    pub(super) fn new(matches: impl Fn(&Call) -> bool + Send + Sync + 'static, which: Which, fault: Fault) -> Self {
        Self {
            matches: Arc::new(matches),
            which,
            fault,
            seen: watch::Sender::new(0),
            hits: watch::Sender::new(0),
            released: CancellationToken::new(),
            removed: Arc::default(),
        }
    }

    /// How many calls have met the fault.
    pub fn hits(&self) -> usize {
        *self.hits.borrow()
    }

    /// Waits until this many calls have met the fault. For a pause *after* a call, NetBird has answered by then.
    pub async fn hit(&self, count: usize) {
        self.hits.subscribe().wait_for(|hits| *hits >= count).await.expect("this value holds the sender");
    }

    /// Lets the paused calls go on, and those to come.
    pub fn release(&self) {
        self.released.cancel();
    }

    /// No call meets this fault any more. Paused calls stay paused.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }

    pub(super) async fn released(&self) {
        self.released.cancelled().await;
    }

    /// Counts the call if it matches. Returns the fault if this call gets it.
    pub(super) fn of(&self, call: &Call) -> Option<Fault> {
        if self.removed.load(Ordering::Relaxed) || !(self.matches)(call) {
            return None;
        }
        let mut number = 0;
        self.seen.send_modify(|seen| {
            number = *seen;
            *seen += 1;
        });
        self.which.has(number).then(|| self.fault.clone())
    }

    pub(super) fn count_hit(&self) {
        self.hits.send_modify(|hits| *hits += 1);
    }
}
