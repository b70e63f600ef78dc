//! Starting, restarting and stopping the three programs in their order.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error,
    certificates::Certificates,
    data_dir::DataDir,
    flags::{self, file},
    kubeconfig,
    kubectl::Kubectl,
    process::{Process, Spawner},
    tools::Tools,
};

const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often a start is attempted when others take the ports that it has chosen.
const ATTEMPTS: u32 = 3;

const DEFAULT_SERVICE_ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Write each request's metadata to [`ControlPlane::audit_log`].
    pub audit_log: bool,
    /// Files with CustomResourceDefinitions to install before kube-controller-manager starts. That
    /// program looks for new kinds every 30 s only, so it would be up to 40 s late to collect the
    /// garbage of kinds that came after it.
    pub crds: Vec<PathBuf>,
    /// Flags for kube-apiserver after our own; of a flag that is given twice, the last counts.
    pub api_server_args: Vec<String>,
}

/// A running control plane. Dropping it ends the programs and removes their files.
///
/// The fields are dropped in this order: first what writes to the folder, then the folder.
#[derive(Debug)]
pub struct ControlPlane {
    controller_manager: Process,
    api_server: Process,
    etcd: Process,
    spawner: Spawner,
    dir: DataDir,
    tools: Tools,
    api_server_port: u16,
    api_server_flags: Vec<String>,
}

impl ControlPlane {
    /// Returns when the API server is ready and the namespace `default` has its ServiceAccount.
    pub fn start(options: Options) -> Result<Self, Error> {
        let mut attempt = 1;
        loop {
            match Self::start_once(&options) {
                Err(error) if error.lost_a_port() && attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    fn start_once(options: &Options) -> Result<Self, Error> {
        let tools = Tools::locate()?;
        let dir = DataDir::create()?;
        let spawner = Spawner::start();
        let [etcd_port, api_server_port] = free_ports().map_err(Error::Ports)?;
        write_files(&dir, api_server_port)?;
        let kubectl = Kubectl { program: &tools.kubectl, dir: dir.path() };

        let mut etcd = Process::start(&spawner, dir.path(), "etcd", &tools.etcd, &flags::etcd(dir.path(), etcd_port))?;
        wait_for("etcd to listen", &mut [&mut etcd], || listens(etcd_port))?;

        let mut api_server_flags = flags::api_server(dir.path(), api_server_port, etcd_port, options.audit_log);
        api_server_flags.extend_from_slice(&options.api_server_args);
        let mut api_server = start_api_server(&spawner, dir.path(), &tools, &api_server_flags)?;
        wait_for("kube-apiserver to be ready", &mut [&mut etcd, &mut api_server], || {
            is_ready(api_server_port, &kubectl)
        })?;

        kubectl.install_crds(&options.crds)?;

        // Only now, for it gives up on an API server that stays away for ten seconds.
        let mut controller_manager = Process::start(
            &spawner,
            dir.path(),
            "kube-controller-manager",
            &tools.controller_manager,
            &flags::controller_manager(dir.path()),
        )?;
        wait_for(
            "the ServiceAccount default/default",
            &mut [&mut etcd, &mut api_server, &mut controller_manager],
            || kubectl.gets(DEFAULT_SERVICE_ACCOUNT),
        )?;

        Ok(Self { controller_manager, api_server, etcd, spawner, dir, tools, api_server_port, api_server_flags })
    }

    /// The folder with everything of this control plane, such as `kube-apiserver.log`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a kubeconfig for a user of the group `system:masters`, whom nothing is
    /// forbidden.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join(file::KUBECONFIG)
    }

    /// The path of the audit log, one JSON event on each line; the file exists if
    /// [`Options::audit_log`] was set.
    pub fn audit_log(&self) -> PathBuf {
        self.dir().join(file::AUDIT_LOG)
    }

    /// The API server's address, such as `https://127.0.0.1:34567`.
    pub fn url(&self) -> String {
        url(self.api_server_port)
    }

    /// The path of a kubectl that fits the API server.
    pub fn kubectl(&self) -> &Path {
        &self.tools.kubectl
    }

    /// The folders with the programs, to be put first in a `PATH`.
    pub fn tool_folders(&self) -> Vec<&Path> {
        self.tools.folders()
    }

    /// Kills kube-apiserver, which breaks every connection, and starts it again with the same port,
    /// keys and data. Returns when it is ready. A gentle end would take as long as clients watch,
    /// up to a minute.
    pub fn restart_api_server(&mut self) -> Result<(), Error> {
        let kubectl = Kubectl { program: &self.tools.kubectl, dir: self.dir.path() };
        self.api_server.kill();
        self.api_server = start_api_server(&self.spawner, self.dir.path(), &self.tools, &self.api_server_flags)?;
        wait_for(
            "kube-apiserver to be ready again",
            &mut [&mut self.etcd, &mut self.controller_manager, &mut self.api_server],
            || is_ready(self.api_server_port, &kubectl),
        )
    }

    /// Ends the programs. The files stay until the control plane is dropped.
    pub fn stop(&mut self) {
        // Their data is about to be thrown away, so there is no reason to be gentle.
        self.controller_manager.kill();
        self.api_server.kill();
        self.etcd.kill();
    }
}

fn write_files(dir: &DataDir, api_server_port: u16) -> Result<(), Error> {
    let certificates = Certificates::generate(flags::SERVICE_IP)?;
    let token = format!("{:032x}", rand::random::<u128>());
    let kubeconfig = kubeconfig::render(&url(api_server_port), &certificates.authority, &token);
    for (name, contents) in [
        (file::AUTHORITY, certificates.authority.as_str()),
        (file::API_SERVER, &certificates.api_server),
        (file::API_SERVER_KEY, &certificates.api_server_key),
        (file::SERVICE_ACCOUNT_KEY, &certificates.service_account_key),
        (file::SERVICE_ACCOUNT_PUBLIC_KEY, &certificates.service_account_public_key),
        (file::ADMIN_TOKEN, &format!("{token},admin,admin,\"system:masters\"\n")),
        (file::KUBECONFIG, &kubeconfig),
        (file::AUDIT_POLICY, flags::AUDIT_POLICY),
    ] {
        dir.write(name, contents)?;
    }
    Ok(())
}

fn start_api_server(spawner: &Spawner, dir: &Path, tools: &Tools, flags: &[String]) -> Result<Process, Error> {
    Process::start(spawner, dir, "kube-apiserver", &tools.api_server, flags)
}

/// Waits while all `processes` live. The last of them is the one that is waited for.
fn wait_for(awaited: &'static str, processes: &mut [&mut Process], ready: impl Fn() -> bool) -> Result<(), Error> {
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let is_ready = ready();
        // The answer may come from a stranger who has taken the port. Then ours ends, now or during
        // the next wait.
        for process in processes.iter_mut() {
            process.check()?;
        }
        if is_ready {
            return Ok(());
        }
        if Instant::now() > deadline {
            let process = processes.last().expect("there is a program to wait for");
            return Err(Error::NotReady {
                awaited,
                limit: READY_LIMIT,
                name: process.name(),
                log_tail: process.log_tail(),
            });
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn is_ready(port: u16, kubectl: &Kubectl) -> bool {
    // To knock is cheaper than to run kubectl while nobody is in.
    listens(port) && kubectl.gets("/readyz")
}

fn listens(port: u16) -> bool {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

/// Different ports that nobody listens on at this moment.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut ports = [0; N];
    // Each listener stays until all ports are chosen.
    let mut listeners = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
