//! The operations that the operator needs of NetBird's management API.

use std::sync::Arc;

use http::Method;
use serde::Serialize;

use super::{
    Endpoint, Error, Hosts, Observer, Token,
    json::{CreateRequest, GroupRequest, UpdateRequest, UserRow},
    read,
    transport::{Call, Limits, Transport},
};
use crate::{
    api::Timestamp,
    key::{
        KeyId, KeyValue,
        remote::{Group, GroupId, NewKey, RemoteKey},
    },
};

/// A client of one NetBird server, with one token. Cheap to clone; clones share its connections and its limit of four calls
/// at a time.
///
/// No call is repeated. A call that fails with [`Error::Unreachable`], [`Error::Timeout`], [`Error::NotNetBird`],
/// [`Error::TooLarge`] or [`Error::Server`] may have been carried out.
#[derive(Clone)]
pub struct Client(Arc<Transport>);

/// The user to whom the token belongs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// NetBird's name of its role, such as `admin`.
    pub role: String,
    /// Whether it may create, update and delete setup keys.
    pub may_write: bool,
    /// When the token expires, if that is known for sure: if it is the user's only one.
    pub token_expires: Option<Timestamp>,
}

impl Client {
    /// A client of a server. Fails if its host must not be called.
    pub fn new(endpoint: &Endpoint, token: Token, hosts: &Hosts, observer: Observer) -> Result<Self, Error> {
        Ok(Self(Arc::new(Transport::new(endpoint, token, hosts, observer)?)))
    }

    /// All keys with a mark.
    pub async fn keys(&self) -> Result<Vec<RemoteKey>, Error> {
        self.0.call(list("list_keys", &["setup-keys"]), read::keys).await
    }

    /// A key, or `None` if there is no key of this id with a mark.
    pub async fn key(&self, id: &KeyId) -> Result<Option<RemoteKey>, Error> {
        let read = |body: &_| read::key(body).filter(|key| key.as_ref().is_none_or(|key| key.id == *id));
        match self.0.call(object("read_key", Method::GET, &["setup-keys", id.as_str()]), read).await {
            Err(error) if error.is_missing_key() => Ok(None),
            answer => answer,
        }
    }

    /// Creates a key. Its value is shown this once.
    pub async fn create_key(&self, new: &NewKey) -> Result<(RemoteKey, KeyValue), Error> {
        let key_type = if new.one_off { "one-off" } else { "reusable" };
        let request = CreateRequest {
            name: Some(new.name.clone()),
            key_type: Some(key_type.to_owned()),
            expires_in: Some(new.expires_in),
            auto_groups: Some(ids(&new.groups)),
            usage_limit: Some(new.usage_limit),
            ephemeral: Some(new.ephemeral),
            allow_extra_dns_labels: Some(new.allow_extra_dns_labels),
        };
        let call = object("create_key", Method::POST, &["setup-keys"]).with(&request);
        self.0.call(call, read::created).await
    }

    /// Sets what can be changed of a key: both are set always, and a revocation is never taken back.
    pub async fn update_key(&self, id: &KeyId, revoked: bool, groups: &[GroupId]) -> Result<RemoteKey, Error> {
        let request = UpdateRequest { revoked: Some(revoked), auto_groups: Some(ids(groups)) };
        let call = object("update_key", Method::PUT, &["setup-keys", id.as_str()]).with(&request);
        self.0.call(call, |body| read::key(body).flatten().filter(|key| key.id == *id)).await
    }

    /// Deletes a key. One that is gone already is fine.
    pub async fn delete_key(&self, id: &KeyId) -> Result<(), Error> {
        let call = object("delete_key", Method::DELETE, &["setup-keys", id.as_str()]);
        match self.0.call(call, read::nothing).await {
            Err(error) if error.is_missing_key() => Ok(()),
            answer => answer,
        }
    }

    /// All groups.
    pub async fn groups(&self) -> Result<Vec<Group>, Error> {
        self.0.call(list("list_groups", &["groups"]), read::groups).await
    }

    /// Creates a group.
    pub async fn create_group(&self, name: &str) -> Result<Group, Error> {
        let call = object("create_group", Method::POST, &["groups"]).with(&GroupRequest { name });
        self.0.call(call, read::group).await
    }

    /// The user to whom the token belongs.
    ///
    /// This takes two or three calls.
    pub async fn caller(&self) -> Result<Caller, Error> {
        let user = self.user().await?;
        let rights = user.permissions.and_then(|permissions| permissions.modules.setup_keys);
        let may_write = match rights {
            Some(rights) => rights.create && rights.update && rights.delete,
            None => matches!(user.role.as_str(), "owner" | "admin"),
        };
        let tokens = list("read_caller", &["users", &user.id, "tokens"]);
        let token_expires = match self.0.call(tokens, read::expiry_of_the_only_token).await {
            Err(Error::RoleTooLow(_) | Error::NotFound(_) | Error::Invalid(_)) => None,
            answer => answer?,
        };
        Ok(Caller { role: user.role, may_write, token_expires })
    }

    /// NetBird does not tell a service user who it is, but shows it among all service users.
    async fn user(&self) -> Result<UserRow, Error> {
        let current = object("read_caller", Method::GET, &["users", "current"]);
        let refusal = match self.0.call(current, read::user).await {
            Err(refusal @ (Error::RoleTooLow(_) | Error::NotFound(_))) => refusal,
            answer => return answer,
        };
        let users = Call { query: Some(("service_user", "true")), ..list("read_caller", &["users"]) };
        self.0.call(users, read::current_user).await?.ok_or(refusal)
    }
}

fn list<'a>(operation: &'static str, path: &[&'a str]) -> Call<'a> {
    Call { limits: Limits::LIST, ..object(operation, Method::GET, path) }
}

fn object<'a>(operation: &'static str, method: Method, path: &[&'a str]) -> Call<'a> {
    Call { operation, method, path: path.to_vec(), query: None, body: None, limits: Limits::OBJECT }
}

impl Call<'_> {
    fn with(self, request: &impl Serialize) -> Self {
        // Texts, numbers and lists of them always serialize.
        Self { body: serde_json::to_vec(request).ok(), ..self }
    }
}

fn ids(groups: &[GroupId]) -> Vec<String> {
    groups.iter().map(|group| group.0.clone()).collect()
}
