//! Cleanup after this process, however it ends.
//!
//! The control plane of a test binary sits in a static, and statics are not dropped. A killed process drops nothing at
//! all. So a shell does the cleanup: it waits for the end of its standard input. The kernel closes that pipe when this
//! process drops its end or dies, by any signal.

use std::{
    ffi::OsStr,
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use crate::Error;

#[derive(Debug)]
pub struct Janitor {
    shell: Child,
}

impl Janitor {
    /// `script` runs when this value is dropped or this process dies, with `argument` as `$0`.
    pub fn start(script: &str, argument: &OsStr) -> Result<Self, Error> {
        let shell = Command::new("/bin/sh")
            .args(["-c", &format!("read -r _; {script}")])
            .arg(argument)
            .stdin(Stdio::piped())
            // A process that reads our output must not wait for the janitor.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal reaches the whole process group, and the janitor has work to do after that.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program: "/bin/sh".into(), source })?;
        Ok(Self { shell })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // `wait` closes the pipe first. A failure needs no handling any more.
        let _: io::Result<_> = self.shell.wait();
    }
}
