//! Where the machines of a key at NetBird join, and where people see them.

use kube::Api;
use setupkey_operator::{
    api::{Authority, AuthorityKind, AuthorityReference, ClusterAuthority, NetBird, SetupKey},
    cluster::call::{Attempt, Error, call_within},
    protocol::service_url,
};

use crate::{failure::Failure, session::Session};

/// The URL that NetBird's agents join at with a key of this authority, or a sentence that says why it is not known.
///
/// The status of the key has it where the Secret does. Otherwise the authority is asked, which takes the right to read it.
pub async fn agent_url(session: &Session, key: &SetupKey, authority: &AuthorityReference) -> Result<String, String> {
    let secret = key.status.as_ref().and_then(|status| status.secret.as_ref());
    if let Some(url) = secret.and_then(|secret| secret.management_url.clone()) {
        return checked(url);
    }
    checked(said(netbird(session, authority).await)?.agent_url().to_owned())
}

/// The base of NetBird's management API, or a sentence that says why it is not known.
pub async fn url(session: &Session, authority: &AuthorityReference) -> Result<String, String> {
    checked(said(netbird(session, authority).await)?.url)
}

/// The NetBird account of an authority, as its spec has it.
pub async fn netbird(session: &Session, authority: &AuthorityReference) -> Result<NetBird, Error> {
    let (client, limit, name) = (session.keys.client.clone(), session.keys.limit, authority.name.as_str());
    match authority.kind {
        AuthorityKind::Authority => {
            let attempt = Attempt::on("read Authority", &session.namespace, name);
            let there = Api::<Authority>::namespaced(client, &session.namespace);
            call_within(limit, attempt, there.get(name)).await.map(|authority| authority.spec.netbird)
        }
        AuthorityKind::ClusterAuthority => {
            let attempt = Attempt::to(format!("read ClusterAuthority {name}"));
            let there = Api::<ClusterAuthority>::all(client);
            call_within(limit, attempt, there.get(name)).await.map(|authority| authority.spec.netbird)
        }
    }
}

fn said(read: Result<NetBird, Error>) -> Result<NetBird, String> {
    read.map_err(|error| Failure::from(error).to_string())
}

/// The API server holds authorities to this form too. Those that are older than its rule can differ.
fn checked(url: String) -> Result<String, String> {
    match service_url(&url) {
        Some(_) => Ok(url),
        None => Err(format!("the authority has {url:?}, which is no URL such as https://netbird.example.com")),
    }
}
