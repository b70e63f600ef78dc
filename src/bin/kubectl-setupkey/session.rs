//! The way to the cluster, and what every verb asks it.

use chrono::{DateTime, Utc};
use kube::{api::ListParams, core::error_boundary::InvalidObject};
use setupkey_operator::{
    actions::{Keys, gitops::managed_by},
    api::SetupKey,
    cluster::{
        Clock, ObjectName, SystemClock, connect,
        kubeconfig::{self, Choice},
        pages::LimitPages,
        tuned,
    },
};

use crate::{
    failure::Failure,
    flags::{Connection, Selection, Targets},
    print::Printer,
};

/// The field manager of this program's writes.
pub const FIELD_MANAGER: &str = "kubectl-setupkey";

/// Objects in one page of a list, as with kubectl. The process ends with its list, so it keeps no memory.
const PAGE: u32 = 500;

/// A name that differs in more characters than this is not suggested.
const MOST_TYPOS: usize = 3;

/// A connection to the cluster, with the rights of the caller.
pub struct Session {
    /// The keys of the cluster.
    pub keys: Keys,
    /// The namespace of the flag, or of the context.
    pub namespace: String,
}

/// The keys that a verb is about.
pub struct Chosen {
    /// The keys.
    pub keys: Vec<SetupKey>,
    /// Those that cannot be read, as in `network/office`.
    pub unread: Vec<String>,
}

impl Session {
    /// Connects as the flags and the kubeconfig say.
    pub fn start(connection: &Connection) -> Result<Self, Failure> {
        let Connection { namespace, context, kubeconfig, impersonate, impersonate_groups, request_timeout } =
            connection;
        let choice = Choice { kubeconfig: kubeconfig.clone(), context: context.clone() };
        let mut config = tuned(kubeconfig::choose(&choice)?);
        if impersonate.is_some() {
            config.auth_info.impersonate.clone_from(impersonate);
            config.auth_info.impersonate_groups = Some(impersonate_groups.clone()).filter(|groups| !groups.is_empty());
        }
        let namespace = namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        if config.proxy_url.is_none() {
            // Each call has a limit of its own, and TCP's keepalive looks after a watch. A proxy answers it itself.
            config.read_timeout = None;
        }
        let client =
            connect(config).map_err(|error| Failure::new(format!("the kubeconfig cannot be used: {error}")))?;
        let client = client.with_layer(&LimitPages).build();
        let keys = Keys { client, manager: FIELD_MANAGER, limit: *request_timeout, page: PAGE };
        Ok(Self { keys, namespace })
    }

    /// The moment that ages and remaining times are computed for.
    pub fn now(&self) -> DateTime<Utc> {
        SystemClock.now()
    }

    /// The namespace that a selection is about, or `None` for all.
    pub fn scope(&self, selection: &Selection) -> Option<&str> {
        (!selection.all_namespaces).then_some(self.namespace.as_str())
    }

    /// The keys of a selection. One that cannot be read is told of, and hides no other.
    pub async fn select(&self, selection: &Selection, printer: &Printer) -> Result<Chosen, Failure> {
        self.list(self.scope(selection), selection.selector.as_deref(), printer).await
    }

    /// The keys that a verb is to change; `None` if there are none, which is told. Each name must be there, or nothing is
    /// changed.
    pub async fn targets(&self, targets: &Targets, printer: &Printer) -> Result<Option<Chosen>, Failure> {
        if targets.names.is_empty() {
            let chosen = self.list(Some(&self.namespace), targets.selector.as_deref(), printer).await?;
            if chosen.keys.is_empty() && chosen.unread.is_empty() {
                printer.note(&none_found(Some(&self.namespace)));
                return Ok(None);
            }
            return Ok(Some(chosen));
        }
        let mut keys: Vec<SetupKey> = Vec::new();
        for name in &targets.names {
            if keys.iter().all(|key| key.metadata.name.as_deref() != Some(name)) {
                keys.push(self.key(name).await?);
            }
        }
        Ok(Some(Chosen { keys, unread: Vec::new() }))
    }

    async fn list(
        &self,
        namespace: Option<&str>,
        selector: Option<&str>,
        printer: &Printer,
    ) -> Result<Chosen, Failure> {
        let params = selector.map_or_else(ListParams::default, |labels| ListParams::default().labels(labels));
        let page = self.keys.list(namespace, params).await?;
        page.undecodable.iter().for_each(|invalid| printer.warn(&left_out(invalid)));
        let unread = page.undecodable.iter().map(|invalid| ObjectName::from(&invalid.metadata).to_string());
        Ok(Chosen { keys: page.keys, unread: unread.collect() })
    }

    /// The key of this name in the namespace, or a failure that names the nearest one.
    pub async fn key(&self, name: &str) -> Result<SetupKey, Failure> {
        let found = self.keys.get(&ObjectName::new(&self.namespace, name)).await?;
        match found {
            Some(key) => Ok(key),
            None => Err(self.no_such_key(name).await),
        }
    }

    /// Warns that a GitOps tool is going to put this field back.
    pub fn warn_of_gitops(&self, key: &SetupKey, field: &str, printer: &Printer) {
        if let Some(tool) = managed_by(&key.metadata) {
            let name = ObjectName::of(key);
            printer.warn(&format!("{tool} manages SetupKey {name} and may put {field} back: change it in Git too"));
        }
    }

    async fn no_such_key(&self, name: &str) -> Failure {
        let namespace = &self.namespace;
        let there = self.keys.list(Some(namespace), ListParams::default()).await.map(|page| page.keys);
        let names = there.iter().flatten().filter_map(|key| key.metadata.name.as_deref());
        Failure::new(match (nearest(name, names), &there) {
            (Some(nearest), _) => format!("there is no SetupKey {namespace}/{name}; did you mean {nearest}?"),
            (None, Ok(keys)) if keys.is_empty() => format!(
                "there is no SetupKey {namespace}/{name}, and none at all in namespace {namespace}: give -n with another namespace"
            ),
            (None, _) => format!(
                "there is no SetupKey {namespace}/{name}: kubectl setupkey list -n {namespace} shows those that are there"
            ),
        })
    }
}

/// What is told where a selection has no key.
pub fn none_found(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("No SetupKeys found in namespace {namespace}."),
        None => "No SetupKeys found.".to_owned(),
    }
}

/// The name that is most like this one, if one is.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = MOST_TYPOS.min(name.len() / 2);
    let near = names.map(|other| (strsim::osa_distance(name, other), other)).filter(|(typos, _)| *typos <= most);
    near.min().map(|(_, other)| other)
}

fn left_out(invalid: &InvalidObject) -> String {
    let name = ObjectName::from(&invalid.metadata);
    format!("SetupKey {name} is left out, because it cannot be read: {}", invalid.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_a_person_may_have_meant() {
        let names = ["office", "kiosks", "officer"];
        for (typed, meant) in [("offcie", Some("office")), ("ofice", Some("office")), ("kiosk", Some("kiosks"))] {
            assert_eq!(nearest(typed, names.into_iter()), meant, "{typed}");
        }
        for typed in ["vpn", "a", "laptop"] {
            assert_eq!(nearest(typed, names.into_iter()), None, "{typed}");
        }
    }
}
