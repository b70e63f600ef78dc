//! The control plane of the test run, and access to it: kubectl, tokens and client configurations.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use super::{crds, repository};

/// The control plane of this test run, with the CRDs and the operator's ServiceAccount.
pub(super) fn control_plane() -> &'static control_plane::Access {
    static SHARED: OnceLock<control_plane::Access> = OnceLock::new();
    SHARED.get_or_init(|| {
        let options = control_plane::Options { crds: vec![crds()], ..Default::default() };
        let access = control_plane::shared(options).unwrap_or_else(|error| panic!("{error}"));
        let mut apply = Command::new(access.kubectl());
        apply.arg("--kubeconfig").arg(access.kubeconfig()).args(["apply", "--server-side", "-f"]);
        apply.arg(crds()).arg("-f").arg(repository().join("deploy/rbac.yaml"));
        let applied = run_to_end(apply.arg("-f").arg(repository().join("deploy/enrollment-rbac.yaml")));
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        access
    })
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
pub(super) fn run(mut command: Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("kubectl runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}
