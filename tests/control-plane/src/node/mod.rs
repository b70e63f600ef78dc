//! A node for the cluster: containerd, kubelet, kube-scheduler, kube-proxy and CoreDNS, so that pods
//! run.
//!
//! It works in a machine of its own, see [`machine`]. That makes it safe: its network, its mounts and its processes
//! belong to namespaces that end with the process that created them.

mod cgroups;
mod config;
pub(crate) mod machine;
mod network;
mod requirements;
mod shield;
mod traces;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Error, command,
    control_plane::{User, wait_for},
    flags::file,
    kubectl::Kubectl,
    process::{Process, Program, SYSTEM_PATH, Spawner, tie_to_this_thread},
    tools::NodeTools,
};

pub use machine::{Machine, furnish};
pub(crate) use network::POD_RANGE;
pub use requirements::missing_packages;

/// The node's own address, which is visible only inside its network.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);

/// The name of the node.
pub const NAME: &str = "node";

/// The node's users at the API server, each with the rights that Kubernetes gives it.
pub(crate) const USERS: &[User] = &[
    User { name: "system:node:node", group: "system:nodes", kubeconfig: file::KUBELET_KUBECONFIG },
    User { name: "system:kube-scheduler", group: "", kubeconfig: file::SCHEDULER_KUBECONFIG },
    User { name: "system:kube-proxy", group: "", kubeconfig: file::PROXY_KUBECONFIG },
];

#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Archives of images that pods can use. One of them must hold [`config::PAUSE_IMAGE`].
    pub images: Vec<PathBuf>,
    /// The name of the control group for all containers.
    pub cgroup: String,
}

/// A running node. Dropping it kills the programs; containers end with the machine.
#[derive(Debug)]
pub struct Node {
    kubelet: Process,
    scheduler: Process,
    proxy: Process,
    dns: Process,
    containerd: Process,
}

impl Node {
    /// Returns when the node is Ready and Services can be reached.
    pub fn start(spawner: &Spawner, dir: &Path, kubectl: &Kubectl, options: &NodeOptions) -> Result<Self, Error> {
        let tools = NodeTools::locate()?;
        config::write(dir, &options.cgroup)?;
        let start = |name, path: &Path, args| Process::start(spawner, dir, Program::new(name, path, args));

        let mut containerd = start("containerd", Path::new("containerd"), config::containerd(dir))?;
        wait_for("containerd to answer", &mut [&mut containerd], || ctr(&["version"], None).is_ok())?;
        for image in &options.images {
            ctr(&["--namespace", "k8s.io", "images", "import"], Some(image))?;
        }
        let mut kubelet = start("kubelet", &tools.kubelet, config::kubelet(dir))?;
        let mut scheduler = start("kube-scheduler", &tools.scheduler, config::scheduler(dir))?;
        let mut dns = start("coredns", &tools.dns, config::dns(dir))?;
        let mut proxy = start("kube-proxy", &tools.proxy, config::proxy(dir))?;
        let processes = &mut [&mut containerd, &mut scheduler, &mut proxy, &mut kubelet];
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        wait_for("the node to be Ready", processes, || {
            kubectl.prints(&["get", "node", NAME, "-o", ready]).is_some_and(|status| status == "True")
        })?;
        let processes = &mut [&mut containerd, &mut scheduler, &mut kubelet, &mut proxy];
        wait_for("kube-proxy to route Services", processes, network::services_are_routed)?;
        let processes = &mut [&mut containerd, &mut scheduler, &mut kubelet, &mut proxy, &mut dns];
        wait_for("CoreDNS to know the Services", processes, network::names_are_known)?;
        Ok(Self { kubelet, scheduler, proxy, dns, containerd })
    }

    pub(crate) fn processes(&mut self) -> [&mut Process; 5] {
        [&mut self.containerd, &mut self.kubelet, &mut self.scheduler, &mut self.proxy, &mut self.dns]
    }
}

/// The programs of a node and their versions, for people to read.
pub fn versions() -> String {
    let kubelet = NodeTools::locate().map(|tools| tools.kubelet).unwrap_or_default();
    let number = |program: &str, path: &str| {
        let words = command::run(path, &["--version"]).unwrap_or_default();
        let mut words =
            words.split_whitespace().filter(|word| word.trim_start_matches('v').starts_with(char::is_numeric));
        format!("{program} {}", words.next().unwrap_or("?"))
    };
    [number("kubelet", &kubelet.to_string_lossy()), number("containerd", "containerd"), number("runc", "runc")]
        .join(", ")
}

/// Runs containerd's own client.
fn ctr(args: &[&str], file: Option<&Path>) -> Result<(), Error> {
    let mut command = Command::new("ctr");
    command.env("PATH", SYSTEM_PATH).args(["--address", config::CONTAINERD_SOCKET]).args(args).args(file);
    let output = tie_to_this_thread(command.stdin(Stdio::null()))
        .output()
        .map_err(|source| Error::Spawn { program: "ctr".into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(Error::Command { command: format!("ctr {}", args.join(" ")), stderr })
}
