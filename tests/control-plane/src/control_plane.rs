//! Starting, restarting and stopping the three programs in their order.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
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
    node::{self, Node, NodeOptions},
    process::{Process, Program, Spawner},
    tools::Tools,
};

const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often a start is attempted when others take the ports that it has chosen.
const ATTEMPTS: u32 = 3;

const DEFAULT_SERVICE_ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

/// Someone whom the API server knows by a token.
pub(crate) struct User {
    pub name: &'static str,
    pub group: &'static str,
    pub kubeconfig: &'static str,
}

const ADMIN: User = User { name: "admin", group: "system:masters", kubeconfig: file::KUBECONFIG };

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
    /// Give the cluster a node.
    pub node: Option<NodeOptions>,
}

/// A running control plane. Dropping it ends the programs and removes their files.
///
/// The fields are dropped in this order: first what writes to the folder, then the folder.
#[derive(Debug)]
pub struct ControlPlane {
    node: Option<Node>,
    controller_manager: Process,
    api_server: Process,
    etcd: Process,
    spawner: Spawner,
    dir: DataDir,
    tools: Tools,
    api_server_address: SocketAddr,
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
        let has_node = options.node.is_some();
        let ip = if has_node { node::ADDRESS } else { Ipv4Addr::LOCALHOST };
        let address = SocketAddr::from((ip, api_server_port));
        write_files(&dir, address, has_node)?;
        let kubectl = Kubectl { program: &tools.kubectl, dir: dir.path() };

        let program = Program { name: "etcd", path: tools.etcd.clone(), args: flags::etcd(dir.path(), etcd_port) };
        let mut etcd = Process::start(&spawner, dir.path(), program)?;
        wait_for("etcd to listen", &mut [&mut etcd], || listens((Ipv4Addr::LOCALHOST, etcd_port).into()))?;

        let mut args = flags::api_server(dir.path(), address, etcd_port, has_node);
        if options.audit_log {
            args.extend(flags::audit(dir.path()));
        }
        args.extend_from_slice(&options.api_server_args);
        let program = Program { name: "kube-apiserver", path: tools.api_server.clone(), args };
        let mut api_server = Process::start(&spawner, dir.path(), program)?;
        wait_for("kube-apiserver to be ready", &mut [&mut etcd, &mut api_server], || is_ready(address, &kubectl))?;

        kubectl.install_crds(&options.crds)?;

        // Only now, for it gives up on an API server that stays away for ten seconds.
        let program = Program {
            name: "kube-controller-manager",
            path: tools.controller_manager.clone(),
            args: flags::controller_manager(dir.path(), has_node),
        };
        let mut controller_manager = Process::start(&spawner, dir.path(), program)?;
        wait_for(
            "the ServiceAccount default/default",
            &mut [&mut etcd, &mut api_server, &mut controller_manager],
            || kubectl.gets(DEFAULT_SERVICE_ACCOUNT),
        )?;

        let node = options.node.as_ref().map(|node| Node::start(&spawner, dir.path(), &kubectl, node)).transpose()?;

        Ok(Self { node, controller_manager, api_server, etcd, spawner, dir, tools, api_server_address: address })
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
        url(self.api_server_address)
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
        self.api_server.revive(&self.spawner)?;
        wait_for(
            "kube-apiserver to be ready again",
            &mut [&mut self.etcd, &mut self.controller_manager, &mut self.api_server],
            || is_ready(self.api_server_address, &kubectl),
        )
    }

    /// Starts programs again that have ended, as the service manager of a machine does. So whoever
    /// wants to see one restarted may kill it. Returns the names of those that had ended.
    pub fn revive(&mut self) -> Result<Vec<&'static str>, Error> {
        let mut processes = vec![&mut self.etcd, &mut self.api_server, &mut self.controller_manager];
        processes.extend(self.node.iter_mut().flat_map(Node::processes));
        let mut revived = Vec::new();
        for process in processes {
            if process.revive(&self.spawner)? {
                revived.push(process.name());
            }
        }
        Ok(revived)
    }

    /// Ends the programs. The files stay until the control plane is dropped.
    pub fn stop(&mut self) {
        // Their data is about to be thrown away, so there is no reason to be gentle.
        self.node = None;
        self.controller_manager.kill();
        self.api_server.kill();
        self.etcd.kill();
    }
}

fn write_files(dir: &DataDir, address: SocketAddr, has_node: bool) -> Result<(), Error> {
    let certificates = Certificates::generate(&[address.ip(), Ipv4Addr::LOCALHOST.into(), flags::SERVICE_IP.into()])?;
    let mut tokens = String::new();
    for user in node::USERS.iter().filter(|_| has_node).chain([&ADMIN]) {
        let token = format!("{:032x}", rand::random::<u128>());
        let kubeconfig = kubeconfig::render(&url(address), &certificates.authority, user.name, &token);
        dir.write(user.kubeconfig, &kubeconfig)?;
        tokens += &format!("{token},{0},{0},\"{1}\"\n", user.name, user.group);
    }
    for (name, contents) in [
        (file::AUTHORITY, certificates.authority.as_str()),
        (file::API_SERVER, &certificates.api_server),
        (file::API_SERVER_KEY, &certificates.api_server_key),
        (file::KUBELET_CLIENT, &certificates.kubelet_client),
        (file::KUBELET_CLIENT_KEY, &certificates.kubelet_client_key),
        (file::SERVICE_ACCOUNT_KEY, &certificates.service_account_key),
        (file::SERVICE_ACCOUNT_PUBLIC_KEY, &certificates.service_account_public_key),
        (file::TOKENS, &tokens),
        (file::AUDIT_POLICY, flags::AUDIT_POLICY),
    ] {
        dir.write(name, contents)?;
    }
    Ok(())
}

/// Waits while all `processes` live. The last of them is the one that is waited for.
pub(crate) fn wait_for(
    awaited: &'static str,
    processes: &mut [&mut Process],
    ready: impl Fn() -> bool,
) -> Result<(), Error> {
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

fn is_ready(address: SocketAddr, kubectl: &Kubectl) -> bool {
    // To knock is cheaper than to run kubectl while nobody is in.
    listens(address) && kubectl.gets("/readyz")
}

fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}")
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
