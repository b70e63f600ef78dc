//! `make demo CLUSTER=current`: the demo on a cluster that is there already. It leaves nothing, however it ends.

use std::{
    collections::BTreeSet,
    fs::File,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use control_plane::{ControlPlane, Options, tie_to_this_thread};
use tempfile::TempDir;

use crate::harness::repository;

/// A busy machine needs a while for the story, and the removal of a namespace takes seconds.
const PATIENCE: Duration = Duration::from_secs(240);

const STORY: [(&str, &str); 1] = [("YES", "1")];

/// One chapter, and then the demo waits for Ctrl-C.
const KEPT: [(&str, &str); 3] = [("YES", "1"), ("KEEP", "1"), ("CHAPTERS", "keys_from_manifests")];

/// A cluster without anything of this operator, and a folder for what the demo prints and for its temporary files.
struct Existing {
    cluster: ControlPlane,
    folder: TempDir,
}

impl Existing {
    fn start() -> Self {
        let cluster = ControlPlane::start(Options::default()).unwrap();
        Self { cluster, folder: tempfile::tempdir().unwrap() }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.cluster.kubectl());
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of all objects of all kinds. Leases and events come and go by themselves.
    fn objects(&self) -> BTreeSet<String> {
        let kinds = self.kubectl(&["api-resources", "--verbs=list", "--output=name"]);
        let lasting = |kind: &&str| !kind.starts_with("events") && !kind.starts_with("leases.");
        let kinds = kinds.lines().filter(lasting).collect::<Vec<_>>().join(",");
        let columns = "--output=custom-columns=:.kind,:.metadata.namespace,:.metadata.name";
        let all = self.kubectl(&["get", &kinds, "--all-namespaces", "--ignore-not-found", "--no-headers", columns]);
        all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    fn temporary(&self) -> PathBuf {
        let folder = self.folder.path().join("tmp");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The demo with this kubeconfig and these variables. A proxy that does not exist must not be asked.
    fn command(&self, kubeconfig: PathBuf, variables: &[(&str, &str)]) -> Command {
        let folders = [self.cluster.kubectl().parent().unwrap().to_owned()];
        let path = std::env::var_os("PATH").unwrap();
        let mut command = Command::new(repository().join("hack/demo.sh"));
        command
            .env_remove("CONTROL_PLANE_DIR")
            .env("PATH", std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path))).unwrap())
            .env("KUBECONFIG", kubeconfig)
            .env("SETUPKEY_OPERATOR", program())
            .env("TMPDIR", self.temporary())
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("CLUSTER", "current")
            .envs(variables.iter().copied())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, variables: &[(&str, &str)]) -> Output {
        self.command(self.cluster.kubeconfig(), variables).output().unwrap()
    }

    /// Starts the demo, and returns when it has printed this.
    fn start_until(&self, printed: &str, variables: &[(&str, &str)]) -> Running {
        let log = self.folder.path().join("log");
        let file = File::create(&log).unwrap();
        let mut command = self.command(self.cluster.kubeconfig(), variables);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = tie_to_this_thread(&mut command).spawn().unwrap();
        let mut running = Running { child, log };
        running.until("print its part", |running| running.said().contains(printed).then_some(()));
        running
    }
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn until<T>(&mut self, what: &str, mut asked: impl FnMut(&mut Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(answer) = asked(self) {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "the demo did not {what}:\n{}", self.said());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn code(&mut self) -> Option<i32> {
        self.until("end", |running| running.child.try_wait().unwrap()).code()
    }
}

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_setupkey-operator").into()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_demo_tells_its_story_on_an_existing_cluster_and_leaves_nothing() {
    let existing = Existing::start();
    let before = existing.objects();

    let whole = existing.run(&STORY);
    let said = text(&whole);
    assert_eq!(whole.status.code(), Some(0), "{said}");
    for sentence in [existing.cluster.url().as_str(), "Every claim was checked", "Nothing of the demo is left"] {
        assert!(said.contains(sentence), "{sentence}: {said}");
    }
    assert_eq!(existing.objects(), before);
    assert_eq!(std::fs::read_dir(existing.temporary()).unwrap().count(), 0, "files are left");
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let existing = Existing::start();
    let before = existing.objects();
    for (signal, at, variables, code) in [
        ("-INT", "customresourcedefinition.apiextensions.k8s.io/setupkeys.setupkey.dev created", STORY.as_slice(), 130),
        ("-TERM", "setupkey.setupkey.dev/office created", &STORY, 143),
        ("-HUP", "stay until Ctrl-C", &KEPT, 0),
    ] {
        let mut demo = existing.start_until(at, variables);
        demo.signal(signal);
        // Impatience does not harm.
        demo.until("begin to remove", |demo| demo.said().contains("Removing what the demo created").then_some(()));
        demo.signal("-INT");
        assert_eq!(demo.code(), Some(code), "{signal}: {}", demo.said());
        assert!(demo.said().contains("Nothing of the demo is left"), "{signal}: {}", demo.said());
        assert_eq!(existing.objects(), before, "{signal}");
        assert_eq!(std::fs::read_dir(existing.temporary()).unwrap().count(), 0, "{signal}: files are left");
    }

    // A claim that fails ends the demo in the same way. Without its Secret, the first key is not described.
    let failed = existing.run(&[("YES", "1"), ("CHAPTERS", "the_secret")]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert!(text(&failed).contains("The demo failed: this command should have succeeded"), "{}", text(&failed));
    assert_eq!(existing.objects(), before);
}

#[test]
fn a_demo_leaves_the_crds_to_the_keys_of_others_and_says_how_to_remove_them() {
    let existing = Existing::start();
    let before = existing.objects();
    let mut demo = existing.start_until("stay until Ctrl-C", &KEPT);
    let manifest = existing.folder.path().join("theirs.yaml");
    std::fs::write(&manifest, crate::harness::manifest("theirs", "")).unwrap();
    existing.kubectl(&["create", "--namespace=default", "-f", manifest.to_str().unwrap()]);
    demo.signal("-TERM");
    assert_eq!(demo.code(), Some(1), "{}", demo.said());
    let said = demo.said();
    assert!(
        said.contains("not of the demo. They would be removed with its CRDs, so the CRDs stay:\n  setupkey"),
        "{said}"
    );
    assert_eq!(existing.kubectl(&["get", "sk", "--namespace=default", "-o", "name"]), "setupkey.setupkey.dev/theirs\n");
    refused(&existing.run(&STORY), "this removes what is left of all demos:\n  kubectl delete ");

    let (_, command) = said.split_once("This command removes the rest:\n  kubectl ").unwrap();
    let arguments: Vec<_> = command.split_whitespace().map(|word| word.trim_matches('\'')).collect();
    existing.kubectl(&arguments);
    assert_eq!(existing.objects(), before);
}

fn refused(output: &Output, reason: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", text(output));
    assert!(text(output).contains(reason), "{reason}: {}", text(output));
    assert!(!text(output).contains(" created\n"), "{}", text(output));
}

#[test]
fn the_demo_refuses_what_it_could_not_undo() {
    let existing = Existing::start();
    let before = existing.objects();
    refused(&existing.run(&[]), "there is no terminal to ask at. YES=1 lets it start without a question");
    refused(&existing.run(&[("CLUSTER", "prod"), ("YES", "1")]), "CLUSTER is \"prod\": it must be \"current\"");
    refused(&existing.run(&[("KUBECONFIG", "/dev/null"), ("YES", "1")]), "CLUSTER=current needs a current context");
    let chapters = existing.run(&[("CHAPTERS", "the_end"), ("YES", "1")]);
    refused(&chapters, "CHAPTERS names \"the_end\"; there are: keys_from_manifests the_secret");
    let no_kubectl = existing.folder.path().join("bin");
    std::fs::create_dir(&no_kubectl).unwrap();
    for name in ["bash", "dirname", "mktemp", "rm"] {
        let found = Command::new("bash").args(["-c", &format!("command -v {name}")]).output().unwrap();
        std::os::unix::fs::symlink(String::from_utf8(found.stdout).unwrap().trim(), no_kubectl.join(name)).unwrap();
    }
    let no_kubectl = existing.run(&[("PATH", no_kubectl.to_str().unwrap()), ("YES", "1")]);
    refused(&no_kubectl, "CLUSTER=current needs kubectl, which is not on the PATH");

    // A user who may look, and create what is in a namespace.
    existing.kubectl(&["create", "serviceaccount", "developer", "--namespace=default"]);
    existing.kubectl(&[
        "create",
        "clusterrolebinding",
        "developer",
        "--clusterrole=edit",
        "--serviceaccount=default:developer",
    ]);
    let token = existing.kubectl(&["create", "token", "developer", "--namespace=default"]);
    let developer = existing.folder.path().join("developer.kubeconfig");
    let admin = std::fs::read_to_string(existing.cluster.kubeconfig()).unwrap();
    let (beginning, rest) = admin.split_once("    token: ").unwrap();
    let (_, end) = rest.split_once('\n').unwrap();
    std::fs::write(&developer, format!("{beginning}    token: {token}\n{end}")).unwrap();
    let output = existing.command(developer, &[("YES", "1")]).output().unwrap();
    assert!(text(&output).contains("  create customresourcedefinition.apiextensions.k8s.io\n"), "{}", text(&output));
    assert!(!text(&output).contains("  create secrets\n"), "{}", text(&output));
    refused(&output, "The demo was not started: your user may not do all that it needs");
    existing.kubectl(&["delete", "serviceaccount/developer", "clusterrolebinding/developer", "--namespace=default"]);
    assert_eq!(existing.objects(), before);

    let crd = crate::harness::setup_key_crd();
    existing.kubectl(&["create", "-f", crd.to_str().unwrap()]);
    let with_crd = existing.objects();
    refused(&existing.run(&[("YES", "1")]), "customresourcedefinition.apiextensions.k8s.io/setupkeys.setupkey.dev\n");
    assert_eq!(existing.objects(), with_crd);
}
