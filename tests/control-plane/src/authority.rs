//! An authority of our own, for certificates that only our programs and tests trust.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// Signs certificates. Its own certificate is [`Authority::pem`].
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, both PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn named(common_name: &str) -> Result<Self, rcgen::Error> {
        let mut params = named(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// The certificate of the authority: what a client is told to trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate of a server that clients reach at these addresses.
    pub fn server(&self, common_name: &str, addresses: &[IpAddr]) -> Result<Identity, rcgen::Error> {
        self.sign(server(common_name, addresses))
    }

    pub fn sign(&self, params: CertificateParams) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        Ok(Identity { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// What [`Authority::server`] signs, to be changed first where a test needs a certificate with a fault.
pub fn server(common_name: &str, addresses: &[IpAddr]) -> CertificateParams {
    let mut params = named(common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
    params
}

pub(crate) fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
