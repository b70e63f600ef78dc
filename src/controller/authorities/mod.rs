//! The authorities behind keys: a link to each, and who may use it.
//!
//! A pass over a key that names an authority sees it through its link ([`Authorities::view`]). A link lists its keys once an
//! interval. The reconciler is then called for each key whose row in the list has changed.

mod link;
pub mod object;
mod poll;
mod report;
mod rows;
mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use kube::{Api, Client, Resource, ResourceExt, api::Patch};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Environment,
    election::Leadership,
    metrics::Metrics,
    notify::{Notifier, secret_reference},
    queue::Queue,
    watch::{Cache, Sort, WatchedKey},
    write,
};
use crate::{
    api::{Authority, AuthorityKind, AuthorityStatus, ClusterAuthority, SetupKey},
    authority::netbird::Hosts,
    cluster::{
        ObjectName,
        call::{Attempt, call},
        patch_params,
    },
    key::{
        remote::{AuthorityView, OutOfReach},
        transition::Notice,
    },
};
pub use link::Link;
pub use object::AuthorityName;
use object::AuthorityObject;
use poll::Poll;

/// A link, and the task that keeps it up.
type Linked = (Arc<Link>, Option<AbortOnDropHandle<()>>);

/// The authorities of all scopes.
pub struct Authorities {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    notifier: Notifier,
    hosts: Hosts,
    /// Where the tokens of `ClusterAuthority`s are.
    namespace: String,
    /// Whether keys may name `ClusterAuthority`s.
    of_cluster: bool,
    interval: Option<Duration>,
    links: Mutex<HashMap<AuthorityName, Linked>>,
    /// The kinds, and scopes of them, that are not listed yet.
    unlisted: Mutex<HashSet<(AuthorityKind, Option<String>)>>,
    /// The labels of the namespaces, once they are listed.
    namespaces: Mutex<Option<HashMap<String, BTreeMap<String, String>>>>,
    /// The keys of each scope, and the queue of their reconciler.
    scopes: Mutex<Vec<(Cache<WatchedKey>, Arc<Queue>)>>,
}

/// Ends the links when it is dropped. Each of them holds all authorities.
pub struct Ending(pub Arc<Authorities>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.links.lock().clear();
        self.0.scopes.lock().clear();
    }
}

impl Authorities {
    /// No authorities are known yet. The watches of these namespaces, or of all, must be run ([`Self::run`]).
    pub fn new(environment: &Environment, notifier: Notifier, namespaces: &[Option<String>]) -> Arc<Self> {
        let scoped = namespaces.iter().map(|namespace| (AuthorityKind::Authority, namespace.clone()));
        Arc::new(Self {
            client: environment.client.clone(),
            leadership: environment.leadership.clone(),
            metrics: environment.metrics.clone(),
            notifier,
            hosts: environment.authorities.hosts.clone(),
            namespace: environment.authorities.namespace.clone(),
            of_cluster: environment.authorities.of_cluster,
            interval: environment.authorities.interval,
            links: Mutex::default(),
            unlisted: Mutex::new(scoped.chain([(AuthorityKind::ClusterAuthority, None)]).collect()),
            namespaces: Mutex::default(),
            scopes: Mutex::default(),
        })
    }

    /// Watches authorities and namespaces, until it is dropped.
    pub async fn run(self: Arc<Self>, namespaces: Vec<Option<String>>) {
        watch::run(self, namespaces).await;
    }

    /// Adds the keys of a scope. Those to which something has happened at their authority are put into the queue.
    pub fn add(&self, keys: Cache<WatchedKey>, queue: Arc<Queue>) {
        self.scopes.lock().push((keys, queue));
    }

    /// What is known of the authority of a key, and the link to it, if there is one.
    pub fn view(&self, key: &SetupKey) -> (AuthorityView, Option<Arc<Link>>) {
        let Some(name) = AuthorityName::of_key(key) else { return (AuthorityView::Cluster, None) };
        if name.kind == AuthorityKind::ClusterAuthority && !self.of_cluster {
            return (AuthorityView::OutOfReach(OutOfReach::NotOffered), None);
        }
        let Some(link) = self.links.lock().get(&name).map(|(link, _)| Arc::clone(link)) else {
            let listed = !self.unlisted.lock().iter().any(|(kind, namespace)| {
                *kind == name.kind && namespace.as_ref().is_none_or(|namespace| *namespace == name.namespace)
            });
            let view = if listed { OutOfReach::NotFound } else { OutOfReach::NotListed };
            return (AuthorityView::OutOfReach(view), None);
        };
        let Some(allows) = self.allows(&link, key) else {
            return (AuthorityView::OutOfReach(OutOfReach::NotListed), Some(link));
        };
        let is_deleted = key.metadata.deletion_timestamp.is_some();
        let view = link.view(key.metadata.uid.as_deref().unwrap_or_default(), allows, is_deleted);
        (view, Some(link))
    }

    /// Whether the namespace of a key may use an authority. `None` while that is not known.
    fn allows(&self, link: &Link, key: &SetupKey) -> Option<bool> {
        if link.name.kind == AuthorityKind::Authority || link.allows_all() || link.is_gone() {
            return Some(true);
        }
        let namespaces = self.namespaces.lock();
        let labels = namespaces.as_ref()?.get(&key.namespace().unwrap_or_default());
        Some(labels.is_some_and(|labels| link.allows(labels)))
    }

    /// Takes up the objects of a kind in a namespace, or in all: these are all there are.
    fn listed(self: &Arc<Self>, kind: AuthorityKind, namespace: Option<&str>, objects: Vec<AuthorityObject>) {
        let names: HashSet<_> = objects.iter().map(AuthorityObject::name).collect();
        objects.into_iter().for_each(|object| self.changed(object));
        let in_scope =
            |name: &AuthorityName| name.kind == kind && namespace.is_none_or(|namespace| namespace == name.namespace);
        let known: Vec<_> = self.links.lock().keys().filter(|name| in_scope(name)).cloned().collect();
        known.iter().filter(|name| !names.contains(name)).for_each(|name| self.deleted(name));
        self.unlisted.lock().remove(&(kind, namespace.map(str::to_owned)));
        // Keys that name one that is not there must say so.
        self.wake(|key| AuthorityName::of_key(key).is_some_and(|name| in_scope(&name)));
    }

    fn changed(self: &Arc<Self>, object: AuthorityObject) {
        let name = object.name();
        let mut links = self.links.lock();
        let known = links.get(&name).filter(|(link, _)| {
            link.state.lock().object.as_ref().is_some_and(|known| known.metadata.uid == object.metadata.uid)
        });
        if let Some((link, _)) = known {
            let mut state = link.state.lock();
            let changed = state.object.as_ref().is_none_or(|known| !known.is_same(&object));
            state.object = Some(object);
            drop(state);
            if changed {
                link.poke.notify_one();
                drop(links);
                self.wake_all(&name);
            }
            return;
        }
        let link = Arc::new(Link::new(name.clone(), object));
        let poll = Poll::new(Arc::clone(&link), Arc::clone(self)).run();
        links.insert(name, (link, Some(AbortOnDropHandle::new(tokio::spawn(poll)))));
    }

    /// The link stays as it is, for keys that are deleted together with their authority.
    fn deleted(&self, name: &AuthorityName) {
        if let Some((link, poll)) = self.links.lock().get_mut(name) {
            link.state.lock().object = None;
            *poll = None;
        }
        self.metrics.authorities().gone(&name.to_string());
        self.wake_all(name);
    }

    /// Takes up the labels of the namespaces.
    fn namespaces_changed(
        &self,
        change: impl FnOnce(&mut HashMap<String, BTreeMap<String, String>>),
        of: Option<&str>,
    ) {
        change(self.namespaces.lock().get_or_insert_default());
        let names_one = |key: &SetupKey| {
            key.spec.authority_ref.as_ref().is_some_and(|named| named.kind == AuthorityKind::ClusterAuthority)
        };
        self.wake(|key| {
            names_one(key) && of.is_none_or(|namespace| key.metadata.namespace.as_deref() == Some(namespace))
        });
    }

    /// Wakes the keys of an authority.
    fn wake_all(&self, authority: &AuthorityName) {
        for (keys, queue) in self.scopes.lock().iter() {
            queue.add_all(keys.marked(authority.mark()));
        }
    }

    /// Wakes the keys of an authority with these UIDs.
    fn wake_owners(&self, authority: &AuthorityName, owners: &HashSet<String>) {
        for (keys, queue) in self.scopes.lock().iter() {
            queue.add_all(owners.iter().flat_map(|uid| keys.marked(authority.mark_of_owner(uid))));
        }
    }

    /// Wakes those keys at authorities that fit, in all scopes.
    fn wake(&self, fits: impl Fn(&SetupKey) -> bool) {
        for (keys, queue) in self.scopes.lock().iter() {
            let at_authorities = keys.all_marked(Sort::Authority).into_iter().map(|(_, name)| name);
            let fits = |name: &Arc<ObjectName>| keys.get(name).is_some_and(|key| key.0.as_ref().is_ok_and(&fits));
            queue.add_all(at_authorities.filter(fits));
        }
    }

    /// How many keys at an authority belong to `SetupKey`s that this process watches.
    fn count_keys(&self, link: &Link) -> i64 {
        let scopes = self.scopes.lock();
        let is_ours = |owner: &str| {
            let mark = link.name.mark_of_owner(owner);
            scopes.iter().any(|(keys, _)| keys.has(mark))
        };
        let count = link.state.lock().rows.count(is_ours);
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    /// Publishes a notice about an authority, with the Secret of its token.
    fn notify(&self, written: &impl Resource<DynamicType = ()>, object: &AuthorityObject, notice: Option<Notice>) {
        let token = secret_reference(object.token_namespace(&self.namespace), &object.netbird.token_secret_ref.name);
        notice.into_iter().for_each(|notice| self.notifier.notify_about(written, Some(token.clone()), notice));
    }

    /// Writes the status of an authority, if it is not written already.
    async fn report(&self, link: &Link, object: &AuthorityObject, status: AuthorityStatus) {
        if status == object.status {
            return;
        }
        let AuthorityName { kind, namespace, name } = &link.name;
        let attempt = Attempt::on(&format!("write the status of {kind:?}"), namespace, name);
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": object.metadata.resource_version },
            "status": write::changes(&object.status, &status),
        }));
        let client = self.client.clone();
        let notice = report::notice(&object.status, &status);
        let written = match kind {
            AuthorityKind::Authority => {
                let authorities: Api<Authority> = Api::namespaced(client, namespace);
                call(attempt, authorities.patch_status(name, &patch_params(), &patch)).await.map(|written| {
                    self.notify(&written, object, notice);
                    AuthorityObject::from(&written)
                })
            }
            AuthorityKind::ClusterAuthority => {
                let authorities: Api<ClusterAuthority> = Api::all(client);
                call(attempt, authorities.patch_status(name, &patch_params(), &patch)).await.map(|written| {
                    self.notify(&written, object, notice);
                    AuthorityObject::from(&written)
                })
            }
        };
        match written {
            Ok(written) => {
                if let Some(object) = &mut link.state.lock().object
                    && object.is_same(&written)
                {
                    *object = written;
                }
            }
            // The next look writes it.
            Err(error) => tracing::warn!(authority = %link.name, %error, "the status of an authority is not written"),
        }
    }
}
