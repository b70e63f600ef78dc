//! The configuration of a node's programs.

use std::path::Path;

use super::{ADDRESS, NAME, network::POD_RANGE};
use crate::{
    Error,
    flags::{file, flag},
};

/// The image that holds a pod's namespaces open. `hack/node-image.sh` packs it.
pub const PAUSE_IMAGE: &str = "localhost/setupkey-node:shell";

/// `/run` belongs to the machine alone, and is in memory.
const CONTAINERD_FOLDER: &str = "/run/node";
pub const CONTAINERD_SOCKET: &str = "/run/node/containerd.sock";

/// Where Debian's package and the upstream archive have the CNI plugins.
pub const CNI_FOLDERS: &[&str] = &["/usr/lib/cni", "/opt/cni/bin"];

mod name {
    pub const COREFILE: &str = "Corefile";
    pub const CONTAINERD: &str = "containerd.toml";
    pub const CNI_FOLDER: &str = "cni";
    pub const CNI: &str = "cni/pods.conflist";
    pub const KUBELET: &str = "kubelet.yaml";
    pub const RESOLVER: &str = "resolv.conf";
}

pub fn write(dir: &Path, cgroup: &str) -> Result<(), Error> {
    let cni = dir.join(name::CNI_FOLDER);
    std::fs::create_dir(&cni).map_err(|source| Error::Write { path: cni, source })?;
    for (name, contents) in [
        (name::CONTAINERD, containerd_toml(dir)),
        (name::CNI, cni_json()),
        (name::KUBELET, kubelet_yaml(dir, cgroup)),
        (name::COREFILE, corefile(dir)),
        // No server can be asked about other names.
        (name::RESOLVER, String::new()),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, contents).map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

pub fn containerd(dir: &Path) -> Vec<String> {
    vec![flag("--config", dir.join(name::CONTAINERD).display())]
}

pub fn kubelet(dir: &Path) -> Vec<String> {
    vec![
        flag("--config", dir.join(name::KUBELET).display()),
        flag("--kubeconfig", dir.join(file::KUBELET_KUBECONFIG).display()),
        flag("--cert-dir", dir.join("kubelet").display()),
        flag("--hostname-override", NAME),
        flag("--node-ip", ADDRESS),
    ]
}

pub fn scheduler(dir: &Path) -> Vec<String> {
    let kubeconfig = dir.join(file::SCHEDULER_KUBECONFIG);
    vec![
        flag("--kubeconfig", kubeconfig.display()),
        flag("--authentication-kubeconfig", kubeconfig.display()),
        flag("--authorization-kubeconfig", kubeconfig.display()),
        flag("--leader-elect", false),
        flag("--bind-address", "127.0.0.1"),
    ]
}

pub fn proxy(dir: &Path) -> Vec<String> {
    vec![
        flag("--kubeconfig", dir.join(file::PROXY_KUBECONFIG).display()),
        flag("--hostname-override", NAME),
        flag("--proxy-mode", "nftables"),
        flag("--cluster-cidr", POD_RANGE),
        // The connection tables are sized for the whole host, so the node must not change them.
        flag("--conntrack-max-per-core", 0),
        flag("--healthz-bind-address", "127.0.0.1:10256"),
    ]
}

pub fn dns(dir: &Path) -> Vec<String> {
    vec!["-conf".to_owned(), dir.join(name::COREFILE).display().to_string()]
}

/// CoreDNS runs as the administrator: Kubernetes has a role for each of the other programs, but not for this one.
fn corefile(dir: &Path) -> String {
    let kubeconfig = dir.join(file::KUBECONFIG);
    format!(
        "\
.:53 {{
    bind {ADDRESS}
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {}
    }}
}}
",
        kubeconfig.display()
    )
}

fn containerd_toml(dir: &Path) -> String {
    let cni_plugins = CNI_FOLDERS.iter().find(|folder| Path::new(folder).is_dir()).unwrap_or(&CNI_FOLDERS[0]);
    let cni = dir.join(name::CNI_FOLDER);
    format!(
        r#"version = 2
root = "{CONTAINERD_FOLDER}/root"
state = "{CONTAINERD_FOLDER}/state"
oom_score = 0
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without the right to lower the OOM score, no container would start.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_plugins}"
conf_dir = "{}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
        cni.display()
    )
}

fn cni_json() -> String {
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{{
    "type": "ptp",
    "ipam": {{ "type": "host-local", "ranges": [[{{ "subnet": "{POD_RANGE}" }}]], "routes": [{{ "dst": "0.0.0.0/0" }}] }}
  }}]
}}
"#
    )
}

fn kubelet_yaml(dir: &Path, cgroup: &str) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {ADDRESS}
containerRuntimeEndpoint: unix://{CONTAINERD_SOCKET}
authentication:
  anonymous: {{ enabled: false }}
  webhook: {{ enabled: true }}
  x509: {{ clientCAFile: "{authority}" }}
authorization: {{ mode: Webhook }}
resolvConf: "{resolver}"
clusterDNS: [{ADDRESS}]
clusterDomain: cluster.local
# All containers in one group, which goes when the machine goes; no group for the node's own programs.
cgroupRoot: /{cgroup}
cgroupDriver: cgroupfs
cgroupsPerQOS: true
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
# A mounted Secret follows within this time and half of it again; the default is a minute.
syncFrequency: 10s
# The machine is lent: how full it is, is no reason to throw pods out.
evictionHard: {{ memory.available: 1Mi, nodefs.available: 1%, imagefs.available: 1% }}
imageGCHighThresholdPercent: 100
"#,
        authority = file(file::AUTHORITY),
        resolver = file(name::RESOLVER),
    )
}
