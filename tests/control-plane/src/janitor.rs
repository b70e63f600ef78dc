//! What cleans up after us, however we end.
//!
//! The control plane of a test binary sits in a static, and statics are not dropped; a killed
//! process drops nothing at all. So what must go belongs to a shell that waits for the end of its
//! standard input. The kernel closes that pipe when we let go of it or when we die, by whatever
//! signal.

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
    /// `script` runs once this value is dropped or this process is dead, with `argument` as `$0`.
    pub fn start(script: &str, argument: &OsStr) -> Result<Self, Error> {
        let shell = Command::new("/bin/sh")
            .args(["-c", &format!("read -r _; {script}")])
            .arg(argument)
            .stdin(Stdio::piped())
            // A reader of our output must not wait for the janitor.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal reaches its whole process group; the janitor has work to do
            // after that.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program: "/bin/sh".into(), source })?;
        Ok(Self { shell })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // `wait` closes the pipe first. There is nothing left to do about a failure.
        let _: io::Result<_> = self.shell.wait();
    }
}
