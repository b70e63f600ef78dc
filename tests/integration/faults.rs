//! Faults between a controller and the API server, on demand: a layer under its client.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Layer, Service};

use crate::requests::Sent;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The controller dies before the request is sent.
    DieBefore,
    /// The controller dies after the request took effect and before the answer arrives.
    DieAfter,
    /// The request takes effect, and the connection breaks before the answer.
    LoseReply,
    /// The controller is paused just before the request is sent. It continues after [`Faults::let_late_ones_go`].
    Late,
    /// The API server answers with this status and does nothing.
    Answer(u16),
    /// The API server answers 429 and says when to retry.
    TooManyRequests {
        /// Seconds.
        retry_after: u32,
    },
    /// The API server refuses permanently, with a new message each time.
    Refusal,
    /// No answer arrives for this long. Then a gateway reports that it got none either.
    TimeOut(Duration),
}

/// How the watches deliver events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Watches {
    /// Events arrive as they happen.
    Flow,
    /// No event arrives.
    Held,
    /// The held events arrive now, but only the last one of each object.
    Coalesced,
    /// The held events never arrive: the API server answers that the resource version is too old.
    Lost,
}

/// The body of an answer, real or invented.
type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

type Script = Box<dyn FnMut(&Sent, Option<usize>) -> Option<Fault> + Send>;

/// The faults of one or more clients. Cheap to clone.
#[derive(Clone)]
pub struct Faults(Arc<State>);

struct State {
    script: Mutex<Script>,
    writes: AtomicUsize,
    died: CancellationToken,
    /// `late` is set when a request is held back, and `go` when it may continue.
    late: CancellationToken,
    go: CancellationToken,
    key_watch: watch::Sender<Watches>,
    secret_watch: watch::Sender<Watches>,
    peer_watch: watch::Sender<Watches>,
    /// The last answer to each list, and whether lists are answered with it again.
    lists: Mutex<HashMap<String, Bytes>>,
    in_the_past: watch::Sender<bool>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::by(|_, _| None)
    }
}

impl Faults {
    /// Faults by a script. The script gets each request, and its number if the request is a write.
    pub fn by(script: impl FnMut(&Sent, Option<usize>) -> Option<Fault> + Send + 'static) -> Self {
        Self(Arc::new(State {
            script: Mutex::new(Box::new(script)),
            writes: AtomicUsize::new(0),
            died: CancellationToken::new(),
            late: CancellationToken::new(),
            go: CancellationToken::new(),
            key_watch: watch::channel(Watches::Flow).0,
            secret_watch: watch::channel(Watches::Flow).0,
            peer_watch: watch::channel(Watches::Flow).0,
            lists: Mutex::default(),
            in_the_past: watch::channel(false).0,
        }))
    }

    /// One fault, at the n-th write (counted from 0).
    pub fn at_write(n: usize, fault: Fault) -> Self {
        Self::by(move |_, number| (number == Some(n)).then_some(fault))
    }

    /// No fault, but the SetupKey watch delivers nothing from the n-th write on.
    pub fn holding_the_key_watch_from_write(n: usize) -> Self {
        let faults = Self::default();
        let key_watch = faults.0.key_watch.clone();
        *faults.0.script.lock().unwrap() = Box::new(move |_, number| {
            if number == Some(n) {
                key_watch.send_replace(Watches::Held);
            }
            None
        });
        faults
    }

    /// Waits until a fault has killed the controller.
    pub async fn died(&self) {
        self.0.died.cancelled().await;
    }

    /// Waits until a request is held back.
    pub async fn late(&self) {
        self.0.late.cancelled().await;
    }

    pub fn let_late_ones_go(&self) {
        self.0.go.cancel();
    }

    /// Changes how the watches of SetupKeys and Secrets run.
    pub fn set_watches(&self, watches: Watches) {
        self.set_key_watch(watches);
        self.set_secret_watch(watches);
    }

    /// Changes how the watch of Secrets runs.
    pub fn set_secret_watch(&self, watches: Watches) {
        self.0.secret_watch.send_replace(watches);
    }

    /// Changes how the watch of SetupKeys runs.
    pub fn set_key_watch(&self, watches: Watches) {
        self.0.key_watch.send_replace(watches);
    }

    /// Changes how the watch of Peers runs.
    pub fn set_peer_watch(&self, watches: Watches) {
        self.0.peer_watch.send_replace(watches);
    }

    /// For a client that gets the same lists as an earlier client, and no events after them.
    pub fn in_the_past_of(other: &Self) -> Self {
        let faults = Self::default();
        *faults.0.lists.lock().unwrap() = other.0.lists.lock().unwrap().clone();
        faults.0.in_the_past.send_replace(true);
        faults.set_watches(Watches::Held);
        faults
    }

    /// Returns to the present. The watches cannot resume, so everything is re-listed.
    pub fn return_to_the_present(&self) {
        self.0.in_the_past.send_replace(false);
        self.set_watches(Watches::Lost);
    }
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Faulty { inner, faults: self.clone() }
    }
}

/// A client with faults.
pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

impl<S, B> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<AnyBody>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let faults = self.faults.clone();
        let state = Arc::clone(&faults.0);
        if state.died.is_cancelled() {
            return Box::pin(std::future::pending());
        }
        let sent = Sent::of(&request);
        let number = sent.is_write().then(|| state.writes.fetch_add(1, Ordering::SeqCst));
        let fault = state.script.lock().unwrap()(&sent, number);
        match fault {
            Some(Fault::DieBefore) => {
                state.died.cancel();
                Box::pin(std::future::pending())
            }
            Some(Fault::Late) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    state.late.cancel();
                    state.go.cancelled().await;
                    Ok(answer.await?.map(any))
                })
            }
            Some(Fault::Answer(code)) => Box::pin(async move { Ok(failure(code, None)) }),
            Some(Fault::TooManyRequests { retry_after }) => {
                Box::pin(async move { Ok(failure(429, Some(retry_after))) })
            }
            Some(Fault::Refusal) => Box::pin(async move {
                let message = format!("denied by request {:016x}", rand::random::<u64>());
                Ok(failure_saying(403, &message, None))
            }),
            Some(Fault::TimeOut(after)) => Box::pin(async move {
                tokio::time::sleep(after).await;
                Ok(failure(504, None))
            }),
            Some(Fault::DieAfter) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let _ = answer.await;
                    state.died.cancel();
                    std::future::pending().await
                })
            }
            Some(Fault::LoseReply) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let _ = answer.await;
                    Err("the connection was reset".into())
                })
            }
            None => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await?.map(any);
                    match () {
                        () if sent.is_watch() => Ok(answer.map(|body| faults.rule_over(body, &sent))),
                        () if sent.is_list() => faults.list(sent, answer).await,
                        () => Ok(answer),
                    }
                })
            }
        }
    }
}

impl Faults {
    async fn list(&self, sent: Sent, answer: Response<AnyBody>) -> Result<Response<AnyBody>, BoxError> {
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut lists = self.0.lists.lock().unwrap();
        let past = *self.0.in_the_past.borrow();
        let body = match lists.get(&sent.path) {
            Some(old) if past => old.clone(),
            _ => body,
        };
        lists.insert(sent.path, body.clone());
        Ok(Response::from_parts(head, whole(body)))
    }

    /// The line of a streamed list, or what it was in the past.
    fn listed(&self, sent: &Sent, list: &mut Vec<u8>, line: &[u8]) -> Option<Bytes> {
        list.extend_from_slice(line);
        let past = *self.0.in_the_past.borrow();
        if !is_end_of_list(line) {
            return (!past).then(|| Bytes::copy_from_slice(line));
        }
        let mut lists = self.0.lists.lock().unwrap();
        match lists.get(&sent.path) {
            Some(old) if past => Some(old.clone()),
            _ => {
                lists.insert(sent.path.clone(), std::mem::take(list).into());
                Some(Bytes::copy_from_slice(line))
            }
        }
    }

    /// Delivers the events of a watch as the present mode says. A list that is streamed first is delivered in any mode.
    fn rule_over(&self, body: AnyBody, sent: &Sent) -> AnyBody {
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        let mode = match () {
            () if sent.path.ends_with("/secrets") => &self.0.secret_watch,
            () if sent.path.ends_with("/peers") => &self.0.peer_watch,
            () => &self.0.key_watch,
        };
        let mut mode = mode.subscribe();
        let died = self.0.died.clone();
        let (faults, sent, mut listing) = (self.clone(), sent.clone(), sent.is_streamed_list());
        tokio::spawn(async move {
            let mut body = body;
            let mut list = Vec::new();
            let (mut partial, mut held) = (Vec::new(), Vec::<Vec<u8>>::new());
            loop {
                let frame = tokio::select! {
                    () = died.cancelled() => return,
                    changed = mode.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let now = *mode.borrow();
                        match now {
                            Watches::Held => continue,
                            Watches::Flow => {}
                            Watches::Coalesced => held = last_of_each(held),
                            Watches::Lost => {
                                let _ = sender.send(gone());
                                return;
                            }
                        }
                        for line in held.drain(..) {
                            let _ = sender.send(line.into());
                        }
                        continue;
                    }
                    frame = body.frame() => frame,
                };
                let Some(Ok(frame)) = frame else { return };
                let Ok(data) = frame.into_data() else { continue };
                partial.extend_from_slice(&data);
                while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = partial.drain(..=end).collect();
                    if listing {
                        listing = !is_end_of_list(&line);
                        if let Some(line) = faults.listed(&sent, &mut list, &line)
                            && sender.send(line).is_err()
                        {
                            return;
                        }
                    } else if *mode.borrow() == Watches::Held {
                        held.push(line);
                    } else if sender.send(line.into()).is_err() {
                        return;
                    }
                }
            }
        });
        let lines = stream::unfold(receiver, |mut lines| async move { Some((lines.recv().await?, lines)) });
        StreamBody::new(lines.map(|line| Ok(Frame::data(line)))).boxed_unsync()
    }
}

/// Only the last event of each object, in the order of these events.
fn last_of_each(lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let name = |line: &[u8]| {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        event["object"]["metadata"]["name"].as_str().map(str::to_owned)
    };
    let names: Vec<_> = lines.iter().map(|line| name(line)).collect();
    let is_last = |at: usize| !names[at + 1..].contains(&names[at]);
    lines.into_iter().enumerate().filter(|(at, _)| is_last(*at)).map(|(_, line)| line).collect()
}

fn any<B>(body: B) -> AnyBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

fn whole(body: Bytes) -> AnyBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn status(code: u16, message: &str, retry_after: Option<u32>) -> Value {
    let reason = match code {
        409 => "Conflict",
        403 => "Forbidden",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": message,
        "details": { "retryAfterSeconds": retry_after.unwrap_or_default() },
    })
}

fn failure(code: u16, retry_after: Option<u32>) -> Response<AnyBody> {
    failure_saying(code, &format!("injected {code}"), retry_after)
}

fn failure_saying(code: u16, message: &str, retry_after: Option<u32>) -> Response<AnyBody> {
    let mut response = Response::new(whole(status(code, message, retry_after).to_string().into()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
    response
}

/// Whether this event says that a streamed list is complete.
fn is_end_of_list(line: &[u8]) -> bool {
    let mark = b"k8s.io/initial-events-end";
    line.starts_with(br#"{"type":"BOOKMARK""#) && line.windows(mark.len()).any(|part| part == mark)
}

/// The event with which the API server ends a watch that cannot resume.
fn gone() -> Bytes {
    let event = json!({ "type": "ERROR", "object": status(410, "too old resource version", None) });
    format!("{event}\n").into_bytes().into()
}
