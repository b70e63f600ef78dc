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

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String, InvalidEndpoint> {
        Endpoint::parse(text, None, None).map(|endpoint| endpoint.url.to_string())
    }

    #[test]
    fn a_url_has_a_host_and_may_have_a_port() {
        for (text, read) in [
            ("https://api.netbird.io", "https://api.netbird.io/"),
            ("https://api.netbird.io:443/", "https://api.netbird.io/"),
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080/"),
            ("https://[2001:db8::1]:33073", "https://[2001:db8::1]:33073/"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(read));
        }
    }

    #[test]
    fn a_url_with_anything_else_is_refused_and_not_repaired() {
        for text in [
            "",
            "api.netbird.io",
            "//api.netbird.io",
            "ftp://api.netbird.io",
            "HTTPS://api.netbird.io",
            "https://",
            "https:///",
            "https:///api.netbird.io",
            "https://:443",
            "https://api.netbird.io:0",
            "https://api.netbird.io:70000",
            "https://api.netbird.io//",
            "https://api.netbird.io/api",
            "https://api.netbird.io\\api",
            "https://user@api.netbird.io",
            "https://user:password@api.netbird.io",
            "https://api.netbird.io?",
            "https://api.netbird.io/?a=b",
            "https://api.netbird.io#",
            "https://api.netbird.io ",
            "https://api.\nnetbird.io",
            "https://api%2enetbird.io",
        ] {
            assert_eq!(url(text), Err(InvalidEndpoint::Url), "{text:?}");
        }
    }

    #[test]
    fn an_account_is_one_word() {
        let account = |text| Endpoint::parse("https://api.netbird.io", Some(text), None).map(drop);
        assert_eq!(account("csqg4k2t3l4s73a9d5rg"), Ok(()));
        for text in ["", " ", "a b", "a\n"] {
            assert_eq!(account(text), Err(InvalidEndpoint::Account), "{text:?}");
        }
    }

    #[test]
    fn a_bundle_is_certificates_only() {
        let bundle = |pem: &str| Endpoint::parse("https://api.netbird.io", None, Some(pem.as_bytes())).map(drop);
        let pem = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
        assert_eq!(bundle(&pem), Ok(()));
        assert_eq!(bundle(&format!("# Our authority\n{pem}{pem}")), Ok(()));
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "pem", &pem[..pem.len() / 2], no_certificate, &format!("{pem}{no_certificate}")] {
            assert_eq!(bundle(text), Err(InvalidEndpoint::CaBundle), "{text:?}");
        }
    }
}
