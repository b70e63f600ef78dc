//! HTTP to a NetBird server, with a limit on everything.

use std::{
    error::Error as StdError,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use http::{
    HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use reqwest::{ClientBuilder, Request, Response, Url, redirect};
use rustls::{CertificateError, ClientConfig, RootCertStore, crypto::ring};
use secrecy::zeroize::Zeroizing;
use tokio::sync::Semaphore;

use super::{Endpoint, Error, Hosts, Token, answer::Answer, hosts::Resolver};

/// What is told of each call: its operation, the HTTP status or a word for what went wrong instead, and its seconds. The
/// time in which a call waits for its turn does not count.
pub type Observer = Arc<dyn Fn(&'static str, &str, f64) + Send + Sync>;

/// Calls to one server at a time. NetBird is saturated by two.
const IN_FLIGHT: usize = 4;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Idle connections are closed after this. Gateways close them after a minute or so, and a request must not be sent into one
/// that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// NetBird exempts clients with some names from its limits, so this is only our own.
const USER_AGENT: &str = concat!("setupkey-operator/", env!("CARGO_PKG_VERSION"));

/// A server, and the token for it.
pub struct Transport {
    http: reqwest::Client,
    url: Url,
    account: Option<String>,
    authorization: HeaderValue,
    token: Token,
    in_flight: Semaphore,
    observer: Observer,
}

/// A call.
pub struct Call<'a> {
    /// Its name in metrics.
    pub operation: &'static str,
    pub method: Method,
    /// What follows `/api/`.
    pub path: Vec<&'a str>,
    pub query: Option<(&'a str, &'a str)>,
    pub body: Option<Vec<u8>>,
    pub limits: Limits,
}

/// What an answer may take.
#[derive(Clone, Copy)]
pub struct Limits {
    time: Duration,
    bytes: usize,
}

impl Limits {
    /// The limits of a list, which has all objects of an account.
    pub const LIST: Self = Self { time: Duration::from_secs(30), bytes: 32 * 1024 * 1024 };
    /// The limits of every other answer.
    pub const OBJECT: Self = Self { time: Duration::from_secs(15), bytes: 1024 * 1024 };
}

impl Transport {
    /// A client of a server. Fails if its host must not be called.
    pub fn new(endpoint: &Endpoint, token: Token, hosts: &Hosts, observer: Observer) -> Result<Self, Error> {
        hosts.check(&endpoint.url)?;
        Self::with(reqwest::Client::builder(), endpoint, token, hosts, observer)
    }

    fn with(
        builder: ClientBuilder,
        endpoint: &Endpoint,
        token: Token,
        hosts: &Hosts,
        observer: Observer,
    ) -> Result<Self, Error> {
        let host = endpoint.url.host_str().unwrap_or_default().to_owned();
        let http = builder
            .tls_backend_preconfigured(tls(endpoint)?)
            .dns_resolver(Arc::new(Resolver { host, hosts: hosts.clone() }))
            // A redirect would take the token to another host.
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(IN_FLIGHT)
            .build()
            .map_err(|_| Error::Tls)?;
        Ok(Self {
            http,
            url: endpoint.url.clone(),
            account: endpoint.account.clone(),
            authorization: token.header().ok_or(Error::Tls)?,
            token,
            in_flight: Semaphore::new(IN_FLIGHT),
            observer,
        })
    }

    /// Makes a call and reads its answer.
    pub async fn call<T>(&self, call: Call<'_>, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, Error> {
        // It is never closed.
        let _turn = self.in_flight.acquire().await;
        let (operation, started) = (call.operation, Instant::now());
        let answer = self.send(call).await;
        let status = answer.as_ref().map(|answer| answer.status);
        let result = answer.as_ref().map_err(Clone::clone).and_then(|answer| answer.read(&self.token, read));
        let code = match (status, &result) {
            (Ok(200), Err(error)) | (Err(_), Err(error)) => error.label().to_owned(),
            (Ok(status), _) => status.to_string(),
            (Err(_), Ok(_)) => String::new(),
        };
        (self.observer)(operation, &code, started.elapsed().as_secs_f64());
        result
    }

    async fn send(&self, call: Call<'_>) -> Result<Answer, Error> {
        let (operation, limits) = (call.operation, call.limits);
        let failed = |error: reqwest::Error| {
            // Only the log says why: see `Error`.
            tracing::debug!(operation, host = self.url.host_str(), reason = chain(&error), "calling NetBird failed");
            why(&error)
        };
        let response = self.http.execute(self.request(call)?).await.map_err(failed)?;
        let mut answer = Answer::new(response.status().as_u16(), response.headers(), Utc::now());
        answer.body = body(response, limits.bytes).await.map_err(|error| error.map_or(Error::TooLarge, failed))?;
        Ok(answer)
    }

    fn request(&self, call: Call<'_>) -> Result<Request, Error> {
        let mut url = self.url.clone();
        // A URL with a host has segments.
        url.path_segments_mut().map_err(|()| Error::Unreachable)?.pop_if_empty().push("api").extend(call.path);
        let account = self.account.as_deref().map(|account| ("account", account));
        if account.is_some() || call.query.is_some() {
            url.query_pairs_mut().extend_pairs(call.query.into_iter().chain(account));
        }
        let mut request = Request::new(call.method, url);
        *request.timeout_mut() = Some(call.limits.time);
        request.headers_mut().insert(AUTHORIZATION, self.authorization.clone());
        if let Some(body) = call.body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.into());
        }
        Ok(request)
    }
}

/// The built-in roots and those of the authority.
fn tls(endpoint: &Endpoint) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for root in &endpoint.roots {
        roots.add(root.clone()).map_err(|_| Error::Tls)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Reads a body up to a limit; `None` is one that is longer. Space is reserved first, because a buffer that grows leaves
/// copies of a key behind.
async fn body(mut response: Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, Option<reqwest::Error>> {
    let length = response.content_length().map_or(Ok(16 * 1024), usize::try_from).map_err(|_| None)?;
    if length > limit {
        return Err(None);
    }
    let mut body = Zeroizing::new(Vec::with_capacity(length));
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn why(error: &reqwest::Error) -> Error {
    if let Some(refused) = cause::<Error>(error) {
        return refused.clone();
    }
    if let Some(rustls::Error::InvalidCertificate(reason)) = cause(error) {
        return Error::Certificate(certificate(reason));
    }
    if error.is_timeout() { Error::Timeout } else { Error::Unreachable }
}

/// A few words, and not rustls' own: those name the hosts that the certificate is for.
fn certificate(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        CertificateError::UnknownIssuer => "its issuer is not known; netbird.caBundle can hold it",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "it is for another host",
        CertificateError::Revoked => "it was revoked",
        _ => "it cannot be verified",
    }
}

/// The first cause of a type. An `io::Error` skips what it wraps when it is asked for its source.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn StdError + 'static)| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as _).or_else(|| error.source())
    })
}

/// All causes, without the URL of the outermost.
fn chain(error: &reqwest::Error) -> String {
    causes(error).skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
