//! `control-plane run -- CMD`: runs a command with a control plane of its own, and with a NetBird server on request.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    iter,
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Parser};
use control_plane::{
    ControlPlane, KUBECONFIG_ENV, Machine, NodeOptions, Options, STORE_ENV, Store, furnish, missing_packages,
    netbird::{self, NetBird},
    node_versions, tie_to_this_thread,
};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// How long the command may take to end after a signal before it is killed.
const COMMAND_GRACE: Duration = Duration::from_secs(10);

/// Start a real Kubernetes control plane, on loopback or with a node in a network of its own.
#[derive(Parser)]
enum Cli {
    /// Run a command with KUBECONFIG pointing to a new control plane, and end both together.
    Run {
        /// Give the cluster a node, in namespaces of its own; needs root on Linux. The command runs in these
        /// namespaces, too, because the cluster cannot be reached from outside.
        #[arg(long)]
        node: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Print the Debian packages that `run --node` needs and this machine lacks.
    MissingPackages,
    /// What `run --node` starts in the new namespaces.
    #[command(hide = true)]
    RunInside {
        #[arg(long)]
        cgroup: String,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Args)]
struct Settings {
    /// After the command has succeeded, keep the control plane until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Write each request's metadata to $CONTROL_PLANE_DIR/audit.log.
    #[arg(long)]
    audit: bool,
    /// The database below the API server. Default: what CONTROL_PLANE_STORE names, or etcd. CONTROL_PLANE_STORE of the
    /// command names it, so that control planes which the command starts are on the same store.
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// Install the CustomResourceDefinitions of this file first; may be repeated.
    #[arg(long, value_name = "FILE")]
    crds: Vec<PathBuf>,
    /// Import this image archive into the node; may be repeated.
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// Start a NetBird server as well; needs root on Linux. The command finds it by NETBIRD_URL, NETBIRD_CA_FILE and
    /// NETBIRD_TOKEN_FILE (an administrator's token). NETBIRD_AGENT is the command that runs an agent where it reaches
    /// the server.
    #[arg(long)]
    netbird: bool,
    /// Copy the logs of all programs into this folder when the command fails.
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse() {
        Cli::Run { node: false, settings } => run(settings, None),
        Cli::Run { node: true, .. } => run_in_a_machine(env::args_os().skip(2)),
        Cli::MissingPackages => {
            missing_packages()?.iter().for_each(|package| println!("{package}"));
            Ok(ExitCode::SUCCESS)
        }
        Cli::RunInside { cgroup, settings } => {
            furnish(&cgroup)?;
            let node = NodeOptions { images: settings.images.clone(), cgroup };
            run(settings, Some(node))
        }
    }
}

/// Starts this program again in a machine of its own, and cleans up afterwards.
fn run_in_a_machine(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("could not listen for signals")?;
    let mut machine = Machine::create()?;
    let inside = ["run-inside".into(), "--cgroup".into(), machine.name().to_owned()];
    let mut args: Vec<_> = args.collect();
    // The first one is ours. Another one may belong to the command.
    if let Some(ours) = args.iter().position(|arg| arg == "--node") {
        args.remove(ours);
    }
    let mut unshare = machine.run(inside.into_iter().chain(args))?;
    let mut deadline = None;
    let status = loop {
        if let Some(status) = unshare.try_wait().context("could not wait for the machine")? {
            break status;
        }
        let first = machine.first_process(&unshare).and_then(Pid::from_raw);
        for signal in signals.pending() {
            // The inner launcher gives its command time to end, and then needs some time itself.
            deadline.get_or_insert_with(|| Instant::now() + COMMAND_GRACE * 2);
            if let Some(first) = first {
                pass_on(signal, first);
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            unshare.kill().context("could not end the machine")?;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let left = machine.remove();
    if !left.is_empty() {
        anyhow::bail!("left behind:\n{}", left.join("\n"));
    }
    eprintln!("nothing left behind");
    Ok(exit_code(status))
}

fn run(settings: Settings, node: Option<NodeOptions>) -> anyhow::Result<ExitCode> {
    let Settings { keep, audit, store, crds, logs, netbird, command, .. } = settings;
    let started = Instant::now();
    let has_node = node.is_some();
    // A signal during the start ends this process in the ordinary way, and the programs and files with it. But the
    // kernel delivers to process 1 only the signals that it handles.
    let early = if has_node { Some(end_on_signals()?) } else { None };
    let store = store.map_or_else(Store::of_environment, Ok)?;
    let options = Options { audit_log: audit, crds, store: Some(store), node, ..Options::default() };
    let mut control_plane = ControlPlane::start(options)?;
    let options = netbird::Options { transport: netbird::Transport::Https, ..Default::default() };
    let netbird = netbird.then(|| NetBird::start(options)).transpose()?;
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("could not listen for signals")?;
    if let Some(early) = early {
        early.store(false, Ordering::SeqCst);
    }
    let on = if store == Store::default() { String::new() } else { format!(" on {}", store.name()) };
    let what = if has_node { format!("a node with {}", node_versions()) } else { format!("control plane{on}") };
    let what = if netbird.is_some() { format!("{what} and NetBird") } else { what };
    eprintln!("{what} ready in {:.1} s", started.elapsed().as_secs_f64());

    let of_netbird = netbird.as_ref().map(variables).transpose()?.unwrap_or_default();
    let mut child = spawn(&command, &control_plane, store, of_netbird)?;
    let supervise = || if has_node { revive(&mut control_plane) } else { Ok(()) };
    let (status, interrupted) = wait(&mut child, &mut signals, supervise).context("could not wait for the command")?;
    if let Some(logs) = logs.filter(|_| !status.success()) {
        for dir in iter::once(control_plane.dir()).chain(netbird.as_ref().map(NetBird::dir)) {
            copy_logs(dir, &logs).with_context(|| format!("could not write to {}", logs.display()))?;
        }
        eprintln!("the logs of all programs are in {}", logs.display());
    }
    if keep && status.success() && !interrupted {
        println!("export KUBECONFIG={}", control_plane.kubeconfig().display());
        signals.forever().next();
    }
    Ok(exit_code(status))
}

/// What the command is told of NetBird.
fn variables(netbird: &NetBird) -> anyhow::Result<Vec<(&'static str, OsString)>> {
    let token = netbird.dir().join("admin.token");
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&token)?;
    file.write_all(netbird.tokens().admin.expose_secret().as_bytes())?;
    let agent = format!("{} {} up", netbird.enter().join(" "), netbird.agent_program().display());
    Ok(vec![
        ("NETBIRD_URL", netbird.url().into()),
        ("NETBIRD_CA_FILE", netbird.authority_file().into()),
        ("NETBIRD_TOKEN_FILE", token.into()),
        ("NETBIRD_AGENT", agent.into()),
    ])
}

fn spawn(
    command: &[OsString],
    control_plane: &ControlPlane,
    store: Store,
    of_netbird: Vec<(&'static str, OsString)>,
) -> anyhow::Result<Child> {
    let of_netbird_url = of_netbird.iter().find(|(name, _)| *name == "NETBIRD_URL");
    let urls = of_netbird_url.map(|(_, url)| url.to_string_lossy().into_owned());
    let without_proxy = without_proxy(urls.into_iter().chain([control_plane.url()]));
    let (program, args) = command.split_first().context("there is no command to run")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = control_plane.tool_folders().into_iter().map(Into::into).chain(env::split_paths(&path));
    let path = env::join_paths(folders).context("the folder of the tools cannot be part of PATH")?;

    // The main thread lives as long as this process.
    tie_to_this_thread(
        Command::new(program)
            .args(args)
            .env("PATH", path)
            .env("KUBECONFIG", control_plane.kubeconfig())
            .env(KUBECONFIG_ENV, control_plane.kubeconfig())
            .env(STORE_ENV, store.name())
            .env("CONTROL_PLANE_DIR", control_plane.dir())
            .env("NO_PROXY", &without_proxy)
            .env("no_proxy", &without_proxy)
            .envs(of_netbird),
    )
    .spawn()
    .with_context(|| format!("could not run {}", program.display()))
}

/// The hosts that the command reaches without the proxy of its environment: those of the caller, and these servers.
fn without_proxy(urls: impl Iterator<Item = String>) -> String {
    let of_the_caller = ["NO_PROXY", "no_proxy"].into_iter().filter_map(|name| env::var(name).ok());
    let of_the_caller = of_the_caller.filter(|hosts| !hosts.is_empty()).take(1);
    let host = |url: String| Some(url.split_once("://")?.1.rsplit_once(':')?.0.to_owned());
    of_the_caller.chain(urls.filter_map(host)).collect::<Vec<_>>().join(",")
}

/// Waits for the command and passes signals on to it. Also returns whether there were any.
fn wait(
    child: &mut Child,
    signals: &mut Signals,
    mut meanwhile: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<(ExitStatus, bool)> {
    let mut deadline = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, deadline.is_some()));
        }
        meanwhile()?;
        for signal in signals.pending() {
            deadline.get_or_insert_with(|| Instant::now() + COMMAND_GRACE);
            pass_on(signal, Pid::from_child(child));
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn revive(control_plane: &mut ControlPlane) -> anyhow::Result<()> {
    for name in control_plane.revive()? {
        eprintln!("{name} ended and was started again");
    }
    Ok(())
}

/// Ends this process on a signal while the flag is set.
fn end_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let armed = Arc::new(AtomicBool::new(true));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))
            .context("could not listen for signals")?;
    }
    Ok(armed)
}

fn copy_logs(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|extension| extension == "log")) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

fn pass_on(signal: i32, process: Pid) {
    // Ctrl-C in a terminal has already reached the command, and many programs take a second one as "give up at once".
    if signal == SIGINT && io::stdin().is_terminal() {
        return;
    }
    if let Some(signal) = Signal::from_named_raw(signal) {
        // Fails only for a process that has just ended.
        let _ = kill_process(process, signal);
    }
}

/// The command's own code. If a signal ended the command, 128 and the number of the signal, as in shells.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
