//! An authority, the API server's certificate, and the key that signs service-account tokens.

use std::net::IpAddr;

use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};

use crate::authority::{self, Authority};

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
        let authority = Authority::named("control-plane-authority")?;

        let mut api_server = authority::server("kube-apiserver", addresses);
        for name in ["localhost", "kubernetes.default", "kubernetes.default.svc"] {
            api_server.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        let api_server = authority.sign(api_server)?;

        let mut kubelet_client = authority::named("kube-apiserver-kubelet-client");
        kubelet_client.distinguished_name.push(DnType::OrganizationName, "system:masters");
        kubelet_client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let kubelet_client = authority.sign(kubelet_client)?;

        let service_account = KeyPair::generate()?;

        Ok(Self {
            authority: authority.pem().to_owned(),
            api_server: api_server.certificate,
            api_server_key: api_server.key,
            kubelet_client: kubelet_client.certificate,
            kubelet_client_key: kubelet_client.key,
            service_account_key: service_account.serialize_pem(),
            service_account_public_key: service_account.public_key_pem(),
        })
    }
}
