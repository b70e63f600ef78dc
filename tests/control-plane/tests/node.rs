//! What the launcher promises about a machine with a node: nothing is left of it, however it ends. The tests need root
//! and what `make node` installs and builds; `make e2e` runs them.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Starts a pod and prints the launcher's folder, which lies in the folder of the machine.
const WITH_A_POD: &str = r#"
    kubectl run pod --image=localhost/setupkey-node:shell --restart=Never >/dev/null
    kubectl wait --for=condition=Ready --timeout=60s pod/pod >/dev/null
    echo "$CONTROL_PLANE_DIR"; exec sleep 600"#;

#[test]
#[ignore = "needs root and a node; `make e2e` runs it"]
fn a_killed_launcher_leaves_nothing_of_its_node_behind() {
    let machine = Machine::start(WITH_A_POD);
    assert!(!machine.traces.pid_namespaces.is_empty(), "there are no processes to leave behind");
    let mut launcher = machine.launcher;
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    machine.traces.are_gone();
}

#[test]
#[ignore = "needs root and a node; `make e2e` runs it"]
fn an_interrupted_launcher_leaves_nothing_of_its_node_behind() {
    let machine = Machine::start(WITH_A_POD);
    let mut launcher = machine.launcher;
    kill_process(Pid::from_child(&launcher), Signal::INT).unwrap();
    // The exit code that shells report for a command that SIGINT ended.
    assert_eq!(launcher.wait().unwrap().code(), Some(130));
    machine.traces.are_gone();
}

#[test]
#[ignore = "needs root and a node; `make e2e` runs it"]
fn a_failed_command_leaves_nothing_behind_but_its_exit_code() {
    let machine = Machine::start(&WITH_A_POD.replace("exec sleep 600", "exit 7"));
    let mut launcher = machine.launcher;
    assert_eq!(launcher.wait().unwrap().code(), Some(7));
    machine.traces.are_gone();
}

/// Such a group is left if the janitor was killed, too.
#[test]
#[ignore = "needs root and a node; `make e2e` runs it"]
fn the_next_run_removes_control_groups_of_a_machine_that_is_gone() {
    let orphan = "setupkey-node-orphan";
    for tree in trees() {
        fs::create_dir_all(tree.join(orphan).join("kubepods")).unwrap();
    }
    let mut launcher = Machine::start(&WITH_A_POD.replace("exec sleep 600", "exit 0")).launcher;
    assert!(launcher.wait().unwrap().success());
    assert_eq!(cgroups(orphan), Vec::<PathBuf>::new());
}

struct Machine {
    launcher: Child,
    traces: Traces,
}

/// The traces of a running machine.
struct Traces {
    folder: PathBuf,
    links: BTreeSet<PathBuf>,
    pid_namespaces: BTreeSet<PathBuf>,
}

impl Machine {
    fn start(script: &str) -> Self {
        let shell = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/image/shell.tar");
        let before = namespaces("pid");
        let links = links();
        let mut launcher = Command::new(env!("CARGO_BIN_EXE_control-plane"))
            .args(["run", "--node", "--image"])
            .arg(shell)
            .args(["--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(launcher.stdout.take().unwrap());
        let mut folder = String::new();
        output.read_line(&mut folder).unwrap();
        let folder = Path::new(folder.trim_end()).parent().expect("the launcher has started its command").to_owned();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let groups = cgroups(&name);
        assert!(folder.exists() && !groups.is_empty(), "there is nothing to leave behind");
        // Namespaces of other processes may come and go. Ours have a process that knows our folder.
        let pid_namespaces = namespaces("pid").difference(&before).cloned().collect();
        Self { launcher, traces: Traces { folder, links, pid_namespaces } }
    }
}

impl Traces {
    fn are_gone(&self) {
        let name = self.folder.file_name().unwrap().to_string_lossy().into_owned();
        within_fifteen_seconds("the folder is gone", || !self.folder.exists());
        within_fifteen_seconds("the control groups are gone", || cgroups(&name).is_empty());
        within_fifteen_seconds("the processes are gone", || namespaces("pid").is_disjoint(&self.pid_namespaces));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&name), "{mounts}");
        assert_eq!(links().difference(&self.links).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    }
}

/// The namespaces of all processes.
fn namespaces(kind: &str) -> BTreeSet<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes.filter_map(|process| fs::read_link(process.join("ns").join(kind)).ok()).collect()
}

fn links() -> BTreeSet<PathBuf> {
    fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The control groups of this name, in all trees.
fn cgroups(name: &str) -> Vec<PathBuf> {
    trees().into_iter().map(|tree| tree.join(name)).filter(|group| group.exists()).collect()
}

/// One tree (v2), or one for each controller (v1).
fn trees() -> Vec<PathBuf> {
    let folder = Path::new("/sys/fs/cgroup");
    let inner = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_tree = |path: &PathBuf| path.join("cgroup.procs").exists();
    if is_tree(&folder.to_owned()) { vec![folder.to_owned()] } else { inner.filter(is_tree).collect() }
}

fn within_fifteen_seconds(promise: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "after 15 s, it is still not true that {promise}");
        thread::sleep(Duration::from_millis(50));
    }
}
