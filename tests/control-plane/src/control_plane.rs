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
    store::Store,
    tools::Tools,
};

const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often a start is attempted when other processes take the chosen ports.
const ATTEMPTS: u32 = 3;

const DEFAULT_SERVICE_ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

/// A user that the API server knows by a token.
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
    /// Files with CustomResourceDefinitions to install before kube-controller-manager starts. That program looks for
    /// new kinds only every 30 s, so it would collect the garbage of later kinds up to 40 s late.
    pub crds: Vec<PathBuf>,
    /// Flags for kube-apiserver after our own. If a flag is given twice, the last one counts.
    pub api_server_args: Vec<String>,
    /// The database below the API server. Without one, it is that of the environment, or etcd; see [`STORE_ENV`].
    ///
    /// [`STORE_ENV`]: crate::STORE_ENV
    pub store: Option<Store>,
    /// Give the cluster a node.
    pub node: Option<NodeOptions>,
}

/// A running control plane. Dropping it ends the programs and removes their files.
///
/// The fields are dropped in this order: first the programs that write to the folder, then the folder.
#[derive(Debug)]
pub struct ControlPlane {
    node: Option<Node>,
    controller_manager: Process,
    api_server: Process,
    store: Process,
    spawner: Spawner,
    dir: DataDir,
    tools: Tools,
    store_port: u16,
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
        let chosen = options.store.map_or_else(Store::of_environment, Ok)?;
        let dir = DataDir::create("setupkey-control-plane-")?;
        let spawner = Spawner::start();
        let [store_port, api_server_port] = free_ports().map_err(Error::Ports)?;
        let has_node = options.node.is_some();
        let ip = if has_node { node::ADDRESS } else { Ipv4Addr::LOCALHOST };
        let address = SocketAddr::from((ip, api_server_port));
        write_files(&dir, address, has_node)?;
        let kubectl = Kubectl { program: &tools.kubectl, dir: dir.path() };

        let mut store = Process::start(&spawner, dir.path(), chosen.program(dir.path(), store_port)?)?;
        wait_for("the store to listen", &mut [&mut store], || listens((Ipv4Addr::LOCALHOST, store_port).into()))?;

        let mut args = flags::api_server(dir.path(), address, store_port, has_node);
        if options.audit_log {
            args.extend(flags::audit(dir.path()));
        }
        args.extend_from_slice(&options.api_server_args);
        let program = Program::new("kube-apiserver", &tools.api_server, args);
        let mut api_server = Process::start(&spawner, dir.path(), program)?;
        wait_for("kube-apiserver to be ready", &mut [&mut store, &mut api_server], || is_ready(address, &kubectl))?;

        kubectl.install_crds(&options.crds)?;

        // Only now: kube-controller-manager gives up if the API server is away for ten seconds.
        let program = Program::new(
            "kube-controller-manager",
            &tools.controller_manager,
            flags::controller_manager(dir.path(), has_node),
        );
        let mut controller_manager = Process::start(&spawner, dir.path(), program)?;
        wait_for(
            "the ServiceAccount default/default",
            &mut [&mut store, &mut api_server, &mut controller_manager],
            || kubectl.gets(DEFAULT_SERVICE_ACCOUNT),
        )?;

        let node = options.node.as_ref().map(|node| Node::start(&spawner, dir.path(), &kubectl, node)).transpose()?;

        Ok(Self {
            node,
            controller_manager,
            api_server,
            store,
            spawner,
            dir,
            tools,
            store_port,
            api_server_address: address,
        })
    }

    /// The folder with all files of this control plane, such as `kube-apiserver.log`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a kubeconfig for a user of the group `system:masters`, which has all rights.
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

    /// The address of the store, such as `http://127.0.0.1:34567`. It asks for no credentials.
    pub fn store_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.store_port)
    }

    /// The process ids of the store and of the API server.
    pub fn process_ids(&self) -> [u32; 2] {
        [self.store.id(), self.api_server.id()]
    }

    /// The path of a kubectl that matches the version of the API server.
    pub fn kubectl(&self) -> &Path {
        &self.tools.kubectl
    }

    /// The folders with the programs, to put first in a `PATH`.
    pub fn tool_folders(&self) -> Vec<&Path> {
        self.tools.folders()
    }

    /// Kills kube-apiserver and starts it again with the same port, keys and data. The kill breaks every connection.
    /// Returns when the API server is ready. A graceful shutdown would wait for the watches of clients, up to a minute.
    pub fn restart_api_server(&mut self) -> Result<(), Error> {
        let kubectl = Kubectl { program: &self.tools.kubectl, dir: self.dir.path() };
        self.api_server.kill();
        self.api_server.revive(&self.spawner)?;
        wait_for(
            "kube-apiserver to be ready again",
            &mut [&mut self.store, &mut self.controller_manager, &mut self.api_server],
            || is_ready(self.api_server_address, &kubectl),
        )
    }

    /// Starts programs again that have ended, as the service manager of a machine does. A test may kill a program to
    /// see it restarted. Returns the names of the programs that had ended.
    pub fn revive(&mut self) -> Result<Vec<&'static str>, Error> {
        let mut processes = vec![&mut self.store, &mut self.api_server, &mut self.controller_manager];
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
        // The data is about to be deleted, so nothing needs a graceful shutdown.
        self.node = None;
        self.controller_manager.kill();
        self.api_server.kill();
        self.store.kill();
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

/// Waits for the last of `processes`. Fails if one of them ends.
pub(crate) fn wait_for(
    awaited: &'static str,
    processes: &mut [&mut Process],
    ready: impl Fn() -> bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let is_ready = ready();
        // The answer may come from a foreign process that has taken the port. Then ours ends, now or during the next
        // wait.
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
    // Connecting is cheaper than running kubectl while no process listens.
    listens(address) && kubectl.gets("/readyz")
}

fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}")
}

/// Different ports that no process listens on at this moment.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut ports = [0; N];
    // Each listener is kept until all ports are chosen.
    let mut listeners = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
