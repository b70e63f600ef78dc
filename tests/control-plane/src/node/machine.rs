//! A machine inside the machine: namespaces that end with their first process.
//!
//! The launcher starts `unshare`, which starts the launcher again as process 1 of new PID, mount, network, IPC and UTS
//! namespaces. Each of the three processes dies when its parent dies, by any signal. With process 1, the kernel ends
//! every process of its PID namespace. Their mounts, network interfaces and nft tables go with them. Only files on a
//! disk and control groups survive. They have this machine's name, and a janitor outside removes them.

use std::{
    ffi::{OsStr, OsString},
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command},
};

use super::{
    cgroups, network, requirements, shield,
    traces::{Before, Namespaces},
};
use crate::{Error, janitor::Janitor, process::tie_to_this_thread};

/// The prefix of all names of machines.
pub const PREFIX: &str = "setupkey-node-";

/// A group is busy until the kernel is done with its processes.
const REMOVE: &str = r#"
    name=$(basename -- "$0")
    groups() { find /sys/fs/cgroup -depth -type d -path "*/$name*" 2>/dev/null; }
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        groups | while read -r group; do rmdir -- "$group"; done
        rm -rf -- "$0"
        [ -n "$(groups)" ] || [ -e "$0" ] || break
        sleep 1
    done"#;

/// The machine as seen from outside.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    before: Before,
    janitor: Janitor,
    namespaces: Namespaces,
}

impl Machine {
    /// Fails with a sentence if a node cannot run here.
    pub fn create() -> Result<Self, Error> {
        requirements::check()?;
        cgroups::remove_orphans(PREFIX);
        let before = Before::look();
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|source| Error::Write { path: std::env::temp_dir(), source })?
            .keep();
        let janitor = Janitor::start(REMOVE, folder.as_os_str())?;
        Ok(Self { folder, before, janitor, namespaces: Namespaces::default() })
    }

    /// The name of the machine: of its folder and of its control group.
    pub fn name(&self) -> &OsStr {
        self.folder.file_name().unwrap_or_default()
    }

    /// Runs this program again, inside. All temporary files go into the machine's folder.
    pub fn run(&mut self, args: impl IntoIterator<Item = OsString>) -> Result<Child, Error> {
        let this = std::env::current_exe().map_err(|source| Error::Spawn { program: "ourselves".into(), source })?;
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--mount", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(this)
            .args(args)
            .env("TMPDIR", &self.folder);
        tie_to_this_thread(&mut command).spawn().map_err(|source| Error::Spawn { program: "unshare".into(), source })
    }

    /// Process 1 of the inside, by its number outside. At the end, its namespaces are checked for leftovers.
    pub fn first_process(&mut self, unshare: &Child) -> Option<i32> {
        let id = unshare.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let first = children.split_whitespace().next()?;
        self.namespaces = Namespaces::of(first);
        first.parse().ok()
    }

    /// Cleans up and returns what is left, one line for each thing.
    pub fn remove(self) -> Vec<String> {
        let Self { folder, before, janitor, namespaces } = self;
        drop(janitor);
        before.left_behind(&folder, &namespaces)
    }
}

/// Sets the machine up from inside. Process 1 must call this before anything else.
pub fn furnish(name: &str) -> Result<(), Error> {
    shield::raise()?;
    network::set_up()?;
    cgroups::create(name)
}
