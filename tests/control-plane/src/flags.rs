//! What the programs are told. Everything listens on 127.0.0.1 only.

use std::{net::Ipv4Addr, path::Path};

/// The services' addresses, and the first of them, which kube-apiserver gives to the `kubernetes`
/// Service.
const SERVICE_RANGE: &str = "10.96.0.0/24";
pub const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Garbage collection, the life of a namespace, quotas and aggregated roles: what an operator and
/// its users lean on. The controllers that would need a node, such as the one for Deployments, are
/// left out.
const CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
];

pub const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
";

/// Names of files in the data directory.
pub mod file {
    pub const ADMIN_TOKEN: &str = "tokens.csv";
    pub const API_SERVER: &str = "apiserver.crt";
    pub const API_SERVER_KEY: &str = "apiserver.key";
    pub const AUDIT_LOG: &str = "audit.log";
    pub const AUDIT_POLICY: &str = "audit-policy.yaml";
    pub const AUTHORITY: &str = "ca.crt";
    pub const KUBECONFIG: &str = "kubeconfig";
    pub const SERVICE_ACCOUNT_KEY: &str = "service-account.key";
    pub const SERVICE_ACCOUNT_PUBLIC_KEY: &str = "service-account.pub";
}

pub fn etcd(dir: &Path, port: u16) -> Vec<String> {
    let url = format!("http://127.0.0.1:{port}");
    // A single member has no peers, so any port will do for them.
    let peer_url = "http://127.0.0.1:0";
    vec![
        flag("--data-dir", dir.join("etcd").display()),
        flag("--listen-client-urls", &url),
        flag("--advertise-client-urls", &url),
        flag("--listen-peer-urls", peer_url),
        flag("--initial-advertise-peer-urls", peer_url),
        flag("--initial-cluster", format!("default={peer_url}")),
        // The data is thrown away with the process, so it need not survive a power failure.
        flag("--unsafe-no-fsync", true),
    ]
}

pub fn api_server(dir: &Path, port: u16, etcd_port: u16, audit_log: bool) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut flags = vec![
        flag("--etcd-servers", format!("http://127.0.0.1:{etcd_port}")),
        flag("--bind-address", Ipv4Addr::LOCALHOST),
        flag("--secure-port", port),
        // Without it, kube-apiserver looks for an address that others can reach, and a machine may
        // have none. It does not publish a loopback address as an endpoint, so there is nothing to
        // reconcile.
        flag("--advertise-address", Ipv4Addr::LOCALHOST),
        flag("--endpoint-reconciler-type", "none"),
        flag("--tls-cert-file", file(file::API_SERVER)),
        flag("--tls-private-key-file", file(file::API_SERVER_KEY)),
        flag("--token-auth-file", file(file::ADMIN_TOKEN)),
        flag("--authorization-mode", "RBAC"),
        flag("--service-account-issuer", "https://kubernetes.default.svc"),
        flag("--service-account-key-file", file(file::SERVICE_ACCOUNT_PUBLIC_KEY)),
        flag("--service-account-signing-key-file", file(file::SERVICE_ACCOUNT_KEY)),
        flag("--service-cluster-ip-range", SERVICE_RANGE),
        flag("--profiling", false),
    ];
    if audit_log {
        flags.push(flag("--audit-log-path", file(file::AUDIT_LOG)));
        flags.push(flag("--audit-policy-file", file(file::AUDIT_POLICY)));
        // One file without rotation, so that a reader can count on it.
        flags.push(flag("--audit-log-maxsize", 0));
    }
    flags
}

pub fn controller_manager(dir: &Path) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    vec![
        flag("--kubeconfig", file(file::KUBECONFIG)),
        flag("--controllers", CONTROLLERS.join(",")),
        flag("--service-account-private-key-file", file(file::SERVICE_ACCOUNT_KEY)),
        flag("--root-ca-file", file(file::AUTHORITY)),
        flag("--use-service-account-credentials", false),
        // Tests wait for a quota to be counted; the default is five minutes.
        flag("--resource-quota-sync-period", "2s"),
        flag("--leader-elect", false),
        // Nobody asks this program anything, so it needs no port.
        flag("--secure-port", 0),
    ]
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name}={value}")
}
