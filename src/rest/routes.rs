//! The five calls, and the answer to any other.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRequestParts, Path, Request, State, rejection::BytesRejection},
    http::{
        HeaderName, HeaderValue, Method, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
        request::Parts,
    },
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use secrecy::zeroize::Zeroizing;
use serde_json::json;

use super::{
    caller::{Caller, Cluster},
    keys::CallerKeys,
    listing::Lists,
    refusal::{self, JSON_UTF8, Refusal},
    translate,
    wire::{self, JSON},
};
use crate::{
    actions::gitops,
    api::SetupKey,
    authority::netbird::json::SetupKeyAnswer,
    cluster::Clock,
    key::{KeyId, KeyValue},
    serve::{Limits, metrics::HttpRequests},
};

const WARNING: HeaderName = HeaderName::from_static("warning");

/// What the handlers of the calls need.
#[derive(Clone)]
pub struct Service {
    /// The connection to the API server, and the namespace that is served.
    pub cluster: Cluster,
    /// The clock that decides whether a key has expired.
    pub clock: Arc<dyn Clock>,
    /// How long a creation waits for the controller to issue the key, and a change or deletion of a key at an authority for
    /// the authority.
    pub patience: Duration,
    /// The counters of the calls.
    pub requests: HttpRequests,
}

/// The API, within these limits.
pub fn router(service: Service, limits: &Limits) -> Router {
    let requests = service.requests.clone();
    let lists = Lists::default();
    let list = move |service: State<Service>, caller: Caller| list(service, caller, lists);
    let calls = Router::new()
        .route("/api/setup-keys", get(list).post(create))
        .route("/api/setup-keys/{id}", get(read).put(update).delete(remove))
        .method_not_allowed_fallback(page_not_found)
        .fallback(page_not_found)
        .with_state(service);
    limits.apply(calls).layer(from_fn(in_netbirds_form)).layer(from_fn_with_state(requests, HttpRequests::count))
}

impl Service {
    fn keys_of(&self, caller: &Caller) -> CallerKeys {
        CallerKeys::new(self.cluster.client_of(caller), self.cluster.namespace())
    }

    /// The answer that shows this key, which the client knows by `id`.
    fn answer(&self, key: &SetupKey, id: &KeyId) -> Result<Response, Refusal> {
        let answer = translate::answer(key, self.clock.now()).ok_or_else(|| Refusal::NotFound(id.to_string()))?;
        Ok(([(CONTENT_TYPE, JSON)], Json(answer)).into_response())
    }
}

/// The id in the path. What cannot be one reaches neither the API server nor a log: it may be a key, put there by mistake.
struct InPath(KeyId);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = path.map_err(|_| Refusal::NotAnId)?;
        KeyId::parse(&id).map(Self).ok_or(Refusal::NotAnId)
    }
}

async fn list(State(service): State<Service>, caller: Caller, lists: Lists) -> Result<Response, Refusal> {
    lists.answer(&service.keys_of(&caller), service.clock.now()).await
}

async fn read(State(service): State<Service>, caller: Caller, InPath(id): InPath) -> Result<Response, Refusal> {
    let key = service.keys_of(&caller).find(&id).await?;
    service.answer(&key, &id)
}

async fn create(
    State(service): State<Service>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let key = translate::created(wire::read(&body?)?)?;
    let (key, value) = service.keys_of(&caller).create(&key, service.patience).await?;
    let name = key.metadata.name.clone().unwrap_or_default();
    let answer = translate::answer(&key, service.clock.now()).ok_or(Refusal::NotFound(name))?;
    Ok(showing(&value, answer))
}

/// The answer to a creation, with the whole key. The memory of its body is wiped once it is sent.
fn showing<'a>(value: &'a KeyValue, mut answer: SetupKeyAnswer<'a>) -> Response {
    // Large enough from the start, because a buffer that grows leaves copies behind.
    let without_key = serde_json::to_vec(&answer).expect("an answer is plain data");
    let mut body = Zeroizing::new(Vec::with_capacity(without_key.len() + value.expose().len()));
    answer.key = value.expose();
    serde_json::to_writer(&mut *body, &answer).expect("an answer is plain data");
    ([(CONTENT_TYPE, JSON_UTF8)], Bytes::from_owner(body)).into_response()
}

async fn update(
    State(service): State<Service>,
    caller: Caller,
    InPath(id): InPath,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let change = translate::changed(wire::read(&body?)?)?;
    let changed = service.keys_of(&caller).change(&id, &change, service.patience).await?;
    Ok(with_warning(
        service.answer(&changed, &id)?,
        &changed,
        "will put revoked and auto_groups back; change them in Git",
    ))
}

async fn remove(State(service): State<Service>, caller: Caller, InPath(id): InPath) -> Result<Response, Refusal> {
    let deleted = service.keys_of(&caller).delete(&id, service.patience).await?;
    let response = ([(CONTENT_TYPE, JSON_UTF8)], Json(json!({}))).into_response();
    Ok(with_warning(response, &deleted, "will create it again, with another key; delete it in Git"))
}

/// Adds a warning if a GitOps tool is going to revert the change.
fn with_warning(mut response: Response, key: &SetupKey, what: &str) -> Response {
    if let Some(tool) = gitops::managed_by(&key.metadata) {
        let name = key.metadata.name.as_deref().unwrap_or_default();
        let warning = format!("299 setupkey-operator \"{tool} manages SetupKey {name} and {what}\"");
        if let Ok(warning) = HeaderValue::try_from(warning) {
            response.headers_mut().insert(WARNING, warning);
        }
    }
    response
}

/// The answer of Go's router, which NetBird uses.
async fn page_not_found() -> Response {
    let headers = [(X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

/// Applies to every answer: HEAD is not found, as with NetBird; no answer may be cached; and every error has NetBird's
/// form, also those of the limits.
async fn in_netbirds_form(request: Request, next: Next) -> Response {
    if request.method() == Method::HEAD {
        return page_not_found().await;
    }
    let mut response = next.run(request).await;
    let status = response.status();
    let formed = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == JSON_UTF8);
    if (status.is_client_error() || status.is_server_error()) && !formed && status != StatusCode::NOT_FOUND {
        let reason = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "the request body is too large",
            StatusCode::SERVICE_UNAVAILABLE => "the request took too long",
            _ => status.canonical_reason().unwrap_or("the request cannot be answered"),
        };
        response = refusal::answer(status, reason);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
