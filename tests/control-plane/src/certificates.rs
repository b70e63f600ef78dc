//! An authority, the API server's certificate, and the key that signs service-account tokens.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// All fields are PEM.
pub struct Certificates {
    pub authority: String,
    pub api_server: String,
    pub api_server_key: String,
    /// The API server presents it to a kubelet, which accepts it as an administrator's.
    pub kubelet_client: String,
    pub kubelet_client_key: String,
    /// ECDSA P-256 in PKCS#8; it signs tokens.
    pub service_account_key: String,
    /// Verifies tokens. kube-apiserver could derive it from an RSA key, but not from an ECDSA key.
    pub service_account_public_key: String,
}

impl Certificates {
    /// `addresses` are the addresses at which clients reach the API server.
    pub fn generate(addresses: &[IpAddr]) -> Result<Self, rcgen::Error> {
        let mut authority = named("control-plane-authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let mut api_server = named("kube-apiserver");
        api_server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        api_server.use_authority_key_identifier_extension = true;
        for ip in addresses {
            api_server.subject_alt_names.push(SanType::IpAddress(*ip));
        }
        for name in ["localhost", "kubernetes.default", "kubernetes.default.svc"] {
            api_server.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        let api_server_key = KeyPair::generate()?;
        let api_server_certificate = api_server.signed_by(&api_server_key, &issuer)?;

        let mut kubelet_client = named("kube-apiserver-kubelet-client");
        kubelet_client.distinguished_name.push(DnType::OrganizationName, "system:masters");
        kubelet_client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let kubelet_client_key = KeyPair::generate()?;
        let kubelet_client_certificate = kubelet_client.signed_by(&kubelet_client_key, &issuer)?;

        let service_account = KeyPair::generate()?;

        Ok(Self {
            authority: authority_certificate.pem(),
            api_server: api_server_certificate.pem(),
            api_server_key: api_server_key.serialize_pem(),
            kubelet_client: kubelet_client_certificate.pem(),
            kubelet_client_key: kubelet_client_key.serialize_pem(),
            service_account_key: service_account.serialize_pem(),
            service_account_public_key: service_account.public_key_pem(),
        })
    }
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
