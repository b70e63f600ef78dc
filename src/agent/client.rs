//! The calls of the enrollment service, from the machine's side.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{
    Method, Request, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use serde::de::DeserializeOwned;

use super::{Introduction, identity::Identity};
use crate::protocol::{EnrollRequest, Enrolled, Problem};

/// The longest that a call may take. The service takes 25 s at most.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of an answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The service.
pub struct Client {
    url: Uri,
    client: HttpClient<HttpsConnector<HttpConnector>, Full<axum::body::Bytes>>,
}

/// An answer that was understood.
#[derive(Debug)]
pub enum Answer<T> {
    /// Yes.
    Yes(T),
    /// Not now; and when to come again, if that was said.
    Later(Option<Duration>),
    /// No.
    No {
        /// The HTTP status.
        status: u16,
        /// Why.
        sentence: String,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one.
    #[error("--server must be a URL such as https://enroll.example.com")]
    Url,
    /// The file of the authority cannot be used.
    #[error("--ca-file {} holds no certificate in PEM that can be used", .0.display())]
    Authority(PathBuf),
    /// The machine's own authorities cannot be used.
    #[error("the certificates of this machine cannot be used: {0}; give --ca-file")]
    Roots(io::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
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
    /// The answer is not that of an enrollment service.
    #[error("{url} answered with status {status} and not as an enrollment service does")]
    Strange {
        /// The service.
        url: Uri,
        /// The HTTP status.
        status: u16,
    },
}

impl Client {
    /// The service at this URL, whose certificate is of this authority, or of one that the machine trusts.
    pub fn new(url: &str, authority: Option<&Path>) -> Result<Self, Error> {
        let url: Uri = url.trim_end_matches('/').parse().map_err(|_| Error::Url)?;
        if url.authority().is_none() || !matches!(url.scheme_str(), Some("http" | "https")) {
            return Err(Error::Url);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let config = match authority {
            Some(file) => config.with_root_certificates(roots(file)?),
            None if url.scheme_str() == Some("https") => config.with_native_roots().map_err(Error::Roots)?,
            None => config.with_root_certificates(RootCertStore::empty()),
        };
        let config = config.with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        Ok(Self { url, client: HttpClient::builder(TokioExecutor::new()).build(connector) })
    }

    /// Whether keys and tokens are readable on the way.
    pub fn is_plain(&self) -> bool {
        self.url.scheme_str() == Some("http")
    }

    /// Asks to join.
    pub async fn enroll(
        &self,
        identity: &Identity,
        key: &SecretString,
        introduction: &Introduction,
    ) -> Result<Answer<Enrolled>, Error> {
        let body = EnrollRequest {
            setup_key: key.expose_secret().to_owned(),
            public_key: identity.public_key(),
            hostname: introduction.hostname.clone(),
            extra_dns_labels: introduction.extra_dns_labels.clone(),
            token: identity.token().expose_secret().to_owned(),
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let request = Request::builder().method(Method::POST).header(CONTENT_TYPE, "application/json");
        self.call("/v1/enroll", request, body).await.and_then(|answer| answer.read(&self.url))
    }

    /// Tells that the peer is there.
    pub async fn heartbeat(&self, identity: &Identity, name: &str) -> Result<Answer<()>, Error> {
        let request = authorized(identity).method(Method::POST);
        self.call(&format!("/v1/peers/{name}/heartbeat"), request, Vec::new()).await.map(Raw::done)
    }

    /// Leaves.
    pub async fn leave(&self, identity: &Identity, name: &str) -> Result<Answer<()>, Error> {
        let request = authorized(identity).method(Method::DELETE);
        self.call(&format!("/v1/peers/{name}"), request, Vec::new()).await.map(Raw::done)
    }

    async fn call(&self, path: &str, request: http::request::Builder, body: Vec<u8>) -> Result<Raw, Error> {
        let uri = format!("{}{path}", self.url.to_string().trim_end_matches('/'));
        let request = request.uri(uri).body(Full::from(body)).map_err(|_| Error::Url)?;
        let unreachable = |source| Error::Unreachable { url: self.url.clone(), source };
        let answer = async {
            let answer = self.client.request(request).await.map_err(|error| unreachable(chain(&error)))?;
            let status = answer.status().as_u16();
            let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|_| Error::Strange { url: self.url.clone(), status })?.to_bytes();
            Ok(Raw { status, after: after.map(Duration::from_secs), body: body.to_vec() })
        };
        let answer = tokio::time::timeout(TIME_LIMIT, answer).await;
        answer.map_err(|_| Error::Timeout { url: self.url.clone() })?
    }
}

struct Raw {
    status: u16,
    after: Option<Duration>,
    body: Vec<u8>,
}

impl Raw {
    fn read<T: DeserializeOwned>(self, url: &Uri) -> Result<Answer<T>, Error> {
        let strange = || Error::Strange { url: url.clone(), status: self.status };
        match self.status {
            200 => serde_json::from_slice(&self.body).map(Answer::Yes).map_err(|_| strange()),
            429 | 503 => Ok(Answer::Later(self.after)),
            400..500 => match serde_json::from_slice(&self.body) {
                Ok(Problem { message, .. }) => Ok(Answer::No { status: self.status, sentence: message }),
                // Something in between, such as a gateway that has no service yet.
                Err(_) => Err(strange()),
            },
            _ => Err(strange()),
        }
    }

    fn done(self) -> Answer<()> {
        match self.status {
            204 => Answer::Yes(()),
            401 | 404 if serde_json::from_slice::<Problem>(&self.body).is_ok() => {
                Answer::No { status: self.status, sentence: "the service does not know this peer".to_owned() }
            }
            _ => Answer::Later(self.after),
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

/// hyper says "client error (Connect)"; why stands in the causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let causes = std::iter::successors(Some(error), |error| error.source());
    anyhow::Error::msg(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}
