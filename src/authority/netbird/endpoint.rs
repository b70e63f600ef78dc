//! Where an authority is: its URL, its account, and the certificates that it may have.

use reqwest::Url;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// A NetBird server and the account there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    pub(super) url: Url,
    pub(super) account: Option<String>,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// The field that is not valid, in a sentence for a status condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// The URL.
    #[error("netbird.url must be https://host[:port], without path, user, query and fragment")]
    Url,
    /// The account.
    #[error("netbird.account must be the id of an account, without blanks and control characters, or be left out")]
    Account,
    /// The certificates.
    #[error("netbird.caBundle holds no certificate in PEM that can be used")]
    CaBundle,
}

impl Endpoint {
    /// Reads the fields of an authority. `ca_bundle` is PEM.
    pub fn parse(url: &str, account: Option<&str>, ca_bundle: Option<&[u8]>) -> Result<Self, InvalidEndpoint> {
        let account = match account {
            Some(text) if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
                return Err(InvalidEndpoint::Account);
            }
            account => account.map(ToOwned::to_owned),
        };
        let roots = ca_bundle.map_or(Ok(Vec::new()), certificates).map_err(|()| InvalidEndpoint::CaBundle)?;
        Ok(Self { url: base(url).ok_or(InvalidEndpoint::Url)?, account, roots })
    }
}

/// The URL, if it is nothing but a scheme, a host and a port. The parser of URLs forgives much and drops what it does not
/// like, so the text is looked at first.
fn base(text: &str) -> Option<Url> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let strange = |c: char| matches!(c, '/' | '\\' | '@' | '?' | '#' | '%') || c.is_whitespace() || c.is_control();
    if host.is_empty() || host.contains(strange) {
        return None;
    }
    Url::parse(text).ok().filter(|url| url.has_host() && url.port() != Some(0))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ()> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(drop)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(drop)?;
    }
    if certificates.is_empty() { Err(()) } else { Ok(certificates) }
}
