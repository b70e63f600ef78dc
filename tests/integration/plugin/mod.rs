//! `kubectl setupkey`, run by kubectl itself on a real control plane.

mod at_netbird;
mod audit;
mod completion;
mod create;
mod events;
mod join;
mod list;
mod peers;
mod reveal;
mod revoke;
mod rotate;
mod schemas;
mod status;
mod surroundings;
mod unreachable;
mod version;
mod wait;
mod workloads;

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
};

use chrono::{TimeDelta, Utc};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use setupkey_operator::{api::Timestamp, key::KeyId};
use tempfile::TempDir;

use crate::harness::{Cluster, any_key, digest, kubectl};

/// The program that kubectl finds as its plugin.
const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-setupkey");

/// A person with rights of their own, who works in the namespace of a test.
pub struct Person {
    folder: TempDir,
}

/// What a command has printed, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Person {
    /// Who may do everything.
    pub fn administrator(cluster: &Cluster) -> Self {
        Self::with(cluster, |_| {})
    }

    /// Who may do this in the namespace, and nothing else: verbs and resources, such as `("list", "setupkeys.setupkey.dev")`.
    pub fn with_rights(cluster: &Cluster, name: &str, rights: &[(&str, &str)]) -> Self {
        cluster.kubectl_ok(&["create", "serviceaccount", name], "");
        for (number, (verbs, resources)) in rights.iter().enumerate() {
            let (role, verbs) = (format!("{name}-{number}"), format!("--verb={verbs}"));
            cluster.kubectl_ok(&["create", "role", &role, &verbs, &format!("--resource={resources}")], "");
            let account = format!("--serviceaccount={}:{name}", cluster.namespace);
            cluster.kubectl_ok(&["create", "rolebinding", &role, &format!("--role={role}"), &account], "");
        }
        let token = cluster.kubectl_ok(&["create", "token", name, "--duration", "1h"], "");
        Self::with(cluster, |kubeconfig| kubeconfig["users"][0]["user"] = json!({ "token": token.trim() }))
    }

    /// The administrator's kubeconfig, changed.
    pub fn with(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> Self {
        let view = kubectl().args(["config", "view", "--raw", "-o", "json"]).output().expect("kubectl runs");
        let mut kubeconfig: Value = serde_json::from_slice(&view.stdout).expect("a kubeconfig");
        kubeconfig["contexts"][0]["context"]["namespace"] = json!(cluster.namespace);
        change(&mut kubeconfig);
        Self::of(&kubeconfig)
    }

    /// Who has this kubeconfig.
    pub fn of(kubeconfig: &Value) -> Self {
        let person = Self { folder: TempDir::new().expect("a folder") };
        std::fs::write(person.kubeconfig(), kubeconfig.to_string()).expect("a kubeconfig file");
        person
    }

    pub fn kubeconfig(&self) -> std::path::PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// kubectl as this person types it, with the plugin on the PATH.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(kubectl().get_program());
        let plugins = Path::new(PLUGIN).parent().expect("a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([plugins].into_iter().chain(std::env::split_paths(&path))).expect("a PATH");
        command.env("PATH", path).env("KUBECONFIG", self.kubeconfig());
        for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "CI"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs `kubectl setupkey` with these arguments.
    pub fn runs(&self, arguments: &[&str]) -> Said {
        let mut command = self.kubectl();
        command.arg("setupkey").args(arguments);
        Said::by(&mut command)
    }
}

impl Said {
    pub fn by(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("the command runs");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let code = output.status.code().expect("no signal ends it");
        Self { code, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What was printed by a command that must have succeeded, without a word beside it.
    pub fn ok(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        &self.out
    }

    /// The error of a command that must have failed with exit code 1 and printed nothing.
    pub fn fails(&self) -> &str {
        assert_eq!((self.code, self.out.as_str()), (1, ""), "{}", self.err);
        self.err.strip_prefix("error: ").unwrap_or_else(|| panic!("no error: {}", self.err)).trim_end()
    }

    /// The message of a command line that must have been refused before anything was done.
    pub fn is_refused(&self) -> &str {
        assert_eq!((self.code, self.out.as_str()), (1, ""), "{}", self.err);
        &self.err
    }

    /// What was printed, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).expect("JSON")
    }

    /// The cells of a table, row by row.
    pub fn cells(&self) -> Vec<Vec<&str>> {
        self.ok()
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect()
    }
}

/// The Secret of a key, in place of the operator. The key may be none.
pub async fn secret(cluster: &Cluster, name: &str, data_key: &str, value: &str) {
    let secret = json!({ "metadata": { "name": name }, "stringData": { data_key: value } });
    let secret = serde_json::from_value(secret).expect("a Secret");
    cluster.secrets().create(&Default::default(), &secret).await.expect("a created Secret");
}

/// So long ago, with half a minute in reserve for a slow machine.
pub fn ago(span: TimeDelta) -> Timestamp {
    (Utc::now() - span - TimeDelta::seconds(30)).into()
}

/// In so long, with half a minute in reserve for a slow machine.
pub fn ahead(span: TimeDelta) -> Timestamp {
    (Utc::now() + span + TimeDelta::seconds(30)).into()
}

/// Creates a key with this spec and status, in place of the operator. The status is completed to that of an issued key that is
/// ready. Returns the value of the key, which is in no Secret.
pub async fn issued(cluster: &Cluster, name: &str, spec: Value, status: Value) -> String {
    let value = any_key();
    cluster.apply_quickly(name, spec).await;
    let generation = cluster.keys().get(name).await.expect("the key").metadata.generation;
    let id = KeyId::from_random_bytes(rand::random()).to_string();
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": type_, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": ago(TimeDelta::zero()),
        })
    };
    let mut whole = json!({
        "observedGeneration": generation, "revision": 1, "id": id, "key": format!("{}****", &value[..5]),
        "digest": digest(&value), "expires": ahead(TimeDelta::days(30)), "issuedAt": ago(TimeDelta::zero()), "usedTimes": 0,
        "state": "valid", "valid": true,
        "conditions": [
            condition("Ready", "True", "Reconciled", "The cluster matches the spec."),
            condition("Valid", "True", "Valid", "The key admits peers."),
        ],
    });
    json_patch::merge(&mut whole, &status);
    cluster.patch_status(name, whole).await;
    value
}

/// Both ends of a terminal: that of the test, and that of a program.
pub fn terminal() -> (File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (File::from(ours), theirs.into())
}
