//! NetBird's agent: a machine that joins. It needs no rights and no interface, because it brings its own network stack.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{NetBird, Transport};
use crate::{
    Error,
    process::{Process, Program, Spawner},
};

const LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

const JOINED: &str = "peer has been successfully registered on Management Service";
/// Of an agent that was a peer before.
const RESUMED: &str = "connected to the Management Service stream";
const REFUSED: &str = "setup key is invalid";

/// The first of the ports at which agents serve SOCKS5. All agents of a server share one network.
const FIRST_SOCKS_PORT: u16 = 1080;

/// Where an agent gets its setup key. It never is an argument of a program.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    /// It is written to a file for the agent.
    Value(&'a str),
    /// Such as a mounted Secret.
    File(&'a Path),
}

/// What became of an agent's wish to join.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    Joined,
    /// NetBird does not say whether the key is revoked, expired, used up or unknown.
    Refused,
}

/// A running agent. Dropping it kills the agent; its peer stays.
pub struct Agent {
    process: Process,
    hostname: String,
    outcome: Outcome,
    // Ends the agent when this process is killed.
    spawner: Spawner,
}

impl Agent {
    /// Starts an agent without state, as a new machine. Returns when the server has let it in or refused it: a second or
    /// less.
    pub fn join(netbird: &NetBird, hostname: &str, key: Key<'_>) -> Result<Self, Error> {
        let dir = netbird.agent_dir()?;
        let key = match key {
            Key::File(path) => path.to_owned(),
            Key::Value(value) => write_key(&dir, value)?,
        };
        let spawner = Spawner::start();
        let program = program(netbird, &dir, hostname, &key);
        let process = Process::start(&spawner, &dir, netbird.network.inside(program))?;
        let mut agent = Self { process, hostname: hostname.to_owned(), outcome: Outcome::Refused, spawner };
        agent.outcome = agent.decision(0)?;
        Ok(agent)
    }

    /// Kills the agent and starts it again with its state, as a rebooted machine would. A peer needs no key any more.
    pub fn restart(&mut self) -> Result<Outcome, Error> {
        let before = self.log().len();
        self.process.kill();
        self.process.revive(&self.spawner)?;
        self.outcome = self.decision(before)?;
        Ok(self.outcome)
    }

    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// All output so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends the agent at once, as a lost machine would.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// What the log says after its first `skipped` bytes.
    fn decision(&mut self, skipped: usize) -> Result<Outcome, Error> {
        let started = Instant::now();
        loop {
            let log = self.log();
            let says = |line| log.get(skipped..).unwrap_or_default().contains(line);
            if says(JOINED) || says(RESUMED) {
                return Ok(Outcome::Joined);
            }
            // The agent keeps trying for two minutes after a refusal.
            if says(REFUSED) {
                return Ok(Outcome::Refused);
            }
            self.process.check()?;
            if started.elapsed() > LIMIT {
                let (hostname, log_tail) = (self.hostname.clone(), self.process.log_tail());
                return Err(Error::Undecided { hostname, limit: LIMIT, log_tail });
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

fn write_key(dir: &Path, value: &str) -> Result<PathBuf, Error> {
    let path = dir.join("setup-key");
    let create = || {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        file.write_all(value.as_bytes())
    };
    create().map_err(|source| Error::Write { path: path.clone(), source })?;
    Ok(path)
}

fn program(netbird: &NetBird, dir: &Path, hostname: &str, key: &Path) -> Program {
    let number = dir.file_name().and_then(|name| name.to_str()?.rsplit('-').next()?.parse::<u16>().ok());
    let port = FIRST_SOCKS_PORT.saturating_add(number.unwrap_or_default());
    let key = fs::canonicalize(key).unwrap_or_else(|_| key.to_owned());
    let mut env = vec![
        ("NB_MANAGEMENT_URL", netbird.url()),
        ("NB_SETUP_KEY_FILE", key.display().to_string()),
        ("NB_HOSTNAME", hostname.to_owned()),
        ("NB_STATE_DIR", dir.display().to_string()),
        ("NB_USE_NETSTACK_MODE", "true".to_owned()),
        ("NB_FOREGROUND_MODE", "true".to_owned()),
        ("NB_DISABLE_DNS", "true".to_owned()),
        ("NB_LOG_FILE", "console".to_owned()),
        ("NB_SOCKS5_LISTENER_PORT", port.to_string()),
        // The agent looks its user up, and there may be no such entry.
        ("USER", "netbird".to_owned()),
        ("HOME", dir.display().to_string()),
    ];
    if netbird.listening.transport == Transport::Https {
        env.push(("SSL_CERT_FILE", netbird.authority_file().display().to_string()));
    }
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Program { env, ..Program::new("agent", &netbird.tools.agent, vec!["up".to_owned()]) }
}
