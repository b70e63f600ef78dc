//! NetBird's management API, for what a test's administrator does and sees.
//!
//! The methods panic with NetBird's answer when it refuses: in a test, a refusal of these calls is a fault of the test.
//! [`Api::call`] returns it instead.

use std::{collections::BTreeMap, net::IpAddr};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer, pki_types::pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::Error;

/// A client for http, and for https with certificates of this authority (PEM).
pub fn http_client(authority: &str) -> HttpClient {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.expect("the authority is PEM")).expect("the authority is a certificate");
    }
    let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new()).build(connector)
}

pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client of one user. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    client: HttpClient,
    base: String,
    token: SecretString,
}

/// A setup key as NetBird shows it. "Never" is the first moment of the year 1.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteKey {
    pub id: String,
    /// The whole key in the answer to its creation, later only the beginning of it.
    pub key: SecretString,
    pub name: String,
    /// `reusable` or `one-off`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `valid`, `revoked`, `expired` or `overused`.
    pub state: String,
    pub valid: bool,
    pub revoked: bool,
    pub expires: DateTime<Utc>,
    pub last_used: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub used_times: i64,
    /// 0 is no limit.
    pub usage_limit: i64,
    /// Ids.
    pub auto_groups: Vec<String>,
    pub ephemeral: bool,
    pub allow_extra_dns_labels: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    pub id: String,
    /// Its address in the network.
    pub ip: IpAddr,
    pub name: String,
    pub hostname: String,
    pub connected: bool,
    pub ephemeral: bool,
    pub groups: Vec<Group>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Such as `setupkey.add`.
    pub activity_code: String,
    pub initiator_id: String,
    pub target_id: String,
    pub meta: BTreeMap<String, Value>,
}

impl Api {
    pub fn new(base: &str, authority: &str, token: &SecretString) -> Self {
        Self { client: http_client(authority), base: base.to_owned(), token: token.clone() }
    }

    /// The same server as another user.
    pub fn with_token(&self, token: &SecretString) -> Self {
        Self { token: token.clone(), ..self.clone() }
    }

    /// Any call. `path` begins with `/api/`; a body of null sends none.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> Result<Value, Error> {
        let call = format!("{method} {path}");
        let unreachable = |source| Error::Unreachable { call: call.clone(), source };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !self.token.expose_secret().is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Token {}", self.token.expose_secret()));
        }
        let request = request.body(Full::from(body)).map_err(|error| unreachable(error.into()))?;
        let response = self.client.request(request).await.map_err(|error| unreachable(error.into()))?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|error| unreachable(error.into()))?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let message = answer["message"].as_str().unwrap_or("an answer without a message").to_owned();
        Err(Error::NetBird { call, status, message })
    }

    async fn must<T: DeserializeOwned>(&self, method: Method, path: &str, body: Value) -> T {
        let answer = self.call(method, path, body).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
        serde_json::from_value(answer).unwrap_or_else(|error| panic!("NetBird's answer to {path}: {error}"))
    }

    async fn delete(&self, path: &str) {
        let _: Value = self.must(Method::DELETE, path, Value::Null).await;
    }

    /// All keys of the account, those of other tests, too.
    pub async fn keys(&self) -> Vec<RemoteKey> {
        self.must(Method::GET, "/api/setup-keys", Value::Null).await
    }

    /// The keys whose names contain this.
    pub async fn keys_named(&self, part: &str) -> Vec<RemoteKey> {
        self.keys().await.into_iter().filter(|key| key.name.contains(part)).collect()
    }

    /// The key with this id, if there is one.
    pub async fn key(&self, id: &str) -> Option<RemoteKey> {
        self.keys().await.into_iter().find(|key| key.id == id)
    }

    /// A reusable key for a day, without a limit, with these fields of the request changed or added. The answer holds
    /// the whole key.
    pub async fn create_key(&self, name: &str, changes: Value) -> RemoteKey {
        let mut body =
            json!({ "name": name, "type": "reusable", "expires_in": 86400, "auto_groups": [], "usage_limit": 0 });
        for (field, value) in changes.as_object().into_iter().flatten() {
            body[field] = value.clone();
        }
        self.must(Method::POST, "/api/setup-keys", body).await
    }

    pub async fn delete_key(&self, id: &str) {
        self.delete(&format!("/api/setup-keys/{id}")).await
    }

    pub async fn revoke_key(&self, id: &str) -> RemoteKey {
        let groups = self.key(id).await.expect("a key to revoke").auto_groups;
        self.put_key(id, true, &groups).await
    }

    /// Replaces the groups of a key, by id. A revoked key stays revoked.
    pub async fn set_groups(&self, id: &str, groups: &[String]) -> RemoteKey {
        let revoked = self.key(id).await.expect("a key to change").revoked;
        self.put_key(id, revoked, groups).await
    }

    async fn put_key(&self, id: &str, revoked: bool, groups: &[String]) -> RemoteKey {
        let body = json!({ "revoked": revoked, "auto_groups": groups });
        self.must(Method::PUT, &format!("/api/setup-keys/{id}"), body).await
    }

    pub async fn groups(&self) -> Vec<Group> {
        self.must(Method::GET, "/api/groups", Value::Null).await
    }

    /// NetBird allows several groups of one name.
    pub async fn create_group(&self, name: &str) -> Group {
        self.must(Method::POST, "/api/groups", json!({ "name": name })).await
    }

    pub async fn rename_group(&self, id: &str, name: &str) -> Group {
        self.must(Method::PUT, &format!("/api/groups/{id}"), json!({ "name": name })).await
    }

    pub async fn delete_group(&self, id: &str) {
        self.delete(&format!("/api/groups/{id}")).await
    }

    pub async fn peers(&self) -> Vec<Peer> {
        self.must(Method::GET, "/api/peers", Value::Null).await
    }

    /// The newest events, at most 10,000.
    pub async fn events(&self) -> Vec<Event> {
        self.must(Method::GET, "/api/events/audit", Value::Null).await
    }

    /// A service user with this role (`admin`, `network_admin`, `auditor` or `user`). Returns its id.
    pub async fn create_service_user(&self, name: &str, role: &str) -> String {
        self.try_create_service_user(name, role).await.unwrap_or_else(|error| panic!("{}", error.sentence()))
    }

    pub async fn delete_user(&self, id: &str) {
        self.delete(&format!("/api/users/{id}")).await
    }

    /// A token of this user for some days, 1 to 365. Returns its id and its value.
    pub async fn create_token(&self, user: &str, name: &str, days: u32) -> (String, SecretString) {
        self.try_create_token(user, name, days).await.unwrap_or_else(|error| panic!("{}", error.sentence()))
    }

    pub async fn delete_token(&self, user: &str, id: &str) {
        self.delete(&format!("/api/users/{user}/tokens/{id}")).await
    }

    pub(super) async fn try_create_service_user(&self, name: &str, role: &str) -> Result<String, Error> {
        let body = json!({ "name": name, "role": role, "is_service_user": true, "auto_groups": [] });
        let user = self.call(Method::POST, "/api/users", body).await?;
        Ok(text(&user, "id"))
    }

    pub(super) async fn try_create_token(
        &self,
        user: &str,
        name: &str,
        days: u32,
    ) -> Result<(String, SecretString), Error> {
        let body = json!({ "name": name, "expires_in": days });
        let token = self.call(Method::POST, &format!("/api/users/{user}/tokens"), body).await?;
        Ok((text(&token["personal_access_token"], "id"), text(&token, "plain_token").into()))
    }
}

/// A field that NetBird always sends, or nothing.
pub(super) fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_default().to_owned()
}
