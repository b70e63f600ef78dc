//! The command line.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use setupkey_operator::api;

/// Network setup keys as a Kubernetes resource.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller, which keeps a Secret and a status for every SetupKey.
    ///
    /// The cluster is the one of KUBECONFIG, or the one that the process runs in.
    Controller(cli::controller::Flags),
    /// Run the enrollment service, to which machines come with a key.
    ///
    /// The cluster is the one of KUBECONFIG, or the one that the process runs in. Any number may run at a time.
    Enrollment(cli::enrollment::Flags),
    /// Join with a key, as the machine that this runs on, and stay a peer.
    ///
    /// The machine keeps its private key and its token in the state file, so that it joins once, however often this is
    /// started. Heartbeats are sent until SIGTERM.
    Enroll(cli::enroll::Flags),
    /// Serve NetBird's REST API for setup keys over the SetupKeys of one namespace.
    ///
    /// It has no rights of its own: each request is made with the token that the client sends.
    Api(cli::api::Flags),
    /// Print the CustomResourceDefinitions as YAML.
    Crds {
        /// Write each to a file of its own in this folder instead.
        #[arg(long, value_name = "PATH")]
        folder: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Controller(flags) => cli::controller::run(flags)?,
        Command::Enrollment(flags) => cli::enrollment::run(flags)?,
        Command::Api(flags) => cli::api::run(flags)?,
        Command::Enroll(flags) => return cli::enroll::run(flags),
        Command::Crds { folder } => print_crds(folder)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_crds(folder: Option<PathBuf>) -> anyhow::Result<()> {
    let Some(folder) = folder else {
        api::crd_manifests().iter().for_each(|crd| print!("{}", crd.text));
        return Ok(());
    };
    api::crd_manifests().iter().try_for_each(|crd| {
        let path = folder.join(&crd.file);
        std::fs::write(&path, &crd.text).with_context(|| format!("{} cannot be written", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flags_of_each_subcommand_fit_together() {
        super::Cli::command().debug_assert();
    }
}
