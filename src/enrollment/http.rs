//! The routes, and their description in OpenAPI.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Path, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, RETRY_AFTER},
    },
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use secrecy::zeroize::Zeroize;
use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::AdditionalProperties,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Service,
    admission::Outcome,
    answer::Answer,
    limits,
    request::{digest_of_token, is_token, parse},
};
use crate::{
    key::{Digest, ledger::Applicant},
    protocol::{EnrollRequest, Enrolled, Problem},
    serve,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "setupkey-operator enrollment", description = "Machines present a setup key and become peers."),
    modifiers(&BearerToken)
)]
struct Document;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

fn routes() -> OpenApiRouter<Arc<Service>> {
    let mut router = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(enroll))
        .routes(routes!(heartbeat))
        .routes(routes!(leave));
    // Answers have the described fields and no others. `deny_unknown_fields` on the types would have the client refuse the
    // answers of a newer service.
    let schemas = &mut router.get_openapi_mut().components.get_or_insert_default().schemas;
    for answer in [Enrolled::name(), Problem::name()] {
        if let Some(RefOr::T(Schema::Object(object))) = schemas.get_mut(&*answer) {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
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
        let router = router.route("/openapi.json", get(async move || Json(document))).with_state(Arc::clone(self));
        let router = limits().apply(router).layer(middleware::map_response(add_retry_after));
        router.layer(middleware::from_fn_with_state(requests, serve::metrics::HttpRequests::count))
    }
}

/// Adds Retry-After to a 503 of the time limit.
async fn add_retry_after(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().entry(RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
    }
    response
}

/// Admit a machine
///
/// The same public key and token get the same answer, and use the key once. A machine that is already a peer gets this answer
/// even if the key no longer admits machines.
#[utoipa::path(
    post, path = "/v1/enroll", request_body = EnrollRequest,
    responses(
        (status = 200, description = "The machine is a peer", body = Enrolled),
        (status = 400, description = "The body is not a JSON object", body = Problem),
        (status = 403, description = "The key does not admit this machine; the answer does not say why", body = Problem),
        (status = 409, description = "The public key has joined with another token", body = Problem),
        (status = 413, description = "The body is longer than 8 KiB"),
        (status = 422, description = "A field is wrong; the answer names it", body = Problem),
        (status = 429, description = "Too many requests from this address have failed", body = Problem,
            headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 503, description = "Try again; nothing is counted twice", body = Problem,
            headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn enroll(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    body: Body,
) -> Response {
    let answer = match axum::body::to_bytes(body, limits().body).await {
        Err(_) => Answer::TooLong,
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
    post, path = "/v1/peers/{name}/heartbeat", params(("name", description = "The name of the peer")),
    security(("token" = [])),
    responses(
        (status = 204, description = "Seen"),
        (status = 401, description = "There is no Bearer token", body = Problem),
        (status = 404, description = "There is no peer of this name with this token", body = Problem),
        (status = 429, description = "Too many requests from this address have failed", body = Problem,
            headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 503, description = "Try again", body = Problem,
            headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn heartbeat(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let answer = match bearer(&headers) {
        Some(token) => service.heartbeat(&name, &token).await.into(),
        None => Answer::NoToken,
    };
    finish(&service, address.ip(), answer)
}

/// Leave
#[utoipa::path(
    delete, path = "/v1/peers/{name}", params(("name", description = "The name of the peer")),
    security(("token" = [])),
    responses(
        (status = 204, description = "The peer has left, or is being removed"),
        (status = 401, description = "There is no Bearer token", body = Problem),
        (status = 404, description = "There is no peer of this name with this token", body = Problem),
        (status = 429, description = "Too many requests from this address have failed", body = Problem,
            headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 503, description = "Try again", body = Problem,
            headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn leave(
    State(service): State<Arc<Service>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let answer = match bearer(&headers) {
        Some(token) => service.leave(&name, &token).await.into(),
        None => Answer::NoToken,
    };
    finish(&service, address.ip(), answer)
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

/// The digest of the Bearer token.
fn bearer(headers: &HeaderMap) -> Option<Digest> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
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
        assert_eq!(request["setupKey"]["minLength"], json!(limits::KEY.start()));
        assert_eq!(request["setupKey"]["maxLength"], json!(limits::KEY.end()));
        let crds: String = api::crd_manifests().into_iter().map(|manifest| manifest.text).collect();
        assert!(crds.contains(request["publicKey"]["pattern"].as_str().unwrap()), "the pattern of the CRD is another");
        assert_eq!(request["extraDnsLabels"]["maxItems"], json!(limits::LABELS));
        let quantifier = |range: &std::ops::RangeInclusive<usize>| format!("{{{},{}}}$", range.start(), range.end());
        for (field, range) in [("hostname", &limits::HOSTNAME), ("token", &limits::TOKEN)] {
            let pattern = request[field]["pattern"].as_str().unwrap();
            assert!(pattern.ends_with(&quantifier(range)), "{field}: {pattern}");
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
    }
}
