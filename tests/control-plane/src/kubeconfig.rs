//! The file that tells a client where the API server is, how to recognize it, and which user the client is.

use base64::{Engine, engine::general_purpose::STANDARD};

/// The certificate authority is inside the file, so a copy of the file works anywhere.
pub fn render(url: &str, authority_pem: &str, user: &str, token: &str) -> String {
    let authority = STANDARD.encode(authority_pem);
    format!(
        "\
apiVersion: v1
kind: Config
clusters:
- name: control-plane
  cluster:
    server: {url}
    certificate-authority-data: {authority}
users:
- name: {user}
  user:
    token: {token}
contexts:
- name: control-plane
  context:
    cluster: control-plane
    user: {user}
current-context: control-plane
"
    )
}
