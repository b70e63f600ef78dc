//! Keeping a link up: the token is read, the keys are listed once an interval, and the status of the authority follows.
//!
//! One list serves all keys of the authority. When a list fails, the pause before the next one grows, for the authority and
//! not for each key, and a pause that the server asks for is kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use kube::runtime::watcher::ExponentialBackoff;
use secrecy::zeroize::Zeroizing;

use super::{
    Authorities,
    link::{Connection, Link, TOKEN_MISSING, sentence},
    object::AuthorityObject,
};
use crate::{
    api::Timestamp,
    authority::netbird::{Client, Endpoint, Error, Token},
    cluster::{ObjectName, backoff, secrets},
};

/// The shortest and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// How often the Secret with the token is looked at, which costs NetBird nothing: while the authority cannot be used, and else.
const TOKEN_PAUSES: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));

/// The least time between two lists, however many calls have failed in between.
const SHORTEST: Duration = Duration::from_millis(500);

/// Names of groups can change at NetBird, so they are listed again after this time.
const GROUPS_AGE: Duration = Duration::from_secs(3600);

/// How long what is known of the token's user holds.
const ROLE_AGE: Duration = Duration::from_secs(24 * 3600);

/// The work of keeping one link up.
pub struct Poll {
    link: Arc<Link>,
    all: Arc<Authorities>,
    /// The object and the version of the token that the client was made from.
    made_from: Option<(AuthorityObject, String)>,
    pauses: ExponentialBackoff,
    /// When the keys are listed next.
    due: Instant,
    role_seen: Option<Instant>,
    token_expires: Option<Timestamp>,
    was_down: bool,
}

impl Poll {
    pub fn new(link: Arc<Link>, all: Arc<Authorities>) -> Self {
        Self {
            link,
            all,
            made_from: None,
            pauses: backoff(PAUSES.0, PAUSES.1),
            due: Instant::now(),
            role_seen: None,
            token_expires: None,
            was_down: false,
        }
    }

    /// Runs until this process does not lead any more. It makes no call before it leads.
    pub async fn run(mut self) {
        if !self.all.leadership.clone().taken_up().await {
            return;
        }
        while self.all.leadership.holds() {
            let began = Instant::now();
            let pause = self.look().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.link.poke.notified() => {
                    tokio::time::sleep(SHORTEST.saturating_sub(began.elapsed())).await;
                    let now = Instant::now();
                    self.due = self.link.state.lock().not_before.map_or(now, |moment| moment.max(now));
                }
            }
        }
    }

    /// Looks at the token, and lists the keys if it is time. Returns the pause until the next look.
    async fn look(&mut self) -> Duration {
        let Some(object) = self.link.state.lock().object.clone() else {
            return Duration::MAX; // The link ends with the object.
        };
        match self.prepare(&object).await {
            Ok(true) => self.due = Instant::now(),
            Ok(false) => {}
            Err(down) => {
                self.due = Instant::now();
                self.link.state.lock().connection = down;
                self.conclude(&object).await;
                return TOKEN_PAUSES.0;
            }
        }
        if self.due <= Instant::now() {
            let pause = match self.list().await {
                Ok(()) => {
                    self.pauses = backoff(PAUSES.0, PAUSES.1);
                    self.all.interval.unwrap_or(object.netbird.interval.as_duration())
                }
                Err(error) => {
                    let reason = error.reason().unwrap_or("Unreachable");
                    self.link.state.lock().connection = Connection::Down { reason, why: sentence(&error) };
                    self.pauses.next().unwrap_or(PAUSES.1).max(error.retry_after().unwrap_or_default())
                }
            };
            self.due = Instant::now() + pause;
            self.conclude(&object).await;
        }
        let is_up = self.link.state.lock().connection == Connection::Up;
        let look = if is_up { TOKEN_PAUSES.1 } else { TOKEN_PAUSES.0 };
        self.due.saturating_duration_since(Instant::now()).min(look)
    }

    /// Reads the token, and makes a client if the token or the authority has changed. True if it has.
    async fn prepare(&mut self, object: &AuthorityObject) -> Result<bool, Connection> {
        let Some((name, version, token)) = self.read_token(object).await? else { return Ok(false) };
        let same = |(of, used): &(AuthorityObject, String)| of.is_same(object) && *used == version;
        if self.made_from.as_ref().is_some_and(same) {
            return Ok(false);
        }
        let token = Token::parse(&token).map_err(|error| Connection::Down {
            reason: TOKEN_MISSING,
            why: format!("Secret {name} holds no token under {:?}: {error}.", object.netbird.token_secret_ref.key),
        })?;
        let client = self.client(object, token)?;
        let mut state = self.link.state.lock();
        let place = |of: &AuthorityObject| (of.netbird.url.clone(), of.netbird.account.clone());
        if self.made_from.as_ref().is_some_and(|(of, _)| place(of) != place(object)) {
            // What is known is about other keys.
            state.rows = Default::default();
            state.connection = Connection::New;
        }
        (state.client, state.groups, state.is_role_known) = (Some(client), None, false);
        let agent_url = object.netbird.agent_url();
        let is_moved = state.agent_url.as_deref() != Some(agent_url);
        state.agent_url = Some(agent_url.into());
        drop(state);
        if is_moved {
            self.all.wake_all(&self.link.name);
        }
        self.made_from = Some((object.clone(), version));
        Ok(true)
    }

    /// The name and the version of the Secret, and the token. `None` if it cannot be read now, and the last one is known.
    async fn read_token(
        &self,
        object: &AuthorityObject,
    ) -> Result<Option<(ObjectName, String, Zeroizing<Vec<u8>>)>, Connection> {
        let reference = &object.netbird.token_secret_ref;
        let namespace = object.token_namespace(&self.all.namespace);
        let name = ObjectName::new(namespace, &reference.name);
        let missing = |why| Connection::Down { reason: TOKEN_MISSING, why };
        let secret = match secrets::read(&self.all.client, &name).await {
            Ok(secret) => secret,
            Err(error) => {
                tracing::warn!(authority = %self.link.name, %error, "the token of an authority cannot be read");
                return match error.refusal() {
                    Some(why) => Err(missing(format!("Secret {name} with the token cannot be read: {why}."))),
                    None if self.made_from.is_some() => Ok(None),
                    None => Err(Connection::New),
                };
            }
        };
        let Some(secret) = secret else {
            return Err(missing(format!("There is no Secret {name}, which should hold the token.")));
        };
        let Some(token) = secret.get(&reference.key) else {
            return Err(missing(format!(
                "Secret {name} has no data key {:?}, which should hold the token.",
                reference.key
            )));
        };
        let version = secret.metadata.resource_version.clone().unwrap_or_default();
        Ok(Some((name, version, Zeroizing::new(token.to_vec()))))
    }

    fn client(&self, object: &AuthorityObject, token: Token) -> Result<Client, Connection> {
        let netbird = &object.netbird;
        let certificates = netbird.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice());
        let endpoint = Endpoint::parse(&netbird.url, netbird.account.as_deref(), certificates).map_err(|error| {
            let reason = if error == crate::authority::netbird::InvalidEndpoint::CaBundle {
                "CertificateInvalid"
            } else {
                "HostRefused"
            };
            Connection::Down { reason, why: format!("{error}.") }
        })?;
        let observer = self.all.metrics.authorities().observer(&self.link.name.to_string());
        Client::new(&endpoint, token, &self.all.hosts, observer).map_err(|error| Connection::Down {
            reason: error.reason().unwrap_or("Unreachable"),
            why: sentence(&error),
        })
    }

    /// Lists the keys, and what else has to be known.
    async fn list(&mut self) -> Result<(), Error> {
        let (client, is_role_known, misses_group, groups_listed) = {
            let state = self.link.state.lock();
            let client = state.client.clone().ok_or(Error::Unreachable)?;
            let groups_listed = state.groups.as_ref().map(|(_, at)| *at);
            (client, state.is_role_known, !state.miss_groups.is_empty(), groups_listed)
        };
        let began = Instant::now();
        let keys = client.keys().await?;
        if !is_role_known || self.role_seen.is_none_or(|seen| seen.elapsed() > ROLE_AGE) {
            let caller = client.caller().await?;
            if !caller.may_write {
                return Err(Error::RoleTooLow(format!(
                    "the role {} may list setup keys and not change them; use a service user with the role admin",
                    caller.role
                )));
            }
            self.role_seen = Some(Instant::now());
            self.token_expires = caller.token_expires;
            self.link.state.lock().is_role_known = true;
        }
        if misses_group || groups_listed.is_some_and(|at| at.elapsed() > GROUPS_AGE) {
            let began = Instant::now();
            let groups = client.groups().await?;
            self.link.state.lock().groups = Some((Arc::new(groups.into_iter().collect()), began));
        }
        let mut state = self.link.state.lock();
        let mut changed = state.rows.listed(keys, began);
        changed.extend(std::mem::take(&mut state.miss_groups));
        let was_up = std::mem::replace(&mut state.connection, Connection::Up) == Connection::Up;
        let was_paused = state.not_before.take().is_some();
        drop(state);
        if was_up && !was_paused {
            self.all.wake_owners(&self.link.name, &changed);
        } else {
            self.all.wake_all(&self.link.name);
        }
        Ok(())
    }

    /// Reports what has changed.
    async fn conclude(&mut self, object: &AuthorityObject) {
        let (connection, object) = {
            let state = self.link.state.lock();
            // It may have been updated, or deleted, in the meantime.
            (state.connection.clone(), state.object.clone().filter(|now| now.is_same(object)))
        };
        self.all.metrics.authorities().up(
            &self.link.name.to_string(),
            connection == Connection::Up,
            self.token_expires,
        );
        let Some(object) = object else { return };
        if connection == Connection::New {
            return;
        }
        let is_down = matches!(connection, Connection::Down { .. });
        if is_down && !std::mem::replace(&mut self.was_down, is_down) {
            // Keys that wait must say why.
            self.all.wake_all(&self.link.name);
        }
        self.was_down = is_down;
        let keys = (connection == Connection::Up).then(|| self.all.count_keys(&self.link));
        let status = super::report::status(&object, &connection, keys, self.token_expires, Utc::now());
        self.all.report(&self.link, &object, status).await;
    }
}
