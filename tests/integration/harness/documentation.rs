//! What a page of the documentation tells people to type.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use super::{Cluster, access::kubectl, repository};

/// A page below docs/.
pub fn page(name: &str) -> String {
    std::fs::read_to_string(repository().join("docs").join(name)).expect("a page")
}

impl Cluster {
    /// Runs the commands of the first console block below this heading, in this namespace.
    pub fn follow_the_documentation(&self, name: &str, heading: &str) {
        let text = page(name);
        let (_, section) = text.split_once(&format!("\n{heading}\n")).expect("the section");
        let (_, block) = section.split_once("```console\n").expect("commands");
        let (block, _) = block.split_once("```").expect("the end of the commands");
        let commands: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        let real = kubectl();
        let arguments: Vec<_> = real.get_args().collect();
        assert_eq!(arguments[0], OsStr::new("--kubeconfig"));
        // The function calls the kubectl of this control plane, with the flags of the harness.
        let function = format!("kubectl() {{ \"$0\" \"$@\" --namespace {}; }}", self.namespace);
        let mut shell = Command::new("bash");
        shell.args(["-euc", &format!("{function}\n{}", commands.join("\n"))]).arg(real.get_program());
        let output = shell.env("KUBECONFIG", arguments[1]).stdin(Stdio::null()).output().expect("bash");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
