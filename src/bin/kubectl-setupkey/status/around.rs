//! What is read about one key: the `SetupKey`, and what is around it as far as the caller may see it.

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use setupkey_operator::{
    api::{AuthorityKind, AuthorityReference, Peer, SetupKey, metadata::KEY_LABEL},
    audit::Readers,
    cluster::call::Error,
};

use crate::{audit, events, failure::Failure, management, session::Session};

/// A part of the report, or why it is not shown, as in "you may not list pods".
pub type Part<T> = Result<T, String>;

/// What is around a key.
pub struct Around {
    /// The workloads of the namespace that read Secrets.
    pub readers: Part<Readers>,
    /// The Peers with the label of the key.
    pub peers: Part<Vec<Peer>>,
    /// The events about `SetupKey`s of this name.
    pub events: Part<Vec<Event>>,
    /// The URL of the authority; `None` for a key of the cluster itself.
    pub authority_url: Option<Part<String>>,
}

impl Around {
    /// Reads the key of this name and what is around it. Without the key, the rest does not matter.
    pub async fn read(session: &Session, name: &str) -> Result<(SetupKey, Self), Failure> {
        let of_key = ListParams::default().labels(&format!("{KEY_LABEL}={name}"));
        let about_key = ListParams::default().fields(&events::fields(name));
        let (keys, namespace) = (&session.keys, Some(session.namespace.as_str()));
        let (key, readers, peers, events) = futures::join!(
            session.key(name),
            audit::readers(keys, namespace),
            keys.list_of::<Peer>("Peers", namespace, of_key),
            keys.list_of::<Event>("events", namespace, about_key),
        );
        let key = key?;
        let authority_url = match &key.spec.authority_ref {
            None => None,
            Some(authority) => Some(url(session, authority).await),
        };
        let around = Self {
            readers: readers.map_err(|error| hidden(&error, "list pods")),
            peers: peers.map_err(|error| hidden(&error, "list peers.setupkey.dev")),
            events: events.map_err(|error| hidden(&error, "list events.events.k8s.io")),
            authority_url,
        };
        Ok((key, around))
    }
}

/// Why a part is not shown.
fn hidden(error: &Error, right: &str) -> String {
    match error.code() {
        Some(403) => format!("you may not {right}"),
        _ => error.why(),
    }
}

/// The URL of an authority, as its spec has it.
async fn url(session: &Session, authority: &AuthorityReference) -> Part<String> {
    let right = match authority.kind {
        AuthorityKind::Authority => "get authorities.setupkey.dev",
        AuthorityKind::ClusterAuthority => "get clusterauthorities.setupkey.dev",
    };
    management::netbird(session, authority).await.map(|netbird| netbird.url).map_err(|error| hidden(&error, right))
}
