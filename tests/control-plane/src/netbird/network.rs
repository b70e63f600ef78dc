//! The network of a NetBird server and its agents: a loopback, and a cable to this machine. It has no way out.
//!
//! NetBird's server listens on all addresses and asks home for news; the network confines both. It has no name. It ends
//! with the last program in it, and the cable ends with the network, so that no file and no interface is left behind.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::{
    Error, command,
    control_plane::wait_for,
    node::POD_RANGE,
    process::{Process, Program, Spawner},
};

/// Each network has four addresses of this range: the second is this machine's, the third the server's.
const RANGE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);
const NETWORKS: u16 = 1 << 14;

/// How many networks are tried when others have the chosen ones.
const ATTEMPTS: u32 = 20;

/// The names of the interfaces of this machine that lead to such a network.
pub const CABLE_PREFIX: &str = "netbird-";

#[derive(Debug)]
pub struct Network {
    /// Keeps the network while no other program is in it.
    holder: Process,
    host: Ipv4Addr,
    server: Ipv4Addr,
}

impl Network {
    pub fn create(spawner: &Spawner, dir: &Path) -> Result<Self, Error> {
        require_root()?;
        let program = Program::new("network", "unshare", strings(&["--net", "--", "sleep", "infinity"]));
        let mut holder = Process::start(spawner, dir, program)?;
        let ours = fs::read_link("/proc/self/ns/net").ok();
        let theirs = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
        wait_for("a network", &mut [&mut holder], || fs::read_link(&theirs).ok() != ours)?;

        let index = lay_cable(holder.id())?;
        let first = u32::from(RANGE) + u32::from(index) * 4;
        let network = Self { holder, host: (first + 1).into(), server: (first + 2).into() };
        let cable = cable(index);
        for args in [
            ["address", "add", &format!("{}/30", network.host), "dev", &cable].as_slice(),
            &["link", "set", &cable, "up"],
        ] {
            command::run("ip", args)?;
        }
        for args in [
            ["ip", "link", "set", "lo", "up"].as_slice(),
            &["ip", "address", "add", &format!("{}/30", network.server), "dev", "eth0"],
            &["ip", "link", "set", "eth0", "up"],
            // The pods of a node, if there is one on this machine.
            &["ip", "route", "add", POD_RANGE, "via", &network.host.to_string()],
        ] {
            let enter = network.enter();
            command::run("nsenter", &enter.iter().map(String::as_str).chain(args.iter().copied()).collect::<Vec<_>>())?;
        }
        Ok(network)
    }

    /// This machine's end of the cable. A program outside can listen here.
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// The address at which programs in the network are reached.
    pub fn server(&self) -> Ipv4Addr {
        self.server
    }

    /// The same program, in the network.
    pub fn inside(&self, program: Program) -> Program {
        let path = program.path.to_string_lossy().into_owned();
        let args = self.enter().into_iter().chain([path]).chain(program.args).collect();
        Program { path: "nsenter".into(), args, ..program }
    }

    /// The arguments of nsenter.
    pub fn enter(&self) -> Vec<String> {
        vec![format!("--net=/proc/{}/ns/net", self.holder.id()), "--".to_owned()]
    }
}

/// The name of an interface is taken by one network at a time, so it reserves the addresses, too.
fn lay_cable(holder: u32) -> Result<u16, Error> {
    let mut attempt = 1;
    loop {
        let index = rand::random_range(0..NETWORKS);
        // NetBird's agent ignores interfaces with names such as veth0.
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &holder.to_string()];
        match command::run("ip", &[["link", "add", &cable(index)].as_slice(), &peer].concat()) {
            Ok(_) => return Ok(index),
            Err(Error::Command { stderr, .. }) if stderr.contains("File exists") && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

fn cable(index: u16) -> String {
    format!("{CABLE_PREFIX}{index}")
}

fn require_root() -> Result<(), Error> {
    if !cfg!(target_os = "linux") {
        return Err(Error::NoNetBird("a NetBird server needs Linux: it gets a network of its own".into()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NoNetBird("a NetBird server needs root: it gets a network of its own".into()));
    }
    Ok(())
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
