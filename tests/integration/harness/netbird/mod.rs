//! NetBird for a test: a real server, and a proxy in front of it that counts the calls and has faults.

pub mod calls;
pub mod faults;
mod proxy;
mod traffic;

use std::sync::{Arc, OnceLock};

pub use calls::{any_call, on};
use control_plane::netbird::{Agent, Api, Group, Key, NetBird as Server, Options, Tokens, Transport};
pub use faults::{Canned, Fault, Which};
pub use proxy::{Front, Proxy, Upstream};
use secrecy::{ExposeSecret, SecretString};

/// A server, and what a test needs of it. Names that a test gives to groups and keys begin with its prefix, because tests
/// share the account.
pub struct NetBird {
    /// The management API, through [`NetBird::proxy`].
    pub base_url: String,
    pub proxy: Proxy,
    /// The owner's client, past the proxy.
    pub api: Api,
    /// A service user of this test alone, with the role admin.
    pub admin: ServiceUser,
    /// Such as `outage-1b9d6b`.
    pub prefix: String,
    pub server: Arc<Server>,
}

/// A service user with one token.
pub struct ServiceUser {
    pub id: String,
    pub token_id: String,
    pub token: SecretString,
}

impl NetBird {
    /// The server that all tests share, over http.
    pub async fn for_test(test: &str) -> Self {
        Self::on(shared(Transport::Http).await, test).await
    }

    /// The server that all tests share, over https. [`NetBird::authority`] has signed its certificate and the proxy's.
    pub async fn over_https(test: &str) -> Self {
        Self::on(shared(Transport::Https).await, test).await
    }

    /// A server with an empty account, which no other test sees.
    pub async fn alone(test: &str, options: Options) -> Self {
        Self::on(Arc::new(start(options).await), test).await
    }

    async fn on(server: Arc<Server>, test: &str) -> Self {
        let prefix = format!("{}-{:06x}", test.replace('_', "-"), rand::random::<u32>() >> 8);
        let api = server.api(&server.tokens().owner);
        let id = api.create_service_user(&prefix, "admin").await;
        let (token_id, token) = api.create_token(&id, &prefix, 1).await;
        let front = match server.transport() {
            Transport::Http => Front::Http,
            Transport::Https => Front::Https(server.authority().server("netbird", &[server.host().into()]).unwrap()),
        };
        let proxy = proxy(&server, front).await;
        let admin = ServiceUser { id, token_id, token };
        Self { base_url: proxy.url(), proxy, api, admin, prefix, server }
    }

    /// Another way to the server, such as one with a certificate that is no good.
    pub async fn another_proxy(&self, front: Front) -> Proxy {
        proxy(&self.server, front).await
    }

    /// Tokens of the shared account, by role. No test may delete them.
    pub fn tokens(&self) -> &Tokens {
        self.server.tokens()
    }

    /// What to trust, PEM.
    pub fn authority(&self) -> &str {
        self.server.authority().pem()
    }

    /// A name that no other test uses.
    pub fn name(&self, name: &str) -> String {
        format!("{} {name}", self.prefix)
    }

    /// A new group with a name of this test.
    pub async fn group(&self, name: &str) -> Group {
        self.api.create_group(&self.name(name)).await
    }

    /// Runs a real agent with this key until NetBird has let it in or refused it.
    pub async fn join(&self, hostname: &str, key: &SecretString) -> Agent {
        let (server, hostname, key) = (Arc::clone(&self.server), hostname.to_owned(), key.clone());
        let join = move || Agent::join(&server, &hostname, Key::Value(key.expose_secret()));
        blocking(join).await.unwrap_or_else(|error| panic!("{}", error.sentence()))
    }
}

async fn proxy(server: &Server, front: Front) -> Proxy {
    let upstream = Upstream { url: server.url(), authority: server.authority().pem().to_owned() };
    Proxy::start(server.host(), front, &upstream).await
}

/// Never dropped: its programs end with this process.
async fn shared(transport: Transport) -> Arc<Server> {
    static HTTP: OnceLock<Arc<Server>> = OnceLock::new();
    static HTTPS: OnceLock<Arc<Server>> = OnceLock::new();
    let shared = match transport {
        Transport::Http => &HTTP,
        Transport::Https => &HTTPS,
    };
    let options = Options { transport, ..Options::default() };
    blocking(move || Arc::clone(shared.get_or_init(|| Arc::new(start_or_panic(options))))).await
}

async fn start(options: Options) -> Server {
    blocking(|| start_or_panic(options)).await
}

fn start_or_panic(options: Options) -> Server {
    Server::start(options).unwrap_or_else(|error| panic!("{}", error.sentence()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("a NetBird server or an agent")
}
