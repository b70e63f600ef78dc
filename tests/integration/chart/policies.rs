//! The optional policies of the chart.

use std::process::{Command, Stdio};

use control_plane::{ControlPlane, Options};
use serde_json::Value;

use super::{ok, template_ok};
use crate::harness::{crds, eventually};

/// The optional policies, each with its message.
#[tokio::test(flavor = "multi_thread")]
async fn policies_refuse_with_a_message() {
    // A policy applies to the whole cluster, so this test has a control plane of its own.
    let mut own = ControlPlane::start(Options { crds: vec![crds()], ..Options::default() }).unwrap();
    let run = |arguments: &[&str], input: &str| {
        let file = own.dir().join("manifest.yaml");
        std::fs::write(&file, input).unwrap();
        let mut command = Command::new(own.kubectl());
        command.arg("--kubeconfig").arg(own.kubeconfig()).args(arguments);
        if !input.is_empty() {
            command.arg("-f").arg(file);
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    for (setting, namespace_label, refused, message, accepted) in [
        ("policies.maxExpiresIn=720h", "", "expiresIn: 721h", "expiresIn may be at most 720h", "expiresIn: 720h"),
        (
            "policies.secretCopies.refused=true",
            "",
            "secret: {annotations: {replicator.v1.mittwald.de/replicate-to: theirs}}",
            "copies the Secret elsewhere",
            "secret: {annotations: {example.com/replicate-to: theirs}}",
        ),
        (
            "policies.secretCopies.allowed={replicator.v1.mittwald.de}",
            "",
            "secret: {labels: {synator/sync: 'yes'}}",
            "policies.secretCopies.allowed",
            "secret: {annotations: {replicator.v1.mittwald.de/replicate-to: theirs}}",
        ),
        ("policies.requireUsageLimit=true", "", "type: reusable", "must have a usageLimit", "usageLimit: 3"),
        ("policies.requireUsageLimit=true", "", "usageLimit: 0", "must have a usageLimit", "type: one-off"),
        ("policies.oneOffOnly=true", "", "usageLimit: 3", "only keys of type one-off", "type: one-off"),
        (
            "policies.allowedGroupsLabel=setupkey.dev/allowed-groups",
            "setupkey.dev/allowed-groups=office.printers",
            "autoGroups: [office, servers]",
            "may only hold groups that the label setupkey.dev/allowed-groups",
            "autoGroups: [office]",
        ),
        (
            "policies.allowedGroupsLabel=setupkey.dev/allowed-groups",
            "setupkey.dev/allowed-groups-",
            "autoGroups: [office]",
            "may only hold groups that the label setupkey.dev/allowed-groups",
            "{}",
        ),
    ] {
        let policy = template_ok(&["--show-only", "templates/policies.yaml", "--set", setting]);
        ok(run(&["apply"], &policy));
        if !namespace_label.is_empty() {
            ok(run(&["label", "namespace", "default", "--overwrite", namespace_label], ""));
        }
        let manifest = |spec: &str| {
            let spec = if spec == "{}" { "" } else { spec };
            let mut manifest: Value = serde_yaml::from_str(&crate::harness::manifest("key", spec)).unwrap();
            manifest["metadata"]["namespace"] = "default".into();
            manifest.to_string()
        };
        // A new policy takes a moment to be enforced, and the previous one takes a moment to disappear.
        eventually(&format!("{setting} to refuse {refused} with {message:?}"), || async {
            let output = run(&["create", "--dry-run=server"], &manifest(refused));
            let said = String::from_utf8_lossy(&output.stderr).contains(message);
            (!output.status.success() && said).then_some(())
        })
        .await;
        eventually(&format!("{setting} to accept {accepted}"), || async {
            run(&["create", "--dry-run=server"], &manifest(accepted)).status.success().then_some(())
        })
        .await;
        ok(run(&["delete"], &policy));
    }
    own.stop();
}
