//! The routes, each with its description in OpenAPI.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Path, State, rejection::PathRejection},
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use secrecy::zeroize::Zeroize;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Service,
    admission::Outcome,
    answer::Answer,
    limits,
    openapi::{self, ByName, Called, CalledByName, Document, InNamespace, NotEnrolled},
    request::{digest_of_token, is_token, parse},
    service::Named,
};
use crate::{
    cluster::pages::is_too_large,
    key::{
        Digest,
        ledger::{Applicant, Refusal},
    },
    protocol::{EnrollRequest, Enrolled},
    serve,
};

fn routes() -> OpenApiRouter<Arc<Service>> {
    let mut router = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(enroll))
        .routes(routes!(heartbeat))
        .routes(routes!(leave))
        .routes(routes!(heartbeat_by_name))
        .routes(routes!(leave_by_name));
    openapi::close_answers(router.get_openapi_mut());
    router
}

/// The description of the calls, in OpenAPI.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().to_openapi()
}

impl Service {
    /// The routes of this service.
    pub fn router(self: &Arc<Self>) -> Router {
        let (router, document) = routes().split_for_parts();
        let requests = self.metrics.http.clone();
        let router = router
            .route("/openapi.json", get(async move || Json(document)))
            .method_not_allowed_fallback(async || Answer::NoSuchMethod)
            .fallback(async || Answer::NoSuchPath)
            .with_state(Arc::clone(self));
        let router = limits().apply(router).layer(middleware::map_response(in_our_form));
        router.layer(middleware::from_fn_with_state(requests, serve::metrics::HttpRequests::count))
    }
}

/// Gives the answers of the limits the form of all others.
async fn in_our_form(response: Response) -> Response {
    if response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
        return response;
    }
    match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Answer::TooLong.into_response(),
        StatusCode::SERVICE_UNAVAILABLE => Answer::Not(Refusal::Busy).into_response(),
        _ => response,
    }
}

/// Admit a machine
///
/// The same public key and token get the same answer, and use the key once. A machine that is already a peer gets this answer
/// even if the key no longer admits machines.
#[utoipa::path(
    post, path = "/v1/enroll", request_body = EnrollRequest,
    responses((status = 200, description = "The machine is a peer", body = Enrolled), NotEnrolled)
)]
async fn enroll(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    body: Body,
) -> Response {
    let answer = match axum::body::to_bytes(body, limits().body).await {
        Err(error) if is_too_large(&error) => Answer::TooLong,
        // The client has sent half a body, or broken chunks.
        Err(_) => Answer::Unreadable,
        Ok(body) => {
            let parsed = parse(&body);
            wipe(body);
            match parsed {
                Err(complaint) => {
                    service.metrics.enrolled("invalid");
                    Answer::Wrong(complaint)
                }
                Ok(applicant) => join(&service, applicant, address.ip()).await,
            }
        }
    };
    finish(&service, address.ip(), answer)
}

/// Decides first and limits afterwards: a good key is never turned away for the failures of other machines behind its
/// address. Deciding costs the API server nothing, except where a refusal takes a look-up. An address that is limited gets
/// none of these.
async fn join(service: &Service, applicant: Applicant, address: IpAddr) -> Answer {
    if let Some(wait) = service.wait(address)
        && service.refuses_by_look_up(&applicant)
    {
        return Answer::Limited(wait);
    }
    let outcome = service.enroll(applicant).await;
    log(&outcome, address);
    outcome.into()
}

/// Send a heartbeat
///
/// An ephemeral peer that sends none for 10 minutes is removed. One a minute is a good rate.
#[utoipa::path(
    post, path = "/v1/namespaces/{namespace}/peers/{name}/heartbeat", params(InNamespace),
    security(("token" = [])), responses(Called)
)]
async fn heartbeat(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    path: InPath<InNamespace>,
    headers: HeaderMap,
) -> Response {
    seen(&service, address.ip(), path.as_ref().ok().map(|Path(peer)| peer.into()), &headers).await
}

/// Send a heartbeat, by name
///
/// Like the call with the namespace, if the peer's name and token are unique among all namespaces. Use that call instead.
#[utoipa::path(
    post, path = "/v1/peers/{name}/heartbeat", params(ByName),
    security(("token" = [])), responses(CalledByName)
)]
async fn heartbeat_by_name(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    path: InPath<ByName>,
    headers: HeaderMap,
) -> Response {
    seen(&service, address.ip(), path.as_ref().ok().map(|Path(peer)| peer.into()), &headers).await
}

/// Leave
#[utoipa::path(
    delete, path = "/v1/namespaces/{namespace}/peers/{name}", params(InNamespace),
    security(("token" = [])), responses(Called)
)]
async fn leave(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    path: InPath<InNamespace>,
    headers: HeaderMap,
) -> Response {
    left(&service, address.ip(), path.as_ref().ok().map(|Path(peer)| peer.into()), &headers).await
}

/// Leave, by name
///
/// Like the call with the namespace, if the peer's name and token are unique among all namespaces. Use that call instead.
#[utoipa::path(
    delete, path = "/v1/peers/{name}", params(ByName),
    security(("token" = [])), responses(CalledByName)
)]
async fn leave_by_name(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    path: InPath<ByName>,
    headers: HeaderMap,
) -> Response {
    left(&service, address.ip(), path.as_ref().ok().map(|Path(peer)| peer.into()), &headers).await
}

/// A path may hold what is not UTF-8. No Peer has such a name.
type InPath<T> = Result<Path<T>, PathRejection>;

async fn seen(service: &Service, address: IpAddr, peer: Option<Named<'_>>, headers: &HeaderMap) -> Response {
    let answer = match (bearer(headers), peer) {
        (None, _) => Answer::NoToken,
        (Some(_), None) => Answer::Unknown,
        (Some(token), Some(peer)) => service.heartbeat(peer, &token).await.into(),
    };
    finish(service, address, answer)
}

async fn left(service: &Service, address: IpAddr, peer: Option<Named<'_>>, headers: &HeaderMap) -> Response {
    let answer = match (bearer(headers), peer) {
        (None, _) => Answer::NoToken,
        (Some(_), None) => Answer::Unknown,
        (Some(token), Some(peer)) => service.leave(peer, &token).await.into(),
    };
    finish(service, address, answer)
}

/// Overwrites a body, which holds a key and a token. Part of a buffer that hyper still uses is left as it is.
fn wipe(body: Bytes) {
    if let Ok(mut body) = body.try_into_mut() {
        body.as_mut().zeroize();
    }
}

/// Logs a machine that joined. One that did not is logged at debug only, or strangers could fill the log.
fn log(outcome: &Outcome, address: IpAddr) {
    match outcome {
        Outcome::Joined { peer, admitted: true } => {
            tracing::info!(namespace = peer.namespace, peer = peer.name, %address, "a machine has joined");
        }
        Outcome::Joined { peer, admitted: false } => {
            tracing::debug!(namespace = peer.namespace, peer = peer.name, %address, "a peer has asked again");
        }
        Outcome::Not(refusal) => tracing::debug!(?refusal, %address, "a machine was not admitted"),
    }
}

/// The digest of the Bearer token. A second header could be read by something in between, so there must be one.
fn bearer(headers: &HeaderMap) -> Option<Digest> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (sent.next(), sent.next()) else { return None };
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && is_token(token)).then(|| digest_of_token(token))
}

/// Answers, and counts failures. A success is never held up by the failures of other machines behind the same address.
fn finish(service: &Service, address: IpAddr, answer: Answer) -> Response {
    let answer = match service.wait(address).filter(|_| answer.is_failure()) {
        Some(wait) => Answer::Limited(wait),
        None => answer,
    };
    if let Answer::Limited(_) = answer {
        service.metrics.limited();
    } else if answer.is_failure() {
        service.failed(address);
    }
    answer.into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{api, protocol::limits};

    /// The properties of the request to join, as the document describes them.
    fn of_request() -> Value {
        let document = serde_json::to_value(document()).unwrap();
        document["components"]["schemas"]["Enrollment"]["properties"].clone()
    }

    #[test]
    fn the_document_has_the_same_limits() {
        let request = of_request();
        let crds: String = api::crd_manifests().into_iter().map(|manifest| manifest.text).collect();
        assert!(crds.contains(request["publicKey"]["pattern"].as_str().unwrap()), "the pattern of the CRD is another");
        assert_eq!(request["extraDnsLabels"]["maxItems"], json!(limits::LABELS));
        for (field, range) in [("setupKey", &limits::KEY), ("hostname", &limits::HOSTNAME), ("token", &limits::TOKEN)] {
            let pattern = regex::Regex::new(request[field]["pattern"].as_str().unwrap()).unwrap();
            for (length, fits) in
                [(range.start() - 1, false), (*range.start(), true), (*range.end(), true), (range.end() + 1, false)]
            {
                assert_eq!(pattern.is_match(&"a".repeat(length)), fits, "{field}: {length} characters, {pattern}");
            }
        }
    }

    #[test]
    fn the_document_describes_what_a_machine_sends() {
        let request = EnrollRequest {
            setup_key: "k".to_owned(),
            public_key: "p".to_owned(),
            hostname: "h".to_owned(),
            extra_dns_labels: vec!["db".to_owned()],
            token: "t".to_owned(),
        };
        let sent = serde_json::to_value(&request).unwrap();
        let fields = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let (mut sent, mut described) = (fields(&sent), fields(&of_request()));
        sent.sort();
        described.sort();
        assert_eq!(sent, described);
    }

    #[test]
    fn the_token_is_taken_from_a_bearer_header_and_nothing_else() {
        let token = "A".repeat(43);
        let of = |value: String| bearer(&HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]));
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(of(format!("{scheme} {token}")), Some(digest_of_token(&token)), "{scheme}");
        }
        for value in [format!("Basic {token}"), token.clone(), format!("Bearer {}", &token[1..]), "Bearer ".to_owned()]
        {
            assert_eq!(of(value.clone()), None, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
        let mut twice = HeaderMap::new();
        for _ in 0..2 {
            twice.append(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        assert_eq!(bearer(&twice), None);
    }
}
