//! A program under measurement: a child process with a log file, and the kernel's figures about it.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use control_plane::tie_to_this_thread;
use rustix::process::{Pid, Signal, kill_process};

use super::machine::field;

const LOG_TAIL_LINES: usize = 15;
/// The pause between two checks. It limits the precision of every time that is found by polling.
pub const GLANCE: Duration = Duration::from_millis(10);
/// How long a program may take to start, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program; dropping it kills it.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    pub started: Instant,
}

/// The kernel's figures for a process.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// VmRSS, bytes.
    pub resident: f64,
    /// VmHWM, bytes: the most that was ever resident.
    pub peak: f64,
}

impl Usage {
    /// The figures of the process with this id.
    pub fn of(process: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{process}/{file}");
            fs::read_to_string(&path).with_context(|| format!("could not read {path}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let bytes = |name: &str| -> Option<f64> {
            Some(field(&status, name)?.strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
        };
        let usage = (|| Some(Self { cpu: cpu(&stat)?, resident: bytes("VmRSS")?, peak: bytes("VmHWM")? }))();
        usage.context("could not parse what /proc reports")
    }
}

impl Process {
    /// Starts a program with KUBECONFIG for the cluster. It inherits nothing of our environment.
    ///
    /// Call this on the main thread: the child dies with the thread that started it, so that no child outlives us.
    pub fn start(name: &'static str, command: &mut Command, kubeconfig: &Path, log: PathBuf) -> anyhow::Result<Self> {
        let output = File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
        command.env_clear().env("KUBECONFIG", kubeconfig).env("NO_COLOR", "1").stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = tie_to_this_thread(command).spawn();
        let child = child.with_context(|| format!("could not run {}", command.get_program().display()))?;
        Ok(Self { name, child, log, started })
    }

    /// Fails when the program has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}; its log ends with:\n{}", self.name, self.log_tail()),
            None => Ok(()),
        }
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id()).with_context(|| format!("could not read the usage of {}", self.name))
    }

    /// Waits until the condition holds, and returns how long that took.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        while !holds(self) {
            self.check()?;
            if begun.elapsed() > PATIENCE {
                bail!("waited {PATIENCE:?} for {} to {what}; its log ends with:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(begun.elapsed())
    }

    /// Whether the log contains these words. It reads the whole log, so use it in the first seconds of a process only.
    pub fn has_logged(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(words))
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("could not signal {}", self.name))
    }

    /// Asks the program to end, and waits until it has ended.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                bail!("{} did not end within {PATIENCE:?} of SIGTERM", self.name);
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time, fields 14 and 15 of `/proc/PID/stat`. The second field is a name that may hold anything.
pub fn cpu(stat: &str) -> Option<Duration> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// A port of this machine that no process listens on.
///
/// It is below the ephemeral ports, so no connection takes it before the program does.
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| rand::random_range(20_000..32_000));
    let is_free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.find(is_free).expect("the iterator does not end")
}

/// Asks `/readyz`. Blocking, because an answer from this machine takes less than a millisecond.
pub fn answers_ready(health: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&health, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// Asks `/metrics`, with everything before the figures. Blocking, like [`answers_ready`].
pub fn metrics(health: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&health, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    std::io::read_to_string(stream).context("could not read /metrics")
}
