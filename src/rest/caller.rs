//! Who asks: the token that the client sent goes on to the Kubernetes API, and nothing else does.

use std::time::Duration;

use axum::{
    extract::FromRequestParts,
    http::{
        HeaderValue,
        header::{AUTHORIZATION, HeaderMap},
        request::Parts,
    },
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::service_fn;

use super::refusal::Refusal;

/// The way to the API server, for everybody and nobody: it carries no identity.
#[derive(Clone)]
pub struct Cluster {
    nobody: Client,
    namespace: String,
}

/// The token of a client, as the header that carries it on. Never printed.
#[derive(Clone)]
pub struct Caller {
    authorization: HeaderValue,
}

impl Cluster {
    /// The way to the cluster of a configuration, and to one namespace in it.
    ///
    /// Only what it takes to find and to recognise the API server is taken over. Whatever else a configuration may hold
    /// (a token, a client certificate, a user to act as) could lend a client rights that are not its own.
    pub fn without_identity(config: &Config, namespace: String) -> kube::Result<Self> {
        let mut anonymous = Config::new(config.cluster_url.clone());
        anonymous.root_cert = config.root_cert.clone();
        anonymous.root_cert_file = config.root_cert_file.clone();
        anonymous.accept_invalid_certs = config.accept_invalid_certs;
        anonymous.tls_server_name = config.tls_server_name.clone();
        anonymous.proxy_url = config.proxy_url.clone();
        anonymous.connect_timeout = Some(Duration::from_secs(5));
        // A client of ours tries again if it wants to.
        anonymous.default_retry = false;
        Ok(Self { nobody: ClientBuilder::try_from(anonymous)?.build(), namespace })
    }

    /// The namespace whose keys are served.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A client that is this caller. All of them share connections, for what identifies a caller is in each request.
    pub fn client_of(&self, caller: &Caller) -> Client {
        let (nobody, authorization) = (self.nobody.clone(), caller.authorization.clone());
        let as_caller = service_fn(move |mut request: http::Request<Body>| {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            let nobody = nobody.clone();
            async move { nobody.send(request).await }
        });
        Client::new(as_caller, self.namespace.clone())
    }

    /// Whether anything answers at the address of the API server.
    pub async fn is_reached(&self) -> bool {
        let request = http::Request::get("/version").body(Body::empty());
        let Ok(request) = request else { return false };
        let answer = tokio::time::timeout(Duration::from_secs(5), self.nobody.send(request)).await;
        matches!(answer, Ok(Ok(_)))
    }
}

impl Caller {
    /// The caller of a request: `Authorization: Bearer` or `Token`, as NetBird takes both.
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let sent = headers.get(AUTHORIZATION).ok_or(Refusal::NoToken)?.to_str().map_err(|_| Refusal::NoToken)?;
        let (scheme, token) = sent.split_once(' ').ok_or(Refusal::NoToken)?;
        let known = ["bearer", "token"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        let token = token.trim();
        // A space inside would let a client choose what Kubernetes takes for the token.
        if !known || token.is_empty() || token.contains(' ') {
            return Err(Refusal::NoToken);
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Refusal::NoToken)?;
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

    fn passed_on(sent: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::try_from(sent).unwrap())]);
        let caller = Caller::of(&headers).ok()?;
        Some(caller.authorization.to_str().unwrap().to_owned())
    }

    #[test]
    fn both_schemes_of_netbird_become_a_bearer_token() {
        for sent in ["Bearer abc", "Token abc", "token abc", "BEARER  abc "] {
            assert_eq!(passed_on(sent).as_deref(), Some("Bearer abc"), "{sent}");
        }
    }

    #[test]
    fn without_a_token_there_is_no_caller() {
        assert!(Caller::of(&HeaderMap::new()).is_err());
        for sent in ["", "Bearer", "Bearer ", "Basic YTpi", "abc", "Bearer a b"] {
            assert_eq!(passed_on(sent), None, "{sent:?}");
        }
    }
}
