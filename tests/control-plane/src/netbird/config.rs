//! The files and flags of NetBird's servers. They listen on all addresses of their own network, so ports are fixed.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::Transport;
use crate::{Authority, Error, data_dir::DataDir, flags::flag, process::Program, tools::NetBirdTools};

const HTTP_PORT: u16 = 8080;
const HTTPS_PORT: u16 = 8443;
const SIGNAL_PORT: u16 = 10000;
const STUN_PORT: u16 = 3478;
const HEALTH_PORT: u16 = 9000;
const METRICS_PORTS: [u16; 2] = [9090, 9091];

const COMBINED_CONFIG: &str = "combined.yaml";

/// The files that [`Management::config`] holds.
pub const MANAGEMENT_CONFIG: &str = "management.json";
pub const CERTIFICATE: &str = "server.crt";
pub const KEY: &str = "server.key";

/// Also what agents are told to trust.
pub const AUTHORITY: &str = "ca.crt";

/// Where the server is.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    pub address: Ipv4Addr,
    pub transport: Transport,
}

impl Listening {
    pub fn port(self) -> u16 {
        match self.transport {
            Transport::Http => HTTP_PORT,
            Transport::Https => HTTPS_PORT,
        }
    }

    pub fn url(self) -> String {
        let scheme = match self.transport {
            Transport::Http => "http",
            Transport::Https => "https",
        };
        format!("{scheme}://{}:{}", self.address, self.port())
    }
}

/// A management server with a certificate, and the signal server beside it.
#[derive(Clone, Debug)]
pub struct Management {
    /// The folder with the configuration, the certificate and its key.
    pub config: PathBuf,
    /// The folder of the database.
    pub data: PathBuf,
    /// The name or address at which both servers are reached.
    pub host: String,
}

impl Management {
    pub const PORT: u16 = HTTPS_PORT;
    pub const SIGNAL_PORT: u16 = SIGNAL_PORT;

    pub fn url(&self) -> String {
        format!("https://{}:{HTTPS_PORT}", self.host)
    }

    /// The contents of the configuration.
    pub fn contents(&self) -> String {
        let config = serde_json::json!({
            "Stuns": [],
            "Signal": { "Proto": "http", "URI": format!("{}:{SIGNAL_PORT}", self.host) },
            "Datadir": self.data,
            // Without it, the server makes one and logs it.
            "DataStoreEncryptionKey": any_key(),
            "StoreConfig": { "Engine": "sqlite" },
            "HttpConfig": { "CertFile": self.config.join(CERTIFICATE), "CertKey": self.config.join(KEY) },
            "EmbeddedIdP": { "Enabled": true, "Issuer": format!("{}/oauth2", self.url()) },
        });
        config.to_string()
    }

    /// The arguments of the management server.
    pub fn args(&self) -> Vec<String> {
        let file = |name: &str| self.config.join(name).display().to_string();
        vec![
            "management".to_owned(),
            flag("--config", file(MANAGEMENT_CONFIG)),
            flag("--datadir", self.data.display()),
            flag("--port", HTTPS_PORT),
            flag("--metrics-port", METRICS_PORTS[0]),
            flag("--cert-file", file(CERTIFICATE)),
            flag("--cert-key", file(KEY)),
            flag("--disable-legacy-port", true),
            flag("--disable-anonymous-metrics", true),
            flag("--disable-geolite-update", true),
            flag("--log-file", "console"),
        ]
    }

    /// The variables of the management server.
    pub fn variables(&self) -> Vec<(String, String)> {
        variables(&self.data)
    }

    /// The arguments of the signal server.
    pub fn signal_args(&self) -> Vec<String> {
        vec![
            "run".to_owned(),
            flag("--port", SIGNAL_PORT),
            flag("--metrics-port", METRICS_PORTS[1]),
            flag("--log-file", "console"),
        ]
    }
}

fn variables(data: &Path) -> Vec<(String, String)> {
    let variable = |name: &str, value: String| (name.to_owned(), value);
    vec![
        variable("HOME", data.display().to_string()),
        // The first answer to a setup holds the owner's token.
        variable("NB_SETUP_PAT_ENABLED", "true".into()),
        variable("NB_DISABLE_GEOLOCATION", "true".into()),
    ]
}

pub fn write(dir: &DataDir, listening: Listening, authority: &Authority) -> Result<(), Error> {
    dir.write(AUTHORITY, authority.pem())?;
    match listening.transport {
        Transport::Http => dir.write(COMBINED_CONFIG, &combined(dir.path(), listening)),
        Transport::Https => {
            let identity = authority.server("netbird", &[listening.address.into()])?;
            dir.write(CERTIFICATE, &identity.certificate)?;
            dir.write(KEY, &identity.key)?;
            dir.write(MANAGEMENT_CONFIG, &management(dir.path(), listening).contents())
        }
    }
}

/// The programs of the server. The last one answers requests.
pub fn programs(tools: &NetBirdTools, dir: &Path, listening: Listening, env: &[(String, String)]) -> Vec<Program> {
    let env = [variables(dir), env.to_vec()].concat();
    match listening.transport {
        Transport::Http => {
            let args = vec![flag("--config", dir.join(COMBINED_CONFIG).display())];
            vec![Program { env, ..Program::new("netbird-server", &tools.combined, args) }]
        }
        Transport::Https => {
            let management = management(dir, listening);
            vec![
                Program::new("netbird-signal", &tools.signal, management.signal_args()),
                Program { env, ..Program::new("netbird-management", &tools.management, management.args()) },
            ]
        }
    }
}

fn management(dir: &Path, listening: Listening) -> Management {
    Management { config: dir.to_owned(), data: dir.to_owned(), host: listening.address.to_string() }
}

fn combined(dir: &Path, listening: Listening) -> String {
    let (url, dir, health, [metrics, _]) = (listening.url(), dir.display(), HEALTH_PORT, METRICS_PORTS);
    // Without an encryption key, the server makes one and logs it.
    format!(
        r#"server:
  listenAddress: ":{HTTP_PORT}"
  exposedAddress: "{url}"
  stunPorts: [{STUN_PORT}]
  metricsPort: {metrics}
  healthcheckAddress: "127.0.0.1:{health}"
  logFile: console
  authSecret: "{secret}"
  dataDir: "{dir}"
  disableAnonymousMetrics: true
  disableGeoliteUpdate: true
  auth:
    issuer: "{url}/oauth2"
  store:
    engine: sqlite
    encryptionKey: "{key}"
"#,
        secret = any_key(),
        key = any_key(),
    )
}

/// 32 bytes in base64.
fn any_key() -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(rand::random::<[u8; 32]>())
}
