//! What a proxy does with each call.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use control_plane::netbird::{HttpClient, http_client};
use futures::{StreamExt, stream};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    calls::Call,
    faults::{Fault, Injection},
};

/// Long enough for the first half of an answer to leave before the connection is closed.
const HALFWAY: Duration = Duration::from_millis(50);

/// The reason to close a connection without an answer.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the connection is closed")
    }
}

impl std::error::Error for Broken {}

type Answer = Response<UnsyncBoxBody<Bytes, Broken>>;

/// The calls through a proxy.
pub(super) struct Traffic {
    upstream: String,
    client: HttpClient,
    arrived: AtomicUsize,
    pub calls: Mutex<Vec<Call>>,
    pub injections: Mutex<Vec<Injection>>,
}

impl Traffic {
    pub fn to(url: &str, authority: &str) -> Self {
        Self {
            upstream: url.to_owned(),
            client: http_client(authority),
            arrived: AtomicUsize::new(0),
            calls: Mutex::default(),
            injections: Mutex::default(),
        }
    }

    /// Serves a connection to its end. A connection carries many calls, one after another.
    pub async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(|request| Arc::clone(&self).answer(request));
        // It fails when a call is to get no answer, and when the client goes away.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Broken> {
        let (head, body) = request.into_parts();
        // The whole call must be here before a fault, as NetBird would have read it.
        let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
        let request = Request::from_parts(head, Full::from(body));
        let call = Call::of(&request, self.arrived.fetch_add(1, Ordering::Relaxed));
        let number = call.number;
        let due = self.due(&call);
        self.calls.lock().unwrap().push(call);

        let Some((injection, fault)) = due else {
            let answer = self.forward(number, request).await?;
            return Ok(self.sent(number, answer.map(whole)));
        };
        let late = matches!(fault, Fault::DropAfter | Fault::Replace(_) | Fault::PauseAfter | Fault::Cut);
        if !late {
            injection.count_hit();
        }
        match &fault {
            Fault::DropBefore => return Err(Broken),
            Fault::Silence => std::future::pending().await,
            Fault::Answer(canned) => return Ok(self.sent(number, canned.response().map(whole))),
            Fault::Delay(time) => tokio::time::sleep(*time).await,
            Fault::PauseBefore => injection.released().await,
            Fault::DropAfter | Fault::Replace(_) | Fault::PauseAfter | Fault::Cut => {}
        }
        let answer = self.forward(number, request).await?;
        if late {
            injection.count_hit();
        }
        match &fault {
            Fault::DropAfter => Err(Broken),
            Fault::Cut => Ok(self.sent(number, half(answer))),
            Fault::Replace(canned) => Ok(self.sent(number, canned.response().map(whole))),
            Fault::PauseAfter => {
                injection.released().await;
                Ok(self.sent(number, answer.map(whole)))
            }
            _ => Ok(self.sent(number, answer.map(whole))),
        }
    }

    /// The fault that this call meets. Every injection counts the call, so that "the n-th" does not depend on others.
    fn due(&self, call: &Call) -> Option<(Injection, Fault)> {
        let injections = self.injections.lock().unwrap();
        let mut due = None;
        for injection in injections.iter() {
            if let Some(fault) = injection.of(call) {
                due = due.or(Some((injection.clone(), fault)));
            }
        }
        due
    }

    /// Goes on when the client goes away, because NetBird has the call by then.
    async fn forward(
        self: &Arc<Self>,
        number: usize,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Broken> {
        self.note(number, |call| call.forwarded = true);
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = format!("{}{path}", self.upstream).parse().map_err(|_| Broken)?;
        strip(&mut head.headers);
        // The client sets it to the address of NetBird.
        head.headers.remove(header::HOST);
        let asked = self.client.request(Request::from_parts(head, body));
        let answer = tokio::spawn(async move {
            let (mut head, body) = asked.await.map_err(|_| Broken)?.into_parts();
            let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
            strip(&mut head.headers);
            Ok(Response::from_parts(head, body))
        });
        answer.await.map_err(|_| Broken)?
    }

    fn sent(&self, number: usize, answer: Answer) -> Answer {
        self.note(number, |call| call.status = Some(answer.status().as_u16()));
        answer
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut Call)) {
        // A test may have had the calls forgotten meanwhile.
        if let Some(call) = self.calls.lock().unwrap().iter_mut().rfind(|call| call.number == number) {
            change(call);
        }
    }
}

/// Removes what concerns one connection only.
fn strip(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

fn whole(body: Bytes) -> UnsyncBoxBody<Bytes, Broken> {
    Full::from(body).map_err(|never| match never {}).boxed_unsync()
}

/// The first half of the answer, under the length of the whole.
fn half(answer: Response<Bytes>) -> Answer {
    let (mut head, mut bytes) = answer.into_parts();
    head.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    let first = stream::iter([Ok(Frame::data(bytes.split_to(bytes.len() / 2)))]);
    let end = stream::once(async {
        tokio::time::sleep(HALFWAY).await;
        Err(Broken)
    });
    Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(first.chain(end))))
}
