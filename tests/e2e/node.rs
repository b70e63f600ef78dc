//! Actions on our own node: its programs are processes of the machine that the stories run in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Kills a program that the launcher has started; the launcher starts it again.
pub fn kill_program(folder: &Path, name: &str) {
    let runs_there = |process: &Path| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder);
    kill(|process| is_called(process, name) && runs_there(process));
}

/// Kills this program in the containers of a pod. The names of all control groups of a pod contain its uid.
pub fn kill_containers_of(pod: &Pod, name: &str) {
    let uid = pod.uid().expect("a pod that is there");
    let in_pod = |process: &Path| fs::read_to_string(process.join("cgroup")).is_ok_and(|groups| groups.contains(&uid));
    kill(|process| is_called(process, name) && in_pod(process));
}

/// A file of an `emptyDir` of a pod, for images that have no `cat`.
pub fn file_of_pod(pod: &Pod, volume: &str, file: &str) -> String {
    let uid = pod.uid().expect("a pod that is there");
    let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/{volume}/{file}");
    fs::read_to_string(&path).expect("a file of a pod")
}

fn is_called(process: &Path, name: &str) -> bool {
    fs::read_link(process.join("exe")).is_ok_and(|exe| exe.ends_with(name))
}

fn kill(is_meant: impl Fn(&Path) -> bool) {
    let processes: Vec<PathBuf> = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).collect();
    let meant: Vec<_> = processes.into_iter().filter(|process| is_meant(process)).collect();
    let [process] = &meant[..] else { panic!("one process was meant: {meant:?}") };
    let number = process.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
    kill_process(number.expect("a process"), Signal::KILL).expect("the process is ours");
}

/// The writes of SetupKeys and Secrets by this user since then, from the audit log.
pub fn writes_since(folder: &Path, since: DateTime<Utc>, user: &str) -> Vec<Value> {
    let log = fs::read_to_string(folder.join("audit.log")).expect("an audit log: run `make e2e`");
    let is_meant = |event: &Value| {
        let received: DateTime<Utc> = event["requestReceivedTimestamp"].as_str().unwrap().parse().unwrap();
        let object = &event["objectRef"];
        let is_write = !["get", "list", "watch"].contains(&event["verb"].as_str().unwrap());
        let is_ours = object["resource"] == "setupkeys" || object["resource"] == "secrets";
        received > since
            && event["user"]["username"] == user
            && is_write
            && is_ours
            && event["stage"] == "ResponseComplete"
    };
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_meant).collect()
}
