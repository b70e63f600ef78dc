//! A certificate authority for the enrollment service and for NetBird, in place of a company's own or of cert-manager.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

pub struct Authority {
    /// What clients trust, in PEM.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "enrollment authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names and addresses and its private key, as in a Secret of type kubernetes.io/tls.
    pub fn certify(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params =
            CertificateParams::new(names.iter().copied().map(String::from).collect::<Vec<_>>()).expect("names");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }
}
