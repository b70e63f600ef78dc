//! `control-plane run -- CMD`: runs a command with a control plane of its own.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitCode, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use control_plane::{ControlPlane, KUBECONFIG_ENV, Options, tie_to_this_thread};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// How long the command may take to end after a signal before it is killed.
const COMMAND_GRACE: Duration = Duration::from_secs(10);

/// Start a real Kubernetes control plane on loopback.
#[derive(Parser)]
enum Cli {
    /// Run a command with KUBECONFIG pointing to a new control plane, and end both together.
    Run {
        /// After the command has succeeded, keep the control plane until Ctrl-C.
        #[arg(long)]
        keep: bool,
        /// Write each request's metadata to $CONTROL_PLANE_DIR/audit.log.
        #[arg(long)]
        audit: bool,
        /// Install the CustomResourceDefinitions of this file first; may be repeated.
        #[arg(long, value_name = "FILE")]
        crds: Vec<PathBuf>,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli::Run { keep, audit, crds, command } = Cli::parse();

    let started = Instant::now();
    // A signal during the start ends us in the ordinary way, and the programs and files with us.
    let control_plane = ControlPlane::start(Options { audit_log: audit, crds, ..Options::default() })?;
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("could not listen for signals")?;
    eprintln!("control plane ready in {:.1} s", started.elapsed().as_secs_f64());

    let mut child = spawn(&command, &control_plane)?;
    let (status, interrupted) = wait(&mut child, &mut signals).context("could not wait for the command")?;
    if keep && status.success() && !interrupted {
        println!("export KUBECONFIG={}", control_plane.kubeconfig().display());
        signals.forever().next();
    }
    Ok(exit_code(status))
}

fn spawn(command: &[OsString], control_plane: &ControlPlane) -> anyhow::Result<Child> {
    let (program, args) = command.split_first().context("there is no command to run")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = control_plane.tool_folders().into_iter().map(Into::into).chain(env::split_paths(&path));
    let path = env::join_paths(folders).context("the folder of the tools cannot be part of PATH")?;

    // The main thread lives as long as we do.
    tie_to_this_thread(
        Command::new(program)
            .args(args)
            .env("PATH", path)
            .env("KUBECONFIG", control_plane.kubeconfig())
            .env(KUBECONFIG_ENV, control_plane.kubeconfig())
            .env("CONTROL_PLANE_DIR", control_plane.dir()),
    )
    .spawn()
    .with_context(|| format!("could not run {}", program.display()))
}

/// Waits for the command and passes signals on to it. Also says whether there were any.
fn wait(child: &mut Child, signals: &mut Signals) -> io::Result<(ExitStatus, bool)> {
    let mut deadline = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, deadline.is_some()));
        }
        for signal in signals.pending() {
            deadline.get_or_insert_with(|| Instant::now() + COMMAND_GRACE);
            pass_on(signal, child);
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn pass_on(signal: i32, child: &Child) {
    // Ctrl-C in a terminal has reached the command already, and many programs take a second one as
    // "give up at once".
    if signal == SIGINT && io::stdin().is_terminal() {
        return;
    }
    if let Some(signal) = Signal::from_named_raw(signal) {
        // Fails only for a command that has just ended.
        let _ = kill_process(Pid::from_child(child), signal);
    }
}

/// The command's own code or, as shells do it, 128 and the number of the signal that ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
