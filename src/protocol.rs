//! The wire format of enrollment: what a machine sends, what the service answers, and the limits on both.
//!
//! The service, its OpenAPI document and the client of `setupkey-operator enroll` all use what is here.

use std::net::Ipv6Addr;

use http::Uri;
use secrecy::zeroize::Zeroize;
use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{Array, ArrayBuilder, ObjectBuilder, Type},
};

/// The limits of a request. What a machine may send has to fit into a Peer; a test compares them with the CRDs.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Bytes of a body, at most.
    pub const BODY: usize = 8 * 1024;
    /// Characters of a setup key, all of printable ASCII, without what surrounds it. A key of ours has 36.
    pub const KEY: RangeInclusive<usize> = 1..=64;
    /// Characters of a public key: the base64 of 32 bytes.
    pub const PUBLIC_KEY: usize = 44;
    /// Characters of a hostname, as in DNS.
    pub const HOSTNAME: RangeInclusive<usize> = 1..=253;
    /// DNS labels of a machine, at most. NetBird: peer.go, AddPeer.
    pub const LABELS: usize = 32;
    /// Characters of a DNS label.
    pub const LABEL: RangeInclusive<usize> = 1..=63;
    /// Characters of a token. The least is 32 random bytes in base64 without padding.
    pub const TOKEN: RangeInclusive<usize> = 43..=256;
}

/// Whether a text may be the hostname of a machine. Not as strict as DNS, because machines have such names.
pub fn is_hostname(text: &str) -> bool {
    limits::HOSTNAME.contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// Reads the URL of a service, such as `https://enroll.example.com`. It is logged, so one with a password is none.
pub fn service_url(text: &str) -> Option<Uri> {
    let url: Uri = text.trim_end_matches('/').parse().ok()?;
    let authority = url.authority()?;
    let host = authority.host();
    let named = is_host(host) && (authority.as_str() == host || authority.port().is_some());
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    (known && named && url.query().is_none()).then_some(url)
}

/// Whether this is a name, an address of IPv4, or one of IPv6 in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_hostname(text),
    }
}

/// A setup key without what surrounds it: white space, and the mark with which some editors begin a file. NetBird: root.go,
/// getSetupKeyFromFile.
pub fn presented_key(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// Whether a text is a DNS label as Kubernetes has it (RFC 1123), in lower case. The name of a namespace is one, too.
pub fn is_dns_label(text: &str) -> bool {
    limits::LABEL.contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A machine that asks to join.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Enrollment)]
pub struct EnrollRequest {
    /// The setup key, in upper or lower case. White space around it does not count.
    #[schema(pattern = r"^[\t\n\r ]*[!-~]([ -~]{0,62}[!-~])?[\t\n\r ]*$")]
    pub setup_key: String,
    /// The public key of the machine: the base64 of 32 bytes, as `wg pubkey` prints it.
    #[schema(pattern = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")]
    pub public_key: String,
    /// The name that the machine gives itself.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,253}$")]
    pub hostname: String,
    /// DNS labels that the machine would like to have, if its key allows any. All are different.
    #[serde(default)]
    #[schema(required = false, schema_with = labels)]
    pub extra_dns_labels: Vec<String>,
    /// At least 32 random bytes in base64, chosen and kept by the machine. With the same token a request can be sent again
    /// without using the key twice. It is the Bearer token of the other calls.
    #[schema(pattern = "^[!-~]{43,256}$")]
    pub token: String,
}

/// Different DNS labels.
fn labels() -> Array {
    let label = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"));
    ArrayBuilder::new().items(label).max_items(Some(limits::LABELS)).unique_items(true).build()
}

impl Drop for EnrollRequest {
    fn drop(&mut self) {
        self.setup_key.zeroize();
        self.token.zeroize();
    }
}

/// The machine is a peer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// The name of the peer, by which it sends heartbeats and leaves.
    #[schema(pattern = "^peer-[0-9a-v]{20}$")]
    pub name: String,
    /// The namespace of the Peer.
    pub namespace: String,
    /// The groups that it has joined.
    pub groups: Vec<String>,
    /// Whether it is removed when it sends no heartbeats for a while.
    pub ephemeral: bool,
    /// The DNS labels that it has.
    pub extra_dns_labels: Vec<String>,
}

/// Why a request did not succeed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// A sentence for a person.
    pub message: String,
    /// The field of the body that is wrong, with 422.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub field: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use static_assertions::assert_not_impl_any;

    use super::*;
    use crate::{api, key::ledger::MOST_PENDING};

    assert_not_impl_any!(EnrollRequest: std::fmt::Debug, Clone);

    /// The schema of this property of a CRD.
    fn schema(crd: &str, path: &str) -> Value {
        let manifest = api::crd_manifests()
            .into_iter()
            .find(|manifest| manifest.text.contains(&format!("name: {crd}\n")))
            .unwrap();
        let manifest: Value = serde_yaml::from_str(&manifest.text).unwrap();
        let schema = manifest.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
        path.split('.').fold(schema.clone(), |schema, property| {
            let schema = if schema["type"] == "array" { schema["items"].clone() } else { schema };
            schema["properties"][property].clone()
        })
    }

    #[test]
    fn what_is_accepted_fits_into_a_peer_and_into_an_entry() {
        let (peer, entry) = ("peers.setupkey.dev", "setupkeys.setupkey.dev");
        for (crd, at) in [(peer, "spec"), (entry, "status.pending")] {
            let property = |name: &str| schema(crd, &format!("{at}.{name}"));
            assert_eq!(property("hostname")["maxLength"], json!(limits::HOSTNAME.end()), "{crd}");
            assert_eq!(property("publicKey")["maxLength"], json!(limits::PUBLIC_KEY), "{crd}");
            assert_eq!(property("extraDnsLabels")["maxItems"], json!(limits::LABELS), "{crd}");
            assert_eq!(property("extraDnsLabels")["items"]["maxLength"], json!(limits::LABEL.end()), "{crd}");
        }
        assert_eq!(schema(peer, "spec.hostname")["minLength"], json!(limits::HOSTNAME.start()));
        assert_eq!(schema(peer, "spec.extraDnsLabels")["items"]["minLength"], json!(limits::LABEL.start()));
        assert_eq!(schema(entry, "status.pending")["maxItems"], json!(MOST_PENDING));
    }

    #[test]
    fn an_answer_with_unknown_fields_is_understood() {
        let enrolled = json!({
            "name": "peer-a", "namespace": "n", "groups": [], "ephemeral": false, "extraDnsLabels": [], "new": 1,
        });
        assert_eq!(serde_json::from_value::<Enrolled>(enrolled).unwrap().name, "peer-a");
        let problem = json!({ "message": "no", "new": 1 });
        assert_eq!(serde_json::from_value::<Problem>(problem).unwrap(), Problem { message: "no".into(), field: None });
    }
}
