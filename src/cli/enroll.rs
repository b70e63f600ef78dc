//! `setupkey-operator enroll`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::ValueEnum;
use secrecy::{SecretString, zeroize::Zeroizing};
use setupkey_operator::{
    agent::{self, End, Introduction, client::Client, identity::Identity},
    api::Lifetime,
};
use tokio_util::sync::CancellationToken;

use super::{LogFlags, at_least, cancel_on_signal};

/// Exit code: the key does not admit this machine.
const REFUSED: u8 = 3;
/// Exit code: the Peer was removed from outside, for example by an administrator.
const REMOVED: u8 = 4;

/// Flags of `setupkey-operator enroll`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// URL of the enrollment service.
    #[arg(long, value_name = "URL")]
    server: String,

    /// File with the setup key, for example from a mounted Secret.
    #[arg(long, value_name = "PATH")]
    key_file: PathBuf,

    /// File with the private key and the token of this machine. It is created if it does not exist.
    #[arg(long, value_name = "PATH")]
    state_file: PathBuf,

    /// Hostname of this machine. Default: the system's hostname.
    #[arg(long, value_name = "NAME", env = "HOSTNAME")]
    hostname: Option<String>,

    /// Extra DNS label to request for this machine. It can be repeated.
    #[arg(long = "extra-dns-label", value_name = "LABEL")]
    extra_dns_labels: Vec<String>,

    /// PEM file with the CA of the service's certificate. Default: the CAs that the system trusts.
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,

    /// Time between heartbeats.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = heartbeat)]
    heartbeat: Lifetime,

    /// When to leave on SIGTERM. A machine that has left uses the key again when it joins again, so a machine that
    /// restarts with its state file should not leave.
    #[arg(long, value_enum, default_value_t = Leave::Ephemeral)]
    leave: Leave,

    #[command(flatten)]
    log: LogFlags,
}

#[derive(Clone, Copy, ValueEnum)]
enum Leave {
    /// Leave if the peer is ephemeral.
    Ephemeral,
    /// Always leave.
    Always,
    /// Stay a peer.
    Never,
}

impl From<Leave> for agent::Leave {
    fn from(leave: Leave) -> Self {
        match leave {
            Leave::Ephemeral => Self::IfEphemeral,
            Leave::Always => Self::Always,
            Leave::Never => Self::Never,
        }
    }
}

fn heartbeat(text: &str) -> Result<Lifetime, String> {
    at_least(Lifetime::seconds(1), text)
}

/// Joins and stays a peer until a signal comes. The exit code says why it ended.
#[tokio::main(flavor = "current_thread")]
pub async fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    flags.log.start()?;
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone())?);
    let service = Client::new(&flags.server, flags.ca_file.as_deref())?;
    if service.is_plain() {
        tracing::warn!("plain HTTP: the key and the token are readable on the network");
    }
    let key = read_key(&flags.key_file)?;
    let hostname = match flags.hostname {
        Some(name) => name,
        None => system_hostname().context("this machine has no name; give --hostname")?,
    };
    let introduction = Introduction { hostname, extra_dns_labels: flags.extra_dns_labels };
    let identity = Identity::load_or_create(&flags.state_file)?;
    let leave = flags.leave.into();
    let end = agent::run(&service, &identity, key, &introduction, flags.heartbeat.as_duration(), leave, stop).await;
    Ok(match end {
        End::Stopped => ExitCode::SUCCESS,
        End::Refused(sentence) => {
            tracing::error!("not admitted: {sentence}");
            ExitCode::from(REFUSED)
        }
        End::Removed(sentence) => {
            tracing::error!("{sentence}");
            ExitCode::from(REMOVED)
        }
    })
}

/// Reads the setup key. Editors end a file with a newline, which is not part of the key.
fn read_key(path: &Path) -> anyhow::Result<SecretString> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--key-file {} cannot be read", path.display()))?;
    let text = Zeroizing::new(text);
    let key = text.trim_end_matches(['\n', '\r']);
    anyhow::ensure!(!key.is_empty(), "--key-file {} is empty", path.display());
    Ok(key.into())
}

fn system_hostname() -> Option<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    name.ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}
