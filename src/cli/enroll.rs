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

/// The key does not admit this machine.
const REFUSED: u8 = 3;
/// The peer was removed by somebody else.
const REMOVED: u8 = 4;

/// Flags of `setupkey-operator enroll`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// URL of the enrollment service.
    #[arg(long, value_name = "URL")]
    server: String,

    /// File with the setup key, as a mounted Secret has it.
    #[arg(long, value_name = "PATH")]
    key_file: PathBuf,

    /// File for the private key and the token of this machine; it is created when it is not there.
    #[arg(long, value_name = "PATH")]
    state_file: PathBuf,

    /// How this machine calls itself. Without it, the name that the system has.
    #[arg(long, value_name = "NAME", env = "HOSTNAME")]
    hostname: Option<String>,

    /// A DNS label that this machine would like to have; may be given several times.
    #[arg(long = "extra-dns-label", value_name = "LABEL")]
    extra_dns_labels: Vec<String>,

    /// File with the authority of the service's certificate in PEM. Without it, those that the system trusts.
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,

    /// Time between heartbeats.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = heartbeat)]
    heartbeat: Lifetime,

    /// When to leave on SIGTERM. A peer that left uses the key again when it comes back, so a machine that restarts with
    /// its state file should not.
    #[arg(long, value_enum, default_value_t = Leave::Ephemeral)]
    leave: Leave,

    #[command(flatten)]
    log: LogFlags,
}

#[derive(Clone, Copy, ValueEnum)]
enum Leave {
    /// If the peer is ephemeral.
    Ephemeral,
    /// In any case.
    Always,
    /// It stays a peer.
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

/// Joins and stays until a signal comes. The exit code says how it ended.
#[tokio::main(flavor = "current_thread")]
pub async fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    flags.log.start()?;
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone(), "the last calls are made")?);
    let service = Client::new(&flags.server, flags.ca_file.as_deref())?;
    if service.is_plain() {
        tracing::warn!("plain HTTP: the key and the token are readable on the way");
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

/// A file that a person wrote ends with a newline.
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
