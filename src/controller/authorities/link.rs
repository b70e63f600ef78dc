//! The link to one authority: what is known of it, and the calls about its keys. Keeping it up is in [`poll`](super::poll).

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::{AuthorityName, object::AuthorityObject, rows::Rows};
use crate::{
    authority::netbird::{Client, Error},
    key::{
        KeyId, KeyValue,
        groups::Groups,
        record::Freshness,
        remote::{AuthorityView, GroupId, NewKey, OutOfReach, Reached, RemoteKey},
    },
};

/// Groups that were listed so short a time ago are not listed again, however many keys miss one.
const JUST_LISTED: Duration = Duration::from_secs(3);

/// Calls about the keys of one authority at a time. NetBird is saturated by two, and more only wait there.
const TURNS: usize = 4;

/// The pause after a refusal for too many calls that names none. NetBird's own names none.
const LIMITED: Duration = Duration::from_secs(5);

/// The pause after a call that the token's user may not make, though the role seems to allow it.
const FORBIDDEN: Duration = Duration::from_secs(30);

/// The reason of an authority without a token.
pub(super) const TOKEN_MISSING: &str = "TokenMissing";

/// The link to one authority.
pub struct Link {
    pub name: AuthorityName,
    pub(super) state: Mutex<State>,
    /// Ends the pause between two lists.
    pub(super) poke: Notify,
    /// One list of groups at a time.
    groups: tokio::sync::Mutex<()>,
    /// Calls about keys at a time.
    turns: Semaphore,
}

/// What is known of an authority.
pub(super) struct State {
    /// The object, or `None` once it is deleted.
    pub object: Option<AuthorityObject>,
    pub client: Option<Client>,
    /// What agents are told, by the version of the object that the client was made from.
    pub agent_url: Option<Arc<str>>,
    pub connection: Connection,
    pub rows: Rows,
    pub groups: Option<(Arc<Groups>, Instant)>,
    /// The server is not called before this moment.
    pub not_before: Option<Instant>,
    /// The UIDs of the keys that wait for a group.
    pub miss_groups: HashSet<String>,
    /// Whether the role of the token's user was looked at.
    pub is_role_known: bool,
}

/// Whether an authority can be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Connection {
    /// Its keys were not listed yet.
    New,
    /// Its keys are listed and can be changed.
    Up,
    /// It cannot be used.
    Down {
        /// The reason of its condition.
        reason: &'static str,
        /// Why, as a sentence.
        why: String,
    },
}

impl State {
    /// Whether calls can be made with the client. Once the object is deleted, the deletion of its token says nothing about
    /// NetBird: both go with their namespace, in any order.
    fn can_call(&self) -> bool {
        match self.connection {
            Connection::New => self.object.is_some(),
            Connection::Up => true,
            Connection::Down { reason, .. } => reason == TOKEN_MISSING && self.object.is_none(),
        }
    }
}

impl Link {
    pub fn new(name: AuthorityName, object: AuthorityObject) -> Self {
        let state = State {
            object: Some(object),
            client: None,
            agent_url: None,
            connection: Connection::New,
            rows: Rows::default(),
            groups: None,
            not_before: None,
            miss_groups: HashSet::new(),
            is_role_known: false,
        };
        Self {
            name,
            state: Mutex::new(state),
            poke: Notify::new(),
            groups: tokio::sync::Mutex::default(),
            turns: Semaphore::new(TURNS),
        }
    }

    /// What a pass over the key with this UID sees. Of an authority that was deleted, it sees what was known at that time, if
    /// the key is being deleted too.
    pub fn view(&self, uid: &str, allows_namespace: bool, is_deleted: bool) -> AuthorityView {
        let state = self.state.lock();
        let out_of_reach = match (&state.object, &state.connection) {
            (None, _) if is_deleted && state.can_call() => None,
            (None, _) => Some(OutOfReach::NotFound),
            (Some(_), Connection::Up) => None,
            (Some(_), Connection::New) => Some(OutOfReach::NotListed),
            (Some(_), Connection::Down { why, .. }) => Some(OutOfReach::NotReady(why.clone())),
        };
        // A pause is no outage, and nothing is reported of it unless a list fails too.
        let is_paused = state.object.is_some() && state.not_before.is_some_and(|moment| Instant::now() < moment);
        let out_of_reach = out_of_reach.or(is_paused.then_some(OutOfReach::NotListed));
        if let Some(out_of_reach) = out_of_reach {
            return AuthorityView::OutOfReach(out_of_reach);
        }
        let Some(keys) = state.rows.of(uid) else {
            // They are about to be listed, unless the object is gone.
            let listed = state.object.is_some();
            return AuthorityView::OutOfReach(if listed { OutOfReach::NotListed } else { OutOfReach::NotFound });
        };
        let object = state.object.as_ref();
        AuthorityView::Reached(Reached {
            keys,
            freshness: Freshness::Cached,
            allows_namespace,
            groups: state.groups.as_ref().map(|(groups, _)| Arc::clone(groups)),
            groups_are_fresh: false,
            allowed_groups: object.and_then(|object| object.allowed_groups.clone()),
            creates_groups: object.is_some_and(|object| object.netbird.create_groups),
            agent_url: state.agent_url.clone(),
        })
    }

    /// Whether the object is gone.
    pub fn is_gone(&self) -> bool {
        self.state.lock().object.is_none()
    }

    /// Whether every namespace may use it.
    pub fn allows_all(&self) -> bool {
        self.state.lock().object.as_ref().is_some_and(AuthorityObject::allows_all)
    }

    /// Whether a namespace with these labels may use it.
    pub fn allows(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.state.lock().object.as_ref().is_some_and(|object| object.allows(labels))
    }

    /// Creates a key for the `SetupKey` with this UID. After a lost answer, nothing is known of its keys until they are listed
    /// again.
    pub async fn create(&self, uid: &str, new: &NewKey) -> Result<(RemoteKey, KeyValue), Error> {
        let (_turn, client) = self.turn().await?;
        let created = client.create_key(new).await;
        match &created {
            Ok((key, _)) => self.state.lock().rows.set(key.clone()),
            Err(error) => {
                if error.may_have_been_carried_out() {
                    self.state.lock().rows.lost(uid);
                }
                self.failed(error);
            }
        }
        created
    }

    /// Revokes a key, or changes its groups.
    pub async fn update(&self, uid: &str, id: &KeyId, revoked: bool, groups: &BTreeSet<GroupId>) -> Result<(), Error> {
        let groups: Vec<_> = groups.iter().cloned().collect();
        let (_turn, client) = self.turn().await?;
        let updated = client.update_key(id, revoked, &groups).await;
        match updated {
            Ok(key) => self.state.lock().rows.set(key),
            Err(error) if error.is_missing_key() => self.state.lock().rows.removed(uid, id),
            Err(error) => {
                self.failed(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Deletes a key.
    pub async fn delete(&self, uid: &str, id: &KeyId) -> Result<(), Error> {
        let (_turn, client) = self.turn().await?;
        let deleted = client.delete_key(id).await;
        match &deleted {
            Ok(()) => self.state.lock().rows.removed(uid, id),
            Err(error) => self.failed(error),
        }
        deleted
    }

    /// Reads a key.
    pub async fn read(&self, uid: &str, id: &KeyId) -> Result<(), Error> {
        let (_turn, client) = self.turn().await?;
        match client.key(id).await {
            Ok(Some(key)) => self.state.lock().rows.set(key),
            Ok(None) => self.state.lock().rows.removed(uid, id),
            Err(error) => {
                self.failed(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lists the groups, unless that has just been done.
    pub async fn list_groups(&self) -> Result<(), Error> {
        let _one = self.groups.lock().await;
        if self.state.lock().groups.as_ref().is_some_and(|(_, at)| at.elapsed() < JUST_LISTED) {
            return Ok(());
        }
        let began = Instant::now();
        let (_turn, client) = self.turn().await?;
        let groups = client.groups().await.inspect_err(|error| self.failed(error))?;
        self.state.lock().groups = Some((Arc::new(groups.into_iter().collect()), began));
        Ok(())
    }

    /// Creates a group, unless another key has brought it about in the meantime.
    pub async fn create_group(&self, name: &str) -> Result<(), Error> {
        {
            let _one = self.groups.lock().await;
            let (_turn, client) = self.turn().await?;
            let known = self.state.lock().groups.as_ref().map(|(groups, _)| Arc::clone(groups));
            if known.is_none_or(|groups| groups.resolve(&[name.to_owned()], None).is_err()) {
                client.create_group(name).await.inspect_err(|error| self.failed(error))?;
            }
            self.state.lock().groups = None;
        }
        self.list_groups().await
    }

    /// Notes that the key with this UID waits for a group. The groups are then listed at each interval.
    pub fn misses_group(&self, uid: &str) {
        self.state.lock().miss_groups.insert(uid.to_owned());
    }

    /// Waits for a turn to make a call. There is none once a call before it has found that the server is away, or is not to
    /// be called for now.
    async fn turn(&self) -> Result<(SemaphorePermit<'_>, Client), Error> {
        // It is never closed.
        let turn = self.turns.acquire().await.map_err(|_| Error::Unreachable)?;
        let state = self.state.lock();
        let pause = state.not_before.map(|moment| moment.saturating_duration_since(Instant::now()));
        if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
            return Err(Error::RateLimited { retry_after: Some(pause) });
        }
        if !state.can_call() {
            return Err(Error::Unreachable);
        }
        Ok((turn, state.client.clone().ok_or(Error::Unreachable)?))
    }

    /// What a failed call says of the authority as a whole. Where it may be about this one call, a list is made at once to
    /// find out.
    fn failed(&self, error: &Error) {
        let Some(reason) = error.reason() else { return };
        let mut state = self.state.lock();
        match error {
            Error::RoleTooLow(_) => {
                state.is_role_known = false;
                state.not_before = Some(Instant::now() + FORBIDDEN);
                state.connection = Connection::Down { reason, why: sentence(error) };
            }
            Error::RateLimited { retry_after } => {
                state.not_before = Some(Instant::now() + retry_after.unwrap_or(LIMITED));
            }
            Error::Certificate(_) | Error::HostRefused(_) | Error::Insecure | Error::Tls | Error::TokenRefused(_) => {
                state.connection = Connection::Down { reason, why: sentence(error) }
            }
            // The list shows whether more than this call has failed.
            Error::Unreachable
            | Error::Timeout
            | Error::NotNetBird { .. }
            | Error::TooLarge
            | Error::Server { .. }
            | Error::NotFound(_)
            | Error::Invalid(_) => {}
        }
        drop(state);
        self.poke.notify_one();
    }
}

/// A sentence about a failure.
pub(super) fn sentence(error: &Error) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    format!("{}{}.", first.map(String::from).unwrap_or_default(), characters.as_str().trim_end_matches('.'))
}
