//! The chart, as Helm renders it.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use super::{repository, tool};

/// Where the chart is.
pub fn chart() -> PathBuf {
    repository().join("charts/setupkey-operator")
}

/// A version of Helm.
#[derive(Clone, Copy, Debug)]
pub enum Helm {
    Three,
    Four,
}

impl Helm {
    pub fn command(self) -> Command {
        let program = match self {
            Self::Three => "helm3",
            Self::Four => "helm",
        };
        let mut command = Command::new(tool(program));
        command.stdin(Stdio::null());
        command
    }

    /// The flags for an upgrade that changes objects from before the release. Helm 4 uses server-side apply, where
    /// fields have owners. Helm 3 takes the fields over without a flag.
    pub fn upgrade(self) -> &'static [&'static str] {
        match self {
            Self::Three => &["upgrade"],
            Self::Four => &["upgrade", "--force-conflicts"],
        }
    }
}

/// What a command has printed that must have succeeded.
pub fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the chart renders with these arguments.
pub fn template_ok(arguments: &[&str]) -> String {
    ok(template(Helm::Four, arguments))
}

/// What the chart renders for this release.
pub fn template_of(release: &str, namespace: &str, arguments: &[&str]) -> String {
    ok(render(Helm::Four, release, namespace, arguments))
}

/// How Helm renders the chart with these arguments.
pub fn template(helm: Helm, arguments: &[&str]) -> Output {
    render(helm, "setupkey-operator", "setupkey-system", arguments)
}

/// How Helm renders the chart for this release.
pub fn render(helm: Helm, release: &str, namespace: &str, arguments: &[&str]) -> Output {
    let mut command = helm.command();
    command.args(["template", release]).arg(chart()).args(["--namespace", namespace]);
    // The oldest Kubernetes that the chart supports. Without this flag, Helm uses the version that it was built with.
    command.args(["--kube-version", "1.33.0"]);
    command.args(arguments).output().unwrap()
}
