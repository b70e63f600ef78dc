use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use chrono::TimeDelta;
use serde_json::json;
use tempfile::TempDir;

use super::{PLUGIN, Person, Said, ahead, issued};
use crate::harness::Cluster;

/// What kubectl calls a directive, and what it says of it.
const NO_FILES: (&str, &str) = (":4", "Completion ended with directive: ShellCompDirectiveNoFileComp\n");
const FILES: (&str, &str) = (":0", "Completion ended with directive: ShellCompDirectiveDefault\n");

/// A folder for the PATH in which the program is found for completion too.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    symlink(PLUGIN, folder.path().join("kubectl-setupkey")).unwrap();
    symlink(PLUGIN, folder.path().join("kubectl_complete-setupkey")).unwrap();
    folder
}

fn with_path(command: &mut Command, folder: &Path, kubectl: &Path) {
    let path = std::env::var_os("PATH").unwrap();
    let folders = [folder, kubectl].map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).unwrap());
}

impl Person {
    /// What kubectl offers after these words, without the directive, which must be this one.
    fn is_offered(&self, folder: &Path, words: &[&str], directive: (&str, &str)) -> Vec<String> {
        let mut command = self.kubectl();
        let tools = Path::new(command.get_program()).parent().unwrap().to_owned();
        with_path(&mut command, folder, &tools);
        let said = Said::by(command.args(["__complete", "setupkey"]).args(words));
        let mut lines: Vec<_> = said.out.lines().map(str::to_owned).collect();
        assert_eq!(lines.pop().as_deref(), Some(directive.0), "{words:?}: {said:?}");
        assert!(said.err.ends_with(directive.1), "{words:?}: {said:?}");
        // cobra says what it is about to run, and nothing else may be there.
        let others = said.err.lines().filter(|line| !line.starts_with("[Debug] "));
        assert_eq!(others.count(), 1, "{words:?}: {said:?}");
        lines
    }
}

async fn sample(test: &str) -> Cluster {
    let cluster = Cluster::for_test(test).await;
    issued(&cluster, "kiosks", json!({ "usageLimit": 50 }), json!({ "usedTimes": 50 })).await;
    issued(&cluster, "office", json!({}), json!({ "usedTimes": 7, "expires": ahead(TimeDelta::days(3)) })).await;
    cluster.apply("unissued", "");
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_completion_offers_names_with_what_they_are() {
    let (cluster, folder) = (sample("plugin-complete").await, folder());
    let person = Person::administrator(&cluster);
    let offered = |words: &[&str]| person.is_offered(folder.path(), words, NO_FILES);
    let [kiosks, office, unissued] =
        ["kiosks\toverused, used 50 of 50", "office\tvalid, used 7", "unissued\tnot issued, used 0"];
    assert_eq!(offered(&["revoke", ""]), [kiosks, office, unissued]);
    assert_eq!(offered(&["revoke", "o"]), [office]);
    assert_eq!(offered(&["revoke", "office", ""]), [kiosks, unissued]);
    assert_eq!(offered(&["revoke", "-n", &cluster.namespace, "--", "k"]), [kiosks]);
    assert_eq!(offered(&["revoke", "-n", "kube-public", ""]), [""; 0]);
    let namespace = cluster.namespace.as_str();
    let (beginning, _) = namespace.split_at(namespace.len() - 1);
    assert_eq!(offered(&["list", "-n", beginning]), [namespace]);
    assert_eq!(offered(&[&format!("--namespace={beginning}")]), [namespace]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_completion_offers_verbs_flags_and_values() {
    let folder = folder();
    let mut contexts = vec![String::new()];
    let person = Person::with(&Cluster::for_test("plugin-complete-words").await, |kubeconfig| {
        let mut other = kubeconfig["contexts"][0].clone();
        other["name"] = json!("arn:aws:eks:eu-central-1:1:cluster/other");
        contexts = vec![
            kubeconfig["contexts"][0]["name"].as_str().unwrap().to_owned(),
            other["name"].as_str().unwrap().to_owned(),
        ];
        kubeconfig["contexts"].as_array_mut().unwrap().push(other);
    });
    let offered = |words: &[&str]| person.is_offered(folder.path(), words, NO_FILES);
    let verbs = offered(&[""]);
    for verb in ["list\t", "revoke\t", "unrevoke\t", "version\t", "completion\t"] {
        assert!(verbs.iter().any(|line| line.starts_with(verb)), "{verb}: {verbs:?}");
    }
    assert_eq!(offered(&["unr"]), ["unrevoke\tLet revoked keys admit machines again"]);
    assert!(offered(&["revoke", "--all"])[0].starts_with("--all\t"));
    assert_eq!(offered(&["list", "-o", ""]), ["table", "wide", "json", "yaml", "name"]);
    assert_eq!(offered(&["list", "--color=a"]), ["auto", "always"]);
    assert_eq!(offered(&["list", "--context", ""]), contexts);
    assert_eq!(person.is_offered(folder.path(), &["list", "--kubeconfig", "/"], FILES), [""; 0]);
}

/// A word on the standard error of a shell would stand in the middle of the line that a person types.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_completion_is_silent_about_what_goes_wrong() {
    let (cluster, folder) = (sample("plugin-complete-wrong").await, folder());
    let person = Person::administrator(&cluster);
    let nothing: [&str; 0] = [];
    for words in [
        ["revoke", "--as", "guest", ""].as_slice(),
        &["revoke", "--context", "none", ""],
        &["revoke", "--kubeconfig", "/none", ""],
        &["revoke", "-n", "Not_A_Name", ""],
        &["revoke", "--request-timeout", "soon", ""],
        &["list", "--context", "--kubeconfig=/none", "--context", "x"],
        &["nonsense", "--nonsense", ""],
        &["list", "--nonsense=", ""],
    ] {
        assert_eq!(person.is_offered(folder.path(), words, NO_FILES), nothing, "{words:?}");
    }
}

/// Runs a script in this shell, with the program on the PATH.
fn in_shell(person: &Person, folder: &Path, shell: &str, script: &str) -> Said {
    let mut command = Command::new(shell);
    with_path(&mut command, folder, folder);
    command.env("KUBECONFIG", person.kubeconfig()).args(["-c", script]);
    Said::by(&mut command)
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_completion_works_in_bash() {
    let (cluster, folder) = (sample("plugin-complete-bash").await, folder());
    let bash = r#"
        source <(kubectl-setupkey completion bash)
        try() {
            COMP_WORDS=(kubectl-setupkey "$@") COMP_CWORD=$#
            "$(complete -p kubectl-setupkey | sed 's/.*-F \([^ ]*\) .*/\1/')" kubectl-setupkey
            echo "${COMPREPLY[*]}"
        }
        try unr
        try revoke ''
        try revoke office ''
        try list --color = a
        try list --context control-plane:
    "#;
    let said = in_shell(&Person::administrator(&cluster), folder.path(), "bash", bash);
    assert_eq!(said.ok(), "unrevoke\nkiosks office unissued\nkiosks unissued\nauto always\n\n");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs fish and zsh, which few machines have"]
async fn plugin_completion_works_in_fish_and_zsh() {
    let (cluster, folder) = (sample("plugin-complete-shells").await, folder());
    let person = Person::administrator(&cluster);
    let fish = r#"
        kubectl-setupkey completion fish | source
        for line in "unr" "revoke " "revoke office " "list --color=a"
            complete -C "kubectl-setupkey $line" | string replace -r '\t.*' ''
            echo
        end
    "#;
    let offered = "unrevoke\n\nkiosks\noffice\nunissued\n\nkiosks\nunissued\n\n--color=auto\n--color=always\n\n";
    assert_eq!(in_shell(&person, folder.path(), "fish", fish).ok(), offered);
    let zsh = "autoload -U compinit; compinit -u -D; source <(kubectl-setupkey completion zsh); print $_comps[kubectl-setupkey]";
    assert_eq!(in_shell(&person, folder.path(), "zsh", zsh).ok(), "_kubectl_setupkey\n");
}

/// The script that `completion kubectl` prints does the same as the link.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_completion_of_kubectl_can_be_a_script() {
    let (cluster, folder) = (sample("plugin-complete-script").await, folder());
    let person = Person::administrator(&cluster);
    let script = folder.path().join("kubectl_complete-setupkey");
    std::fs::remove_file(&script).unwrap();
    std::fs::write(&script, person.runs(&["completion", "kubectl"]).ok()).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(person.is_offered(folder.path(), &["revoke", "of"], NO_FILES), ["office\tvalid, used 7"]);
    let unknown = person.runs(&["completion", "tcsh"]);
    assert!(unknown.fails().contains("possible values: bash, zsh, fish, kubectl"), "{unknown:?}");
}
