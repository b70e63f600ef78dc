//! A real NetBird management server, and real agents that join with its keys.
//!
//! The programs are built from NetBird's source by `make netbird`; see `tools/netbird/go.mod` for their licences. They run
//! in a network of their own, without a way out, that this machine reaches by a private address: see `network.rs`.
//!
//! - [`NetBird::start`] returns a server with a fresh account and a token for each role.
//! - [`Api`] asks the server what a test wants to know, past the product.
//! - [`Agent::join`] runs an agent until the server has let it in or refused it.
//! - [`Management`] and [`set_up`] are for servers that run elsewhere, such as in pods.

mod accounts;
mod agent;
mod api;
mod config;
mod network;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

pub use accounts::{Tokens, set_up};
pub use agent::{Agent, Key, Outcome};
pub use api::{Api, Event, Group, HttpClient, Peer, RemoteKey, http_client};
pub use config::{CERTIFICATE, KEY, MANAGEMENT_CONFIG, Management};
pub use network::CABLE_PREFIX;

use config::Listening;
use network::Network;
use secrecy::SecretString;

use crate::{
    Authority, Error,
    control_plane::wait_for,
    data_dir::DataDir,
    process::{Process, Program, Spawner},
    tools::NetBirdTools,
};

/// How agents and clients reach the server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// One process for everything. The faster one to start.
    #[default]
    Http,
    /// The management server has a certificate of [`NetBird::authority`].
    Https,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub transport: Transport,
    /// Further variables of the management server, such as `NB_API_RATE_LIMITING_ENABLED`.
    pub env: Vec<(String, String)>,
}

/// A running server. Dropping it ends the programs and removes their files.
///
/// The fields are dropped in this order: first the programs, then their network, then their folder.
pub struct NetBird {
    processes: Mutex<Vec<Process>>,
    tokens: Tokens,
    authority: Authority,
    listening: Listening,
    tools: NetBirdTools,
    agents: AtomicU32,
    network: Network,
    spawner: Spawner,
    dir: DataDir,
}

impl NetBird {
    /// Returns when the server answers and its account has all users. Needs root on Linux, for the network.
    pub fn start(options: Options) -> Result<Self, Error> {
        let tools = NetBirdTools::locate()?;
        let dir = DataDir::create("setupkey-netbird-")?;
        let spawner = Spawner::start();
        let network = Network::create(&spawner, dir.path())?;
        let authority = Authority::named("netbird-authority")?;
        let listening = Listening { address: network.server(), transport: options.transport };
        config::write(&dir, listening, &authority)?;
        let programs = config::programs(&tools, dir.path(), listening, &options.env);
        let processes = start_all(&spawner, dir.path(), &network, programs, || {
            accounts::answers(&listening.url(), authority.pem())
        })?;
        let tokens = accounts::set_up(&listening.url(), authority.pem())?;
        let (processes, agents) = (Mutex::new(processes), AtomicU32::new(0));
        Ok(Self { processes, tokens, authority, listening, tools, agents, network, spawner, dir })
    }

    /// The base of the server's API, without a slash at the end; also what agents are told.
    pub fn url(&self) -> String {
        self.listening.url()
    }

    pub fn transport(&self) -> Transport {
        self.listening.transport
    }

    /// An address of this machine at which nothing listens yet. It is not loopback, and agents reach it, too.
    pub fn host(&self) -> Ipv4Addr {
        self.network.host()
    }

    /// What signed the server's certificate, if it has one. Signs others, too.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The certificate of the authority as a file.
    pub fn authority_file(&self) -> PathBuf {
        self.dir().join(config::AUTHORITY)
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// A client with this token. Its connections belong to the runtime that it is used in.
    pub fn api(&self, token: &SecretString) -> Api {
        Api::new(&self.url(), self.authority.pem(), token)
    }

    /// The folder with the server's files and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command that runs a program in the server's network, as an agent runs: the program and its arguments follow.
    pub fn enter(&self) -> Vec<String> {
        [vec!["nsenter".to_owned()], self.network.enter()].concat()
    }

    /// The program of the agent.
    pub fn agent_program(&self) -> &Path {
        &self.tools.agent
    }

    /// Kills the server. Connections to it are refused until [`NetBird::revive`].
    pub fn kill(&self) {
        self.processes().iter_mut().for_each(Process::kill);
    }

    /// Starts a server again that was killed, with the same address and data. Returns when it answers.
    pub fn revive(&self) -> Result<(), Error> {
        let mut processes = self.processes();
        for process in processes.iter_mut() {
            process.revive(&self.spawner)?;
        }
        until_ready(&mut processes, || accounts::answers(&self.url(), self.authority.pem()))
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().expect("no thread panics while it holds the programs")
    }

    /// A new folder for an agent, which is removed with the server's.
    fn agent_dir(&self) -> Result<PathBuf, Error> {
        let path = self.dir().join(format!("agent-{}", self.agents.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(path)
    }
}

fn start_all(
    spawner: &Spawner,
    dir: &Path,
    network: &Network,
    programs: Vec<Program>,
    ready: impl Fn() -> bool,
) -> Result<Vec<Process>, Error> {
    let start = |program| Process::start(spawner, dir, network.inside(program));
    let mut processes = programs.into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
    until_ready(&mut processes, ready)?;
    Ok(processes)
}

fn until_ready(processes: &mut [Process], ready: impl Fn() -> bool) -> Result<(), Error> {
    let mut processes: Vec<_> = processes.iter_mut().collect();
    wait_for("NetBird to answer", &mut processes, ready)
}
