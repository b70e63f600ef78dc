//! The caller of a request: its token goes on to the Kubernetes API, and no other credential does.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::FromRequestParts,
    http::{
        HeaderValue,
        header::{AUTHORIZATION, HeaderMap},
        request::Parts,
    },
};
use kube::{Client, Config, client::Body};
use secrecy::zeroize::Zeroizing;
use tower::service_fn;

use super::refusal::Refusal;
use crate::cluster::{connect, pages::LimitPages, tuned};

/// The connection to the API server that all callers share. It carries no identity of its own.
#[derive(Clone)]
pub struct Cluster {
    anonymous: Client,
    namespace: String,
}

/// The token of a client, as the header of requests to the API server. It is never printed, and wiped with its last copy.
#[derive(Clone)]
pub struct Caller {
    authorization: HeaderValue,
}

impl Cluster {
    /// Connects to the cluster of this configuration, to serve one namespace in it.
    ///
    /// Of the configuration, only the address of the API server and what verifies its certificate are used. Anything else
    /// in it (a token, a client certificate, a user to impersonate) could give a client rights that are not its own.
    pub fn without_identity(config: &Config, namespace: String) -> kube::Result<Self> {
        let mut anonymous = Config::new(config.cluster_url.clone());
        anonymous.root_cert = config.root_cert.clone();
        anonymous.root_cert_file = config.root_cert_file.clone();
        anonymous.accept_invalid_certs = config.accept_invalid_certs;
        anonymous.tls_server_name = config.tls_server_name.clone();
        anonymous.proxy_url = config.proxy_url.clone();
        let anonymous = connect(tuned(anonymous))?.with_layer(&LimitPages).build();
        Ok(Self { anonymous, namespace })
    }

    /// The namespace whose keys are served.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A client with the identity of this caller. The identity is in each request, so all callers share connections.
    pub fn client_of(&self, caller: &Caller) -> Client {
        let (anonymous, authorization) = (self.anonymous.clone(), caller.authorization.clone());
        let as_caller = service_fn(move |mut request: http::Request<Body>| {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            let anonymous = anonymous.clone();
            async move { anonymous.send(request).await }
        });
        Client::new(as_caller, self.namespace.clone())
    }

    /// Whether the API server answers within 5 s. An error is an answer too.
    pub async fn is_reached(&self) -> bool {
        let request = http::Request::get("/version").body(Body::empty());
        let Ok(request) = request else { return false };
        let answer = tokio::time::timeout(Duration::from_secs(5), self.anonymous.send(request)).await;
        matches!(answer, Ok(Ok(_)))
    }
}

impl Caller {
    /// The caller of a request. Like NetBird, this accepts `Authorization: Bearer …` and `Authorization: Token …`, with one
    /// blank after the scheme. With two such headers, something in between could have checked the other one.
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let (Some(sent), None) = (sent.next(), sent.next()) else { return Err(Refusal::NoToken) };
        let sent = sent.to_str().map_err(|_| Refusal::NoToken)?;
        let (scheme, token) = sent.split_once(' ').unwrap_or((sent, ""));
        if !["bearer", "token"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(Refusal::NoToken);
        }
        // With a blank inside, the API server could read a different token than this service.
        if token.is_empty() || token.contains([' ', '\t']) {
            return Err(Refusal::TokenInvalid);
        }
        let wiped = Bytes::from_owner(Zeroizing::new(format!("Bearer {token}")));
        let mut authorization = HeaderValue::from_maybe_shared(wiped).map_err(|_| Refusal::TokenInvalid)?;
        authorization.set_sensitive(true);
        Ok(Self { authorization })
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Self::of(&parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed_on(sent: &str) -> Result<String, String> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::try_from(sent).unwrap())]);
        let caller = Caller::of(&headers).map_err(|refusal| refusal.to_string())?;
        Ok(caller.authorization.to_str().unwrap().to_owned())
    }

    #[test]
    fn both_schemes_of_netbird_become_a_bearer_token() {
        for sent in ["Bearer abc", "Token abc", "token abc", "BEARER abc"] {
            assert_eq!(passed_on(sent).as_deref(), Ok("Bearer abc"), "{sent}");
        }
    }

    #[test]
    fn without_a_token_there_is_no_caller() {
        assert!(Caller::of(&HeaderMap::new()).is_err());
        for sent in ["", " ", "Basic YTpi", "abc", "abc def"] {
            assert_eq!(passed_on(sent), Err("no valid authentication provided".to_owned()), "{sent:?}");
        }
        for sent in ["Bearer", "Bearer ", "token", "Token  abc", "Bearer abc ", "Bearer a b", "Bearer a\tb"] {
            assert_eq!(passed_on(sent), Err("token invalid".to_owned()), "{sent:?}");
        }
        let mut twice = HeaderMap::new();
        for token in ["a", "b"] {
            twice.append(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
        }
        assert!(Caller::of(&twice).is_err());
    }
}
