//! Callers: ServiceAccounts with some rights, and tokens that are not valid.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::Value;

use crate::harness::{Cluster, control_plane_folder};

/// All rights that the API can use.
pub const EVERYTHING: &[&str] = &["list,get,create,patch,delete setupkeys.setupkey.dev", "get secrets"];

/// A token of a new ServiceAccount with these rights (each `verbs resource`) in the namespace of the test.
pub fn token_of(cluster: &Cluster, name: &str, rights: &[&str]) -> String {
    cluster.kubectl_ok(&["create", "serviceaccount", name], "");
    for (number, right) in rights.iter().enumerate() {
        let (verbs, resource) = right.split_once(' ').expect("verbs and a resource");
        let role = format!("{name}-{number}");
        let (verbs, resource) = (format!("--verb={verbs}"), format!("--resource={resource}"));
        cluster.kubectl_ok(&["create", "role", &role, &verbs, &resource], "");
        let account = format!("--serviceaccount={}:{name}", cluster.namespace);
        cluster.kubectl_ok(&["create", "rolebinding", &role, &format!("--role={role}"), &account], "");
    }
    token(cluster, name, &[])
}

/// A token of a ServiceAccount.
pub fn token(cluster: &Cluster, name: &str, flags: &[&str]) -> String {
    cluster.kubectl_ok(&[&["create", "token", name], flags].concat(), "").trim().to_owned()
}

/// The same token with another lifetime, `seconds` from its issue. It is signed as the API server signs.
pub fn with_lifetime(token: &str, seconds: i64) -> String {
    let parts: Vec<_> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    // Issued an hour ago, so that a short lifetime is over.
    let issued = claims["iat"].as_i64().unwrap() - 3600;
    for (claim, moment) in [("iat", issued), ("nbf", issued), ("exp", issued + seconds)] {
        claims[claim] = moment.into();
    }
    let signed = format!("{}.{}", parts[0], BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = std::fs::read(control_plane_folder().join("service-account.key")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der(), &random).unwrap();
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
