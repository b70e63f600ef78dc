//! The real program as in production: a process of its own, with the token of its ServiceAccount.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use control_plane::tie_to_this_thread;

use crate::harness::{Cluster, eventually, operator_kubeconfig};

/// The most resident memory that a process has had so far.
pub fn peak_mib(process: &Child) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

/// A controller as a process, confined to the namespace of the test.
pub struct Process {
    child: Child,
    folder: PathBuf,
    name: String,
}

impl Process {
    /// Starts the program with these flags. Its output goes to files with its name in the folder.
    pub fn start(cluster: &Cluster, folder: &Path, name: &str, flags: &[&str]) -> Self {
        let kubeconfig = operator_kubeconfig(folder);
        Self::start_in(cluster, folder, name, flags, &[("KUBECONFIG", kubeconfig.to_str().unwrap())])
    }

    /// The same with these variables, which must include KUBECONFIG.
    pub fn start_in(cluster: &Cluster, folder: &Path, name: &str, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let file = |stream: &str| Stdio::from(File::create(folder.join(format!("{name}.{stream}"))).unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        let child = tie_to_this_thread(&mut command)
            .args(["controller", "--namespace", &cluster.namespace])
            .args(flags)
            .env("POD_NAME", name)
            .envs(variables.iter().copied())
            .stdout(file("stdout"))
            .stderr(file("log"))
            .spawn()
            .unwrap();
        Self { child, folder: folder.to_owned(), name: name.to_owned() }
    }

    fn said(&self, stream: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("{}.{stream}", self.name))).unwrap()
    }

    pub fn log(&self) -> String {
        self.said("log")
    }

    pub fn stdout(&self) -> String {
        self.said("stdout")
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    pub async fn logs(&self, text: &str) {
        eventually(&format!("{} to log {text:?}", self.name), || async { self.has_logged(text).then_some(()) }).await;
    }

    /// The most resident memory that the process has had so far.
    pub fn peak_mib(&self) -> usize {
        peak_mib(&self.child)
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the process to end", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await
    }

    /// Asks the process to end, and waits until it has ended with success.
    pub async fn stop(&mut self) {
        self.signal("-TERM");
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status}", self.name);
    }
}
