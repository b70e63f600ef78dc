//! The calls to the enrollment service.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::body::Bytes;
use http::{
    Method, Request, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::ConfigBuilderExt;
use reqwest::redirect::Policy;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use serde::de::DeserializeOwned;

use super::{Introduction, identity::Identity};
use crate::protocol::{self, EnrollRequest, Enrolled, Problem, limits};

/// The longest that a call may take. The service answers within 25 s.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of an answer, at most.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The service.
pub struct Client {
    url: Uri,
    client: reqwest::Client,
}

/// A reply of the service.
#[derive(Debug, Eq, PartialEq)]
pub enum Reply<T> {
    /// The call succeeded.
    Done(T),
    /// Not now. The service may say when to ask again.
    Later(Option<Duration>),
    /// The call was refused.
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why.
        sentence: String,
    },
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not valid.
    #[error("--server must be a URL such as https://enroll.example.com, without a user or a query")]
    Url,
    /// The file with the certificate authority cannot be used.
    #[error("--ca-file {} holds no certificate in PEM that can be used", .0.display())]
    Authority(PathBuf),
    /// The certificate authorities of this machine cannot be used.
    #[error("the certificates of this machine cannot be used: {0}; give --ca-file")]
    Roots(io::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The client cannot be set up.
    #[error("the connection cannot be set up: {0}; look at HTTPS_PROXY")]
    Client(reqwest::Error),
    /// There is no connection.
    #[error("{url} cannot be reached: {source}")]
    Unreachable {
        /// The service.
        url: Uri,
        /// Why, with all causes.
        source: anyhow::Error,
    },
    /// There was no answer in time.
    #[error("{url} did not answer within {} s", TIME_LIMIT.as_secs())]
    Timeout {
        /// The service.
        url: Uri,
    },
    /// The reply is not that of an enrollment service.
    #[error("{url} answered with status {status} and not as an enrollment service does")]
    Strange {
        /// The service.
        url: Uri,
        /// The HTTP status.
        status: u16,
    },
}

/// Reads the URL of a service.
pub fn service_url(text: &str) -> Result<Uri, Error> {
    protocol::service_url(text).ok_or(Error::Url)
}

impl Client {
    /// A client of the service at this URL. The service's certificate must be from the authority in the file, or, without a
    /// file, from one that this machine trusts. A proxy is used as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
    pub fn new(url: &str, authority: Option<&Path>) -> Result<Self, Error> {
        let url = service_url(url)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let config = match authority {
            Some(file) => config.with_root_certificates(roots(file)?),
            None if url.scheme_str() == Some("https") => config.with_native_roots().map_err(Error::Roots)?,
            None => config.with_root_certificates(RootCertStore::empty()),
        };
        let config = config.with_no_client_auth();
        // A redirect would take the key to another host.
        let client = reqwest::Client::builder().tls_backend_preconfigured(config).redirect(Policy::none());
        Ok(Self { url, client: client.build().map_err(Error::Client)? })
    }

    /// Whether the connection is not encrypted.
    pub fn is_plain(&self) -> bool {
        self.url.scheme_str() == Some("http")
    }

    /// Asks to join.
    pub async fn enroll(
        &self,
        identity: &Identity,
        key: &SecretString,
        introduction: &Introduction,
    ) -> Result<Reply<Enrolled>, Error> {
        let body = EnrollRequest {
            setup_key: key.expose_secret().to_owned(),
            public_key: identity.public_key(),
            hostname: introduction.hostname.clone(),
            extra_dns_labels: introduction.extra_dns_labels.clone(),
            token: identity.token().expose_secret().to_owned(),
        };
        let body = to_json(&body);
        let request = Request::builder().method(Method::POST).header(CONTENT_TYPE, "application/json");
        self.call("/v1/enroll", request, body).await.and_then(|answer| answer.read(&self.url))
    }

    /// Sends a heartbeat.
    pub async fn heartbeat(&self, identity: &Identity, peer: &Enrolled) -> Result<Reply<()>, Error> {
        self.call_as(identity, Method::POST, peer, "/heartbeat").await
    }

    /// Leaves.
    pub async fn leave(&self, identity: &Identity, peer: &Enrolled) -> Result<Reply<()>, Error> {
        self.call_as(identity, Method::DELETE, peer, "").await
    }

    /// A call of a peer. A service of the first version knows no path with a namespace.
    async fn call_as(
        &self,
        identity: &Identity,
        method: Method,
        Enrolled { name, namespace, .. }: &Enrolled,
        end: &str,
    ) -> Result<Reply<()>, Error> {
        let call = async |path: String| {
            self.call(&path, authorized(identity).method(method.clone()), Zeroizing::default()).await
        };
        let answer = call(format!("/v1/namespaces/{namespace}/peers/{name}{end}")).await?;
        if answer.is_without_path() {
            return call(format!("/v1/peers/{name}{end}")).await.map(Raw::done);
        }
        Ok(answer.done())
    }

    async fn call(&self, path: &str, request: http::request::Builder, body: Zeroizing<Vec<u8>>) -> Result<Raw, Error> {
        let uri = format!("{}{path}", self.url.to_string().trim_end_matches('/'));
        let request = request.uri(uri).body(Bytes::from_owner(body)).map_err(|_| Error::Url)?;
        let request = request.try_into().map_err(|_| Error::Url)?;
        let unreachable = |source| Error::Unreachable { url: self.url.clone(), source };
        let answer = async {
            let answer = self.client.execute(request).await;
            let answer = answer.map_err(|error| unreachable(chain(&error.without_url())))?;
            let status = answer.status().as_u16();
            let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            let body = Limited::new(reqwest::Body::from(answer), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|_| Error::Strange { url: self.url.clone(), status })?.to_bytes();
            Ok(Raw { status, after: after.map(Duration::from_secs), body: body.to_vec() })
        };
        let answer = tokio::time::timeout(TIME_LIMIT, answer).await;
        answer.map_err(|_| Error::Timeout { url: self.url.clone() })?
    }
}

/// The body of a request, which is wiped when it has been sent. Space for the longest one is reserved first: a buffer that
/// grows leaves copies behind.
fn to_json(request: &EnrollRequest) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(limits::BODY));
    // Texts always serialize.
    let _ = serde_json::to_writer(&mut *body, request);
    body
}

struct Raw {
    status: u16,
    after: Option<Duration>,
    body: Vec<u8>,
}

impl Raw {
    fn read<T: DeserializeOwned>(self, url: &Uri) -> Result<Reply<T>, Error> {
        let strange = || Error::Strange { url: url.clone(), status: self.status };
        match self.status {
            200 => serde_json::from_slice(&self.body).map(Reply::Done).map_err(|_| strange()),
            429 | 503 => Ok(Reply::Later(self.after)),
            400..500 => match serde_json::from_slice(&self.body) {
                Ok(Problem { message, .. }) => Ok(Reply::Refused { status: self.status, sentence: message }),
                // It comes from something in between, such as a gateway without a backend.
                Err(_) => Err(strange()),
            },
            _ => Err(strange()),
        }
    }

    /// Whether the path is not known. A service that knows it says in its own form that it does not know a peer.
    fn is_without_path(&self) -> bool {
        self.status == 404 && serde_json::from_slice::<Problem>(&self.body).is_err()
    }

    fn done(self) -> Reply<()> {
        match self.status {
            204 => Reply::Done(()),
            401 | 404 if serde_json::from_slice::<Problem>(&self.body).is_ok() => {
                Reply::Refused { status: self.status, sentence: "the service does not know this peer".to_owned() }
            }
            _ => Reply::Later(self.after),
        }
    }
}

fn authorized(identity: &Identity) -> http::request::Builder {
    let value = Zeroizing::new(format!("Bearer {}", identity.token().expose_secret()));
    let mut request = Request::builder();
    if let (Ok(mut value), Some(headers)) = (HeaderValue::from_str(&value), request.headers_mut()) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    request
}

fn roots(file: &Path) -> Result<RootCertStore, Error> {
    let wrong = || Error::Authority(file.to_owned());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|_| wrong())? {
        roots.add(certificate.map_err(|_| wrong())?).map_err(|_| wrong())?;
    }
    if roots.is_empty() { Err(wrong()) } else { Ok(roots) }
}

/// reqwest's message is "error sending request"; the reason is in the causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let causes = std::iter::successors(Some(error), |error| error.source());
    anyhow::Error::msg(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENROLLED: &str =
        r#"{"name":"peer-a","namespace":"n","groups":[],"ephemeral":false,"extraDnsLabels":[],"new":1}"#;

    fn raw(status: u16, body: &str) -> Raw {
        Raw { status, after: Some(Duration::from_secs(3)), body: body.into() }
    }

    fn read(status: u16, body: &str) -> Result<Reply<Enrolled>, Error> {
        raw(status, body).read(&Uri::from_static("https://enroll.example.com"))
    }

    #[test]
    fn a_machine_has_joined_only_if_the_service_says_so_in_full() {
        assert!(matches!(read(200, ENROLLED), Ok(Reply::Done(peer)) if peer.name == "peer-a"));
        for (status, body) in [(200, "{}"), (200, "<html>"), (204, ""), (302, ""), (500, ENROLLED)] {
            assert!(matches!(read(status, body), Err(Error::Strange { .. })), "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_is_one_of_the_service_and_not_of_a_gateway() {
        let refused = Reply::Refused { status: 403, sentence: "no".to_owned() };
        assert_eq!(read(403, r#"{"message":"no"}"#).unwrap(), refused);
        assert!(matches!(read(404, "<html>"), Err(Error::Strange { status: 404, .. })));
        for status in [429, 503] {
            assert_eq!(read(status, "").unwrap(), Reply::Later(Some(Duration::from_secs(3))), "{status}");
        }
    }

    #[test]
    fn a_peer_is_unknown_only_if_the_service_says_so() {
        assert_eq!(raw(204, "").done(), Reply::Done(()));
        for status in [401, 404] {
            assert!(matches!(raw(status, r#"{"message":"no"}"#).done(), Reply::Refused { .. }), "{status}");
            assert!(matches!(raw(status, "<html>").done(), Reply::Later(_)), "{status}");
        }
        assert!(matches!(raw(500, r#"{"message":"no"}"#).done(), Reply::Later(_)));
    }

    #[test]
    fn a_path_is_unknown_only_if_the_service_does_not_answer_for_it() {
        assert!(raw(404, "").is_without_path());
        assert!(!raw(404, r#"{"message":"no"}"#).is_without_path());
        assert!(!raw(503, "").is_without_path());
    }

    #[test]
    fn a_service_is_at_a_host_and_a_port() {
        for url in ["https://enroll.example.com", "http://10.0.0.1:8080/", "https://[2001:db8::1]:443/enroll"] {
            assert!(service_url(url).is_ok(), "{url}");
        }
        for url in ["enroll", "//enroll", "ftp://enroll", "https://", "https://:1", "https://a:70000", "https://u:p@a"]
        {
            assert!(service_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_token_is_in_a_header_that_is_marked_as_sensitive() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&folder.path().join("state")).unwrap();
        let request = authorized(&identity).body(()).unwrap();
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn the_longest_request_fits_into_a_body_without_growing_it() {
        let request = EnrollRequest {
            setup_key: "k".repeat(*limits::KEY.end()),
            public_key: "p".repeat(limits::PUBLIC_KEY),
            hostname: "h".repeat(*limits::HOSTNAME.end()),
            extra_dns_labels: vec!["l".repeat(*limits::LABEL.end()); limits::LABELS],
            token: "t".repeat(*limits::TOKEN.end()),
        };
        let body = to_json(&request);
        assert!(body.len() > 2_000 && body.capacity() == limits::BODY, "{} bytes", body.len());
    }
}
