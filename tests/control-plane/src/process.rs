//! The programs of a control plane, as children that cannot outlive this process.
//!
//! On Linux, the kernel kills a child with SIGKILL when its parent dies, if the child asks for it. "Parent" means the
//! thread that spawned the child, and the threads of a test harness end with each test. So a thread that lives as long
//! as the control plane spawns its children.
//!
//! Other systems have no such request. There, a control plane ends only when it is dropped. One that a test binary
//! shares among its tests stays behind: use `control-plane run`.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use rustix::process::{Signal, getpid, getppid};

use crate::Error;

const LOG_TAIL_LINES: usize = 20;

/// Where a system has its programs.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the child die as soon as the **calling thread** ends. The same thread must then spawn the child.
pub fn tie_to_this_thread(command: &mut Command) -> &mut Command {
    let us = getpid();
    let die_with_us = move || {
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the child could ask.
        if getppid() == Some(us) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec, the closure makes system calls and nothing else; it does not
    // allocate.
    unsafe { command.pre_exec(die_with_us) }
}

type Answer = mpsc::SyncSender<io::Result<Child>>;

/// The thread that all children of a control plane are tied to. It ends when the spawner is
/// dropped.
#[derive(Debug)]
pub struct Spawner {
    requests: mpsc::Sender<(Command, Answer)>,
}

impl Spawner {
    pub fn start() -> Self {
        let (requests, inbox) = mpsc::channel::<(Command, Answer)>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The receiver waits for the answer, so it is there.
                let _ = answer.send(tie_to_this_thread(&mut command).spawn());
            }
        });
        Self { requests }
    }

    fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, child) = mpsc::sync_channel(1);
        self.requests.send((command, answer)).expect("the spawning thread ends only when its spawner is dropped");
        child.recv().expect("the spawning thread answers each request")
    }
}

/// A program to run, and its name in messages and in its log's file name.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub args: Vec<String>,
    /// Its whole environment, besides `PATH`.
    pub env: Vec<(String, String)>,
}

impl Program {
    pub fn new(name: &'static str, path: impl Into<PathBuf>, args: Vec<String>) -> Self {
        Self { name, path: path.into(), args, env: Vec::new() }
    }
}

/// A running program with a log file; dropping it kills the program.
#[derive(Debug)]
pub struct Process {
    program: Program,
    dir: PathBuf,
    child: Child,
}

impl Process {
    /// Output is appended to `<dir>/<name>.log`, so the log shows a restart, too.
    pub fn start(spawner: &Spawner, dir: &Path, program: Program) -> Result<Self, Error> {
        let child = spawn(spawner, dir, &program)?;
        Ok(Self { program, dir: dir.to_owned(), child })
    }

    /// Starts the program again if it has ended. Returns whether it had.
    pub fn revive(&mut self, spawner: &Spawner) -> Result<bool, Error> {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        if ended {
            self.child = spawn(spawner, &self.dir, &self.program)?;
        }
        Ok(ended)
    }

    pub fn name(&self) -> &'static str {
        self.program.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the program has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Error::Ended { name: self.name(), status, log_tail: self.log_tail() }),
            _ => Ok(()),
        }
    }

    /// All output so far.
    pub fn log(&self) -> String {
        let log = fs::read(log_file(&self.dir, self.name())).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    pub fn kill(&mut self) {
        // Both fail only for a child that is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}

fn spawn(spawner: &Spawner, dir: &Path, program: &Program) -> Result<Child, Error> {
    let log = log_file(dir, program.name);
    let (stdout, stderr) = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .and_then(|file| Ok((file.try_clone()?, file)))
        .map_err(|source| Error::Write { path: log, source })?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .current_dir(dir)
        // etcd reads each of its settings from the environment, too. Ours must come from here alone.
        .env_clear()
        // The programs of a node run others, such as runc and nft.
        .env("PATH", SYSTEM_PATH)
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        // Ctrl-C in a terminal reaches the whole process group. An interrupted test may still clean up, and needs the
        // API server for that.
        .process_group(0);
    spawner.spawn(command).map_err(|source| Error::Spawn { program: program.path.clone(), source })
}
