//! The account of a new server: its owner, and a service user of each role.

use std::thread;

use http::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::api::{Api, text};
use crate::Error;

/// Tokens of the server's one account, for a day. All but the owner's belong to service users.
#[derive(Clone)]
pub struct Tokens {
    pub owner: SecretString,
    pub admin: SecretString,
    pub network_admin: SecretString,
    pub auditor: SecretString,
    pub user: SecretString,
}

/// Whether the server answers. It does so before it has an account.
pub fn answers(url: &str, authority: &str) -> bool {
    let api = Api::new(url, authority, &SecretString::default());
    wait_for(async move { api.call(Method::GET, "/api/instance", Value::Null).await }).is_ok()
}

/// Creates the account of the server at this URL, whose certificate this authority (PEM) has signed. Works once for each
/// server.
pub fn set_up(url: &str, authority: &str) -> Result<Tokens, Error> {
    let api = Api::new(url, authority, &SecretString::default());
    wait_for(async move {
        let owner = json!({
            "email": "owner@netbird.test",
            "name": "Owner",
            "password": format!("Aa1!{:032x}", rand::random::<u128>()),
            "create_pat": true,
            "pat_expire_in": 1,
        });
        let answer = api.call(Method::POST, "/api/setup", owner).await?;
        let owner: SecretString = text(&answer, "personal_access_token").into();
        let api = api.with_token(&owner);
        let token_of = async |role| {
            let user = api.try_create_service_user(role, role).await?;
            api.try_create_token(&user, role, 1).await.map(|(_, token)| token)
        };
        Ok(Tokens {
            admin: token_of("admin").await?,
            network_admin: token_of("network_admin").await?,
            auditor: token_of("auditor").await?,
            user: token_of("user").await?,
            owner,
        })
    })
}

/// On a thread of its own, because the caller may be a task of another runtime.
fn wait_for<T: Send + 'static>(task: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Unreachable { call: "an answer".into(), source: source.into() })?;
    thread::spawn(move || runtime.block_on(task)).join().expect("the task does not panic")
}
