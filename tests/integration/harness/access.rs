//! The control plane of the test run, and access to it: kubectl, tokens and client configurations.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use super::{crds, entries::any_peer, helm::template_ok, repository, waiting::PATIENCE};

/// The group that the guards of this control plane exempt. Its members play the operator, or break what it wrote.
const UNGUARDED: &str = "unguarded";

/// The control plane of this test run, with the CRDs, the operator's ServiceAccounts and the chart's guards in force.
pub(super) fn control_plane() -> &'static control_plane::Access {
    static SHARED: OnceLock<control_plane::Access> = OnceLock::new();
    SHARED.get_or_init(|| {
        let options = control_plane::Options { crds: vec![crds()], ..Default::default() };
        let access = control_plane::shared(options).unwrap_or_else(|error| panic!("{error}"));
        let kubectl = || {
            let mut command = Command::new(access.kubectl());
            command.arg("--kubeconfig").arg(access.kubeconfig());
            command
        };
        let mut apply = kubectl();
        apply.args(["apply", "--server-side", "-f"]).arg(crds()).arg("-f").arg(repository().join("deploy/rbac.yaml"));
        let applied = run_to_end(apply.arg("-f").arg(repository().join("deploy/enrollment-rbac.yaml")));
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        guard(kubectl);
        access
    })
}

/// Installs the guards, and waits until the API server refuses an administrator's Peer.
fn guard(kubectl: impl Fn() -> Command) {
    let exempt = format!("policies.guards.exempt[0].kind=Group,policies.guards.exempt[0].name={UNGUARDED}");
    let guards = ["--show-only", "templates/guards.yaml", "--set", "enrollment.enabled=true", "--set", &exempt];
    let mut apply = kubectl();
    apply.args(["apply", "--server-side", "-f", "-"]);
    let applied = run(apply, &template_ok(&guards));
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let peer = serde_json::to_string(&any_peer()).expect("plain data");
    let started = Instant::now();
    loop {
        let mut create = kubectl();
        create.args(["--namespace", "default", "create", "--dry-run=server", "-f", "-"]);
        let answer = String::from_utf8_lossy(&run(create, &peer).stderr).into_owned();
        if answer.contains("a Peer is created by") {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "the guards are not in force: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The folder with the files of the control plane.
pub fn control_plane_folder() -> &'static Path {
    control_plane().dir()
}

/// The kubeconfig of the administrator.
pub fn admin_kubeconfig() -> &'static Path {
    control_plane().kubeconfig()
}

/// kubectl as the administrator.
pub fn kubectl() -> Command {
    let access = control_plane();
    let mut command = Command::new(access.kubectl());
    command.arg("--kubeconfig").arg(access.kubeconfig());
    command
}

pub async fn admin_config() -> Config {
    let kubeconfig = Kubeconfig::read_from(control_plane().kubeconfig()).expect("a kubeconfig");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a client configuration")
}

/// A user that the guards exempt, in these other groups.
pub async fn unguarded_config(user: &str, groups: &[&str]) -> Config {
    let mut config = admin_config().await;
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups =
        Some([&[UNGUARDED], groups].concat().into_iter().map(str::to_owned).collect());
    config
}

/// kubectl as an administrator that the guards exempt.
pub(super) fn unguarded_kubectl() -> Command {
    let mut command = kubectl();
    command.args(["--as=admin", "--as-group=system:masters"]).arg(format!("--as-group={UNGUARDED}"));
    command
}

pub async fn config_of(token: String) -> Config {
    let mut config = admin_config().await;
    config.auth_info = Default::default();
    config.auth_info.token = Some(token.into());
    config
}

/// A token of the operator's ServiceAccount, which has the rights of deploy/rbac.yaml.
pub fn operator_token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| token_of("setupkey-operator"))
}

/// A token of the enrollment service's ServiceAccount, which has the rights of deploy/enrollment-rbac.yaml.
pub fn enrollment_token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| token_of("setupkey-operator-enrollment"))
}

fn token_of(account: &str) -> String {
    let mut command = kubectl();
    command.args(["--namespace", "setupkey-system", "create", "token", account, "--duration", "2h"]);
    let output = run_to_end(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a token").trim().to_owned()
}

/// A kubeconfig with the operator's own token, in this folder.
pub fn operator_kubeconfig(folder: &Path) -> PathBuf {
    kubeconfig(folder, operator_token())
}

/// A kubeconfig with this token, in this folder.
pub fn kubeconfig(folder: &Path, token: &str) -> PathBuf {
    let administrator = kubectl().args(["config", "view", "--raw", "-o", "json"]).output().unwrap();
    let mut kubeconfig: Value = serde_json::from_slice(&administrator.stdout).unwrap();
    kubeconfig["users"][0]["user"] = serde_json::json!({ "token": token });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    path
}

fn run_to_end(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("kubectl runs")
}

/// Runs the command with this input.
pub fn run(mut command: Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("kubectl runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}
