//! The two kinds of authorities as one.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{
    Resource, ResourceExt,
    core::{Selector, SelectorExt},
};

use crate::{
    api::{Authority, AuthorityKind, AuthorityReference, AuthorityStatus, ClusterAuthority, NetBird, SetupKey},
    controller::watch::{Mark, Sort},
};

/// The kind, namespace and name of an authority.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AuthorityName {
    pub kind: AuthorityKind,
    /// Empty for a `ClusterAuthority`.
    pub namespace: String,
    pub name: String,
}

impl AuthorityName {
    /// The authority that a key names, if it names one.
    pub fn of_key(key: &SetupKey) -> Option<Self> {
        let AuthorityReference { kind, name } = key.spec.authority_ref.clone()?;
        let namespace = match kind {
            AuthorityKind::Authority => key.namespace().unwrap_or_default(),
            AuthorityKind::ClusterAuthority => String::new(),
        };
        Some(Self { kind, namespace, name })
    }

    /// The mark of the keys that name this authority.
    pub fn mark(&self) -> Mark {
        Mark::new(Sort::Authority, self)
    }

    /// The mark of the key that names this authority and has this UID.
    pub fn mark_of_owner(&self, uid: &str) -> Mark {
        Mark::new(Sort::Owner, (self, uid))
    }
}

impl From<AuthorityName> for ObjectReference {
    fn from(AuthorityName { kind, namespace, name }: AuthorityName) -> Self {
        Self {
            api_version: Some(Authority::api_version(&()).into_owned()),
            kind: Some(format!("{kind:?}")),
            namespace: Some(namespace).filter(|namespace| !namespace.is_empty()),
            name: Some(name),
            ..Self::default()
        }
    }
}

impl fmt::Display for AuthorityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            AuthorityKind::Authority => write!(f, "Authority/{}/{}", self.namespace, self.name),
            AuthorityKind::ClusterAuthority => write!(f, "ClusterAuthority/{}", self.name),
        }
    }
}

/// An `Authority` or a `ClusterAuthority`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorityObject {
    pub metadata: ObjectMeta,
    pub kind: AuthorityKind,
    pub netbird: NetBird,
    pub allowed_groups: Option<Arc<[String]>>,
    /// Only a `ClusterAuthority` has one.
    selector: Option<LabelSelector>,
    pub status: AuthorityStatus,
}

impl From<&Authority> for AuthorityObject {
    fn from(object: &Authority) -> Self {
        Self {
            metadata: object.metadata.clone(),
            kind: AuthorityKind::Authority,
            netbird: object.spec.netbird.clone(),
            allowed_groups: object.spec.allowed_groups.as_deref().map(Into::into),
            selector: None,
            status: object.status.clone().unwrap_or_default(),
        }
    }
}

impl From<&ClusterAuthority> for AuthorityObject {
    fn from(object: &ClusterAuthority) -> Self {
        Self {
            metadata: object.metadata.clone(),
            kind: AuthorityKind::ClusterAuthority,
            netbird: object.spec.netbird.clone(),
            allowed_groups: object.spec.allowed_groups.as_deref().map(Into::into),
            selector: Some(object.spec.namespace_selector.clone()),
            status: object.status.clone().unwrap_or_default(),
        }
    }
}

impl AuthorityObject {
    pub fn name(&self) -> AuthorityName {
        AuthorityName {
            kind: self.kind,
            namespace: self.metadata.namespace.clone().unwrap_or_default(),
            name: self.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// Where the Secret of the token is: for a `ClusterAuthority`, in the namespace of the operator.
    pub fn token_namespace<'a>(&'a self, of_operator: &'a str) -> &'a str {
        self.metadata.namespace.as_deref().unwrap_or(of_operator)
    }

    /// Whether this is the same object in the same version of its spec.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.metadata.uid, self.metadata.generation) == (&other.metadata.uid, other.metadata.generation)
    }

    /// Whether every namespace may use it, whatever its labels.
    pub fn allows_all(&self) -> bool {
        self.selector.as_ref().is_none_or(|selector| {
            selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
                && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
        })
    }

    /// Whether a namespace with these labels may use it. A selector that cannot be read allows none.
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        self.allows_all()
            || self
                .selector
                .clone()
                .and_then(|selector| Selector::try_from(selector).ok())
                .is_some_and(|selector| selector.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allows(selector: serde_json::Value, labels: &[(&str, &str)]) -> bool {
        let object: ClusterAuthority = serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "ClusterAuthority", "metadata": { "name": "a" },
            "spec": {
                "netbird": { "url": "https://netbird.example.com", "tokenSecretRef": { "name": "t" } },
                "namespaceSelector": selector,
            },
        }))
        .unwrap();
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        AuthorityObject::from(&object).allows(&labels)
    }

    #[test]
    fn an_empty_selector_selects_all_and_another_by_labels() {
        assert!(allows(json!({}), &[]));
        let team = json!({ "matchLabels": { "team": "a" } });
        assert!(allows(team.clone(), &[("team", "a"), ("more", "b")]));
        assert!(!allows(team.clone(), &[("team", "b")]));
        assert!(!allows(team, &[]));
        let either = json!({ "matchExpressions": [{ "key": "team", "operator": "In", "values": ["a", "b"] }] });
        assert!(allows(either.clone(), &[("team", "b")]));
        assert!(!allows(either, &[("team", "c")]));
    }

    #[test]
    fn a_selector_that_cannot_be_read_selects_none() {
        let strange = json!({ "matchExpressions": [{ "key": "team", "operator": "Near", "values": ["a"] }] });
        assert!(!allows(strange, &[("team", "a")]));
    }
}
