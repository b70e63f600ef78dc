//! The flags of the programs. Everything listens on 127.0.0.1 only. With a node, which has its own network, the API
//! server listens on the node's address, so that pods can reach it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

/// The addresses of Services, and the first of them, which kube-apiserver gives to the `kubernetes` Service.
pub const SERVICE_RANGE: &str = "10.96.0.0/24";
pub const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Garbage collection, the deletion of namespaces, quotas, aggregated roles and the type check of admission policies: what
/// an operator and its users rely on.
/// Without a node, the controllers that need one are left out, such as the one for Deployments.
const CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "validatingadmissionpolicy-status-controller",
];

pub const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
";

/// Names of files in the data directory.
pub mod file {
    pub const API_SERVER: &str = "apiserver.crt";
    pub const API_SERVER_KEY: &str = "apiserver.key";
    pub const AUDIT_LOG: &str = "audit.log";
    pub const AUDIT_POLICY: &str = "audit-policy.yaml";
    pub const AUTHORITY: &str = "ca.crt";
    pub const KUBECONFIG: &str = "kubeconfig";
    pub const KUBELET_CLIENT: &str = "kubelet-client.crt";
    pub const KUBELET_CLIENT_KEY: &str = "kubelet-client.key";
    pub const KUBELET_KUBECONFIG: &str = "kubelet.kubeconfig";
    pub const PROXY_KUBECONFIG: &str = "kube-proxy.kubeconfig";
    pub const SCHEDULER_KUBECONFIG: &str = "kube-scheduler.kubeconfig";
    pub const SERVICE_ACCOUNT_KEY: &str = "service-account.key";
    pub const SERVICE_ACCOUNT_PUBLIC_KEY: &str = "service-account.pub";
    pub const TOKENS: &str = "tokens.csv";
}

pub fn etcd(dir: &Path, port: u16) -> Vec<String> {
    let url = format!("http://127.0.0.1:{port}");
    // A single member has no peers, so any port will do.
    let peer_url = "http://127.0.0.1:0";
    vec![
        flag("--data-dir", dir.join("etcd").display()),
        flag("--listen-client-urls", &url),
        flag("--advertise-client-urls", &url),
        flag("--listen-peer-urls", peer_url),
        flag("--initial-advertise-peer-urls", peer_url),
        flag("--initial-cluster", format!("default={peer_url}")),
        // The data is deleted with the process, so it need not survive a power failure.
        flag("--unsafe-no-fsync", true),
    ]
}

pub fn kine(dir: &Path, port: u16) -> Vec<String> {
    // kine's own defaults, except that a write does not wait for the disk.
    let settings = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=OFF&_txlock=immediate&cache=shared";
    vec![
        flag("--listen-address", format!("127.0.0.1:{port}")),
        flag("--endpoint", format!("sqlite://{}?{settings}", dir.join("kine.db").display())),
        // Zero: no port for metrics.
        flag("--metrics-bind-address", 0),
    ]
}

pub fn api_server(dir: &Path, address: SocketAddr, store_port: u16, has_node: bool) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut flags = vec![
        flag("--etcd-servers", format!("http://127.0.0.1:{store_port}")),
        flag("--bind-address", address.ip()),
        flag("--secure-port", address.port()),
        // Without it, kube-apiserver looks for an address that other machines can reach, and there may be none.
        flag("--advertise-address", address.ip()),
        flag("--tls-cert-file", file(file::API_SERVER)),
        flag("--tls-private-key-file", file(file::API_SERVER_KEY)),
        flag("--token-auth-file", file(file::TOKENS)),
        flag("--service-account-issuer", "https://kubernetes.default.svc"),
        flag("--service-account-key-file", file(file::SERVICE_ACCOUNT_PUBLIC_KEY)),
        flag("--service-account-signing-key-file", file(file::SERVICE_ACCOUNT_KEY)),
        flag("--service-cluster-ip-range", SERVICE_RANGE),
        flag("--profiling", false),
    ];
    if has_node {
        flags.extend([
            // A kubelet sees only the Secrets of its own pods, as in every real cluster.
            flag("--authorization-mode", "Node,RBAC"),
            flag("--enable-admission-plugins", "NodeRestriction"),
            // For the logs of pods, and to run commands in pods.
            flag("--kubelet-client-certificate", file(file::KUBELET_CLIENT)),
            flag("--kubelet-client-key", file(file::KUBELET_CLIENT_KEY)),
            flag("--kubelet-preferred-address-types", "InternalIP"),
        ]);
    } else {
        flags.extend([
            flag("--authorization-mode", "RBAC"),
            // A loopback address is not published as an endpoint, so there is nothing to reconcile.
            flag("--endpoint-reconciler-type", "none"),
        ]);
    }
    flags
}

pub fn audit(dir: &Path) -> Vec<String> {
    vec![
        flag("--audit-log-path", dir.join(file::AUDIT_LOG).display()),
        flag("--audit-policy-file", dir.join(file::AUDIT_POLICY).display()),
        // One file without rotation, so that a reader finds every request in it.
        flag("--audit-log-maxsize", 0),
    ]
}

pub fn controller_manager(dir: &Path, has_node: bool) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    vec![
        flag("--kubeconfig", file(file::KUBECONFIG)),
        flag("--controllers", if has_node { "*".to_owned() } else { CONTROLLERS.join(",") }),
        flag("--service-account-private-key-file", file(file::SERVICE_ACCOUNT_KEY)),
        flag("--root-ca-file", file(file::AUTHORITY)),
        flag("--use-service-account-credentials", false),
        // Tests wait for a quota to be counted; the default is five minutes.
        flag("--resource-quota-sync-period", "2s"),
        flag("--leader-elect", false),
        // This program gets no requests, so it needs no port.
        flag("--secure-port", 0),
    ]
}

pub fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name}={value}")
}
