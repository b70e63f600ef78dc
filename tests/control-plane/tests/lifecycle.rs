//! What the launcher promises about its programs and files. The programs of a control plane are
//! found by their working directory, which is its folder.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use control_plane::{ControlPlane, Options};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_killed_launcher_leaves_nothing_behind() {
    let (mut launcher, dir) = launch(r#"echo "$CONTROL_PLANE_DIR"; exec sleep 600"#);
    assert_eq!(programs_in(&dir).len(), 3);

    launcher.kill().unwrap();
    launcher.wait().unwrap();

    within_five_seconds("the programs are gone", || programs_in(&dir).is_empty());
    within_five_seconds("the folder is gone", || !dir.exists());
}

#[test]
fn an_interrupt_goes_to_the_command_whose_exit_code_counts() {
    let (mut launcher, dir) = launch(r#"trap "exit 3" INT; echo "$CONTROL_PLANE_DIR"; while :; do sleep 0.1; done"#);

    kill_process(Pid::from_child(&launcher), Signal::INT).unwrap();

    assert_eq!(launcher.wait().unwrap().code(), Some(3));
    assert!(programs_in(&dir).is_empty());
    assert!(!dir.exists());
}

#[test]
fn a_restarted_api_server_keeps_its_address_and_its_data() {
    let mut control_plane = ControlPlane::start(Options::default()).unwrap();
    let dir = control_plane.dir().to_owned();
    let url = control_plane.url();
    assert!(kubectl(&control_plane, &["create", "namespace", "before"]));

    control_plane.restart_api_server().unwrap();

    assert_eq!(control_plane.url(), url);
    assert!(kubectl(&control_plane, &["get", "namespace", "before"]));

    drop(control_plane);
    assert!(programs_in(&dir).is_empty());
    assert!(!dir.exists());
}

/// Runs a script in `control-plane run`. The first line of its output must be the folder of the control plane.
fn launch(script: &str) -> (Child, PathBuf) {
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .args(["run", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut dir = String::new();
    BufReader::new(launcher.stdout.take().unwrap()).read_line(&mut dir).unwrap();
    assert!(!dir.is_empty(), "the launcher has not started its command");
    (launcher, dir.trim_end().into())
}

fn kubectl(control_plane: &ControlPlane, args: &[&str]) -> bool {
    Command::new(control_plane.kubectl())
        .arg("--kubeconfig")
        .arg(control_plane.kubeconfig())
        .args(args)
        .status()
        .unwrap()
        .success()
}

fn programs_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .collect()
}

fn within_five_seconds(promise: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "after 5 s, it is still not true that {promise}");
        thread::sleep(Duration::from_millis(20));
    }
}
