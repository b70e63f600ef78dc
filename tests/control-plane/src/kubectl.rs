//! The launcher's own requests to the API server. kubectl makes them: it is there and knows TLS, so the launcher needs
//! no client of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::{Error, flags::file, process::tie_to_this_thread};

/// kubectl as the admin of the control plane in `dir`.
pub struct Kubectl<'a> {
    pub program: &'a Path,
    pub dir: &'a Path,
}

impl Kubectl<'_> {
    /// Whether this path of the API answers with success.
    pub fn gets(&self, path: &str) -> bool {
        self.run(["--request-timeout=5s", "get", "--raw", path].map(OsStr::new))
            .is_ok_and(|output| output.status.success())
    }

    /// The output of kubectl, if it succeeds.
    pub fn prints(&self, args: &[&str]) -> Option<String> {
        let output = self.run(args.iter().map(OsStr::new)).ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    }

    /// Returns when the API server serves the kinds in the files.
    pub fn install_crds(&self, files: &[PathBuf]) -> Result<(), Error> {
        for path in files {
            for step in [["apply", "--server-side"].as_slice(), &["wait", "--for=condition=Established"]] {
                let args = step.iter().map(OsStr::new);
                let output = self.run(args.chain(["-f".as_ref(), path.as_os_str()]))?;
                if !output.status.success() {
                    let stderr = String::from_utf8_lossy(&output.stderr);
                    return Err(Error::Crds { path: path.clone(), stderr: stderr.trim_end().to_owned() });
                }
            }
        }
        Ok(())
    }

    fn run<'b>(&self, args: impl IntoIterator<Item = &'b OsStr>) -> Result<Output, Error> {
        let mut command = Command::new(self.program);
        command
            .arg("--kubeconfig")
            .arg(self.dir.join(file::KUBECONFIG))
            // The cache for this API server is useless later.
            .arg("--cache-dir")
            .arg(self.dir.join("kubectl-cache"))
            .args(args)
            // A node's API server is not on loopback, and still on this machine.
            .env("NO_PROXY", "*")
            .stdin(Stdio::null());
        tie_to_this_thread(&mut command)
            .output()
            .map_err(|source| Error::Spawn { program: self.program.to_owned(), source })
    }
}
