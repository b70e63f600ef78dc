//! A cluster without the operator, and a folder in which people type what the page says.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use control_plane::{ControlPlane, Options, tie_to_this_thread};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{page, repository, tool};

/// How long a key may take to be issued.
const PATIENCE: &str = "--timeout=30s";

pub struct Site {
    own: ControlPlane,
    folder: TempDir,
}

/// What a command printed, if it succeeded.
pub fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The reason why a command failed.
pub fn refused(output: Output) -> String {
    assert!(!output.status.success(), "it succeeded: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// The blocks of code of a section of the page, in this language.
pub fn blocks(heading: &str, language: &str) -> Vec<String> {
    let text = page("install.md");
    let (_, section) = text.split_once(&format!("\n{heading}\n")).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    let after = section.split(&fence).skip(1);
    let blocks: Vec<_> = after.map(|rest| rest.split_once("```").expect("the end of the block").0.to_owned()).collect();
    assert!(!blocks.is_empty(), "{heading} has no {language}");
    blocks
}

/// The commands of a block, without prompts. A line that ends with a backslash goes on.
fn commands(block: &str) -> String {
    let mut goes_on = false;
    let mut commands = String::new();
    for line in block.lines() {
        let command = line.strip_prefix("$ ");
        assert!(command.is_some() || goes_on, "{line} is no command");
        commands.push_str(command.unwrap_or(line));
        commands.push('\n');
        goes_on = line.ends_with('\\');
    }
    commands
}

impl Site {
    /// The folder holds the chart and the manifests of a release.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Self { own: ControlPlane::start(Options::default()).unwrap(), folder };
        std::fs::create_dir(site.folder().join("charts")).unwrap();
        let chart = repository().join("charts/setupkey-operator");
        ok(Command::new("cp").arg("-r").arg(chart).arg(site.folder().join("charts")).output().unwrap());
        package(site.folder(), &[]);
        site
    }

    pub fn stop(mut self) {
        self.own.stop();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.folder().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs a script in the folder as this user, or as the administrator of the cluster.
    pub fn run_as(&self, user: Option<&str>, script: &str) -> Output {
        let mut path =
            [tool("helm"), self.own.kubectl().to_owned()].map(|tool| tool.parent().unwrap().to_owned()).to_vec();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let path = std::env::join_paths(path);
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder()).stdin(Stdio::null());
        bash.env("PATH", path.unwrap()).env("KUBECONFIG", self.own.kubeconfig()).env("HOME", self.folder());
        if let Some(user) = user {
            bash.env("HELM_KUBEASUSER", user);
        }
        bash.output().expect("bash")
    }

    pub fn run(&self, script: &str) -> Output {
        self.run_as(None, script)
    }

    /// Runs a block of the page. The page's namespace is replaced by this one.
    pub fn follow(&self, block: &str, namespace: &str) -> Output {
        self.run(&commands(block).replace("setupkey-system", namespace))
    }

    pub fn follow_as(&self, user: &str, block: &str) -> Output {
        self.run_as(Some(user), &commands(block))
    }

    pub fn kubectl(&self, arguments: &str) -> String {
        ok(self.run(&format!("kubectl {arguments}")))
    }

    /// Runs the program as the chart's Deployment in this namespace does.
    pub fn operator(&self, namespace: &str) -> Operator {
        let controller = "app.kubernetes.io/name=setupkey-operator,app.kubernetes.io/component=controller";
        let found = self.kubectl(&format!("get deployment -n {namespace} -l {controller} -o json"));
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
        let pod = &found["items"][0]["spec"]["template"]["spec"];
        let account = pod["serviceAccountName"].as_str().unwrap().to_owned();
        let token = self.kubectl(&format!("create token {account} -n {namespace} --duration 1h"));
        let admin = self.kubectl("config view --raw -o json");
        let mut kubeconfig: Value = serde_json::from_str(&admin).unwrap();
        kubeconfig["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
        let file = format!("{namespace}.kubeconfig");
        self.write(&file, &kubeconfig.to_string());
        let args = pod["containers"][0]["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        // Two programs on this machine cannot have one port.
        let args = args.filter(|arg| !arg.starts_with("--health-address")).chain(["--health-address=127.0.0.1:0"]);
        let log = self.folder().join(format!("{namespace}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        let child = tie_to_this_thread(&mut command)
            .args(args)
            .env("KUBECONFIG", self.folder().join(file))
            .env("POD_NAME", "operator")
            .env("POD_NAMESPACE", namespace)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Operator { child, log, account }
    }

    /// Waits until the operator has issued the key, and looks into its Secret.
    pub fn is_issued(&self, operator: &Operator, namespace: &str, name: &str) {
        let wait = format!("kubectl wait -n {namespace} sk/{name} --for=condition=Ready {PATIENCE}");
        let waited = self.run(&wait);
        let error = String::from_utf8_lossy(&waited.stderr);
        assert!(waited.status.success(), "{error}\n{}", std::fs::read_to_string(&operator.log).unwrap());
        let length =
            format!("kubectl get secret -n {namespace} {name} -o jsonpath='{{.data.setup-key}}' | base64 -d | wc -c");
        assert_eq!(ok(self.run(&length)).trim(), "36", "the Secret holds no key");
    }

    /// Has the operator issue a key that is called `office`.
    pub fn issues_a_key(&self, operator: &Operator, namespace: &str) {
        self.write("key.yaml", &crate::harness::manifest("office", "usageLimit: 50"));
        self.kubectl(&format!("apply -n {namespace} -f key.yaml"));
        self.is_issued(operator, namespace, "office");
    }
}

/// Packages the chart and renders the manifests of a release into the folder.
pub fn package(folder: &Path, environment: &[(&str, &str)]) {
    let mut script = Command::new(repository().join("hack/manifests.sh"));
    script.env("HELM", tool("helm")).env("MANIFESTS", folder).env_remove("IMAGE").env_remove("SOURCE");
    ok(script.envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap());
}

/// A running program, which ends with this value.
pub struct Operator {
    child: Child,
    log: PathBuf,
    /// Its ServiceAccount.
    pub account: String,
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
