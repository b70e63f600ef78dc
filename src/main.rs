//! The command line: one subcommand for each process, and `crds`.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};
use setupkey_operator::{api, plain::plain};

/// Network setup keys as a Kubernetes resource.
#[derive(Parser)]
// A flag that is given twice has its last value, so that a flag can be added to those of a manifest.
#[command(version, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller, which issues a Secret for every SetupKey and reports its status.
    ///
    /// It uses the cluster of KUBECONFIG, or the one in which it runs.
    Controller(cli::controller::Flags),
    /// Run the enrollment service, where machines join with a key.
    ///
    /// It uses the cluster of KUBECONFIG, or the one in which it runs. Any number of replicas can run.
    Enrollment(cli::enrollment::Flags),
    /// Join this machine with a key, and keep it a peer.
    ///
    /// The state file keeps the private key and the token of the machine, so a restart does not use the key again.
    /// Heartbeats are sent until SIGTERM.
    Enroll(cli::enroll::Flags),
    /// Serve NetBird's REST API for the SetupKeys of one namespace.
    ///
    /// It has no rights of its own. Each request to the Kubernetes API uses the token of the client.
    Api(cli::api::Flags),
    /// Print the CustomResourceDefinitions as YAML.
    Crds {
        /// Write one file per definition to this folder instead.
        #[arg(long, value_name = "PATH", value_parser = cli::values::path())]
        folder: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // It may quote a file or a server.
        eprintln!("Error: {}", plain(&format!("{error:#}")));
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    match parse().command {
        Command::Controller(flags) => cli::controller::run(flags)?,
        Command::Enrollment(flags) => cli::enrollment::run(flags)?,
        Command::Api(flags) => cli::api::run(flags)?,
        Command::Enroll(flags) => return cli::enroll::run(flags),
        Command::Crds { folder } => print_crds(folder)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the command line, or ends with exit code 2 and a message.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        let mut command = Cli::command();
        command.build();
        let subcommand = std::env::args_os().nth(1).and_then(|name| command.find_subcommand(name));
        cli::values::with_variable(error, subcommand).exit()
    })
}

fn print_crds(folder: Option<PathBuf>) -> anyhow::Result<()> {
    let Some(folder) = folder else {
        api::crd_manifests().iter().for_each(|crd| print!("{}", crd.text));
        return Ok(());
    };
    api::crd_manifests().iter().try_for_each(|crd| {
        let path = folder.join(&crd.file);
        std::fs::write(&path, &crd.text).with_context(|| format!("--folder: {} cannot be written", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_each_subcommand_fit_together() {
        Cli::command().debug_assert();
    }
}
