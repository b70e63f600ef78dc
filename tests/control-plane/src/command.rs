//! Programs of the system that run to their end.

use std::process::{Command, Stdio};

use crate::{Error, process::SYSTEM_PATH};

/// The output of the program, if it succeeds.
pub fn run(program: &str, args: &[&str]) -> Result<String, Error> {
    let output = Command::new(program)
        .env("PATH", SYSTEM_PATH)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { program: program.into(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(Error::Command { command: format!("{program} {}", args.join(" ")), stderr })
}
