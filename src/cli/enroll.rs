//! `setupkey-operator enroll`.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use anyhow::anyhow;
use clap::ValueEnum;
use setupkey_operator::{
    agent::{self, End, Introduction, client::Client, identity::Identity},
    api::Lifetime,
};
use tokio_util::sync::CancellationToken;

use super::{LogFlags, cancel_on_signal, hostname, key_file, values};

/// Exit code: the key does not admit this machine.
const REFUSED: u8 = 3;
/// Exit code: the Peer was removed from outside, for example by an administrator.
const REMOVED: u8 = 4;

/// Flags of `setupkey-operator enroll`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// URL of the enrollment service.
    #[arg(long, value_name = "URL", value_parser = values::server)]
    server: String,

    /// File with the setup key, for example from a mounted Secret. White space around the key does not count.
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    key_file: PathBuf,

    /// File with the private key and the token of this machine. It is created if it does not exist.
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    state_file: PathBuf,

    /// Hostname of this machine. Default: the system's hostname, also if the variable is empty.
    #[arg(long, value_name = "NAME", env = hostname::VARIABLE, value_parser = hostname::Parser)]
    hostname: Option<hostname::Given>,

    /// Extra DNS label to request for this machine. It can be repeated.
    #[arg(long = "extra-dns-label", value_name = "LABEL", value_parser = values::dns_label)]
    extra_dns_labels: Vec<String>,

    /// PEM file with the CA of the service's certificate. Default: the CAs that the system trusts.
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    ca_file: Option<PathBuf>,

    /// Time between heartbeats, 1s to 24h.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = values::heartbeat)]
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

/// Joins and stays a peer until a signal comes. The exit code says why it ended.
#[tokio::main(flavor = "current_thread")]
pub async fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    flags.log.start();
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone())?);
    let service = Client::new(&flags.server, flags.ca_file.as_deref())?;
    if service.is_plain() {
        tracing::warn!("plain HTTP: the key and the token are readable on the network");
    }
    let key = key_file::read(&flags.key_file)?;
    let hostname = hostname::decide(flags.hostname, hostname::of_system)?;
    let extra_dns_labels = BTreeSet::from_iter(flags.extra_dns_labels).into_iter().collect();
    let introduction = Introduction { hostname, extra_dns_labels };
    let identity = Identity::load_or_create(&flags.state_file).map_err(|error| anyhow!("--state-file: {error}"))?;
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
