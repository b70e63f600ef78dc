//! The processor time of each program that shares the machine: this process, and all that it has started.

use std::{collections::BTreeMap, fs, process, time::Duration};

use anyhow::Context as _;

use crate::shared::process::cpu;

/// The processor time of each program so far, by name.
#[derive(Clone, Debug, Default)]
pub struct Shares(BTreeMap<String, Duration>);

impl Shares {
    /// Reads it from `/proc`.
    pub fn read() -> anyhow::Result<Self> {
        let mut shares = BTreeMap::<_, Duration>::new();
        for entry in fs::read_dir("/proc").context("could not read /proc")? {
            let path = entry?.path();
            // Other processes may end meanwhile.
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            let Some((of, parent, time)) = parse(&stat) else { continue };
            if ![of, parent].contains(&process::id()) {
                continue;
            }
            let command = fs::read(path.join("cmdline")).unwrap_or_default();
            *shares.entry(name(of, &command)).or_default() += time;
        }
        Ok(Self(shares))
    }

    /// What was used since then, in milliseconds for each of `count`: the sum, and the programs with the most of it.
    pub fn since(&self, before: &Self, count: f64) -> (f64, String) {
        let used = self.0.iter().map(|(name, time)| {
            let used = *time - before.0.get(name).copied().unwrap_or_default();
            (name, used.as_secs_f64() * 1000.0 / count)
        });
        let mut used: Vec<_> = used.filter(|(_, used)| *used >= 0.01).collect();
        used.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let list: Vec<_> = used.iter().map(|(name, used)| format!("{name} {used:.2}")).collect();
        (used.iter().map(|(_, used)| used).sum(), list.join(", "))
    }
}

/// What the program does, in a word.
fn name(of: u32, command: &[u8]) -> String {
    if of == process::id() {
        return "this process".to_owned();
    }
    let mut arguments = command.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = arguments.next().unwrap_or_default();
    match (program.rsplit('/').next().unwrap_or_default(), arguments.next().as_deref()) {
        ("setupkey-operator", Some("enrollment")) => "replicas".to_owned(),
        ("setupkey-operator", Some(command)) => command.to_owned(),
        (program, _) => program.to_owned(),
    }
}

/// The process, its parent, and its user and system time. The name before these may hold anything.
fn parse(stat: &str) -> Option<(u32, u32, Duration)> {
    let (of, rest) = stat.split_once(' ')?;
    let fields: Vec<_> = rest.rsplit_once(')')?.1.split_whitespace().collect();
    Some((of.parse().ok()?, fields.get(1)?.parse().ok()?, cpu(stat)?))
}
