//! What is printed: results on standard output, all else on standard error.

use std::{
    env,
    fs::File,
    io::{self, ErrorKind, IsTerminal, Write},
    process::ExitCode,
};

use anstream::{AutoStream, ColorChoice};
use secrecy::zeroize::Zeroizing;
use serde::Serialize;
use setupkey_operator::plain::plain;

use crate::{
    failure::Failure,
    flags::{Color, Look},
    table::Tone,
};

/// Exit code: an error. clap would use 2, which stands for findings here.
const FAILURE: u8 = 1;

/// Prints in colours, or without.
pub struct Printer {
    choice: ColorChoice,
}

impl Printer {
    /// By the flag `--color`, the variables and the terminal.
    pub fn new(look: &Look) -> Self {
        Self {
            choice: match look.color {
                // anstream colours a dumb terminal too if `CI` is set.
                Color::Auto if env::var_os("TERM").is_some_and(|term| term == "dumb") => ColorChoice::Never,
                Color::Auto => ColorChoice::Auto,
                Color::Always => ColorChoice::Always,
                Color::Never => ColorChoice::Never,
            },
        }
    }

    /// Prints a result as it is. Its lines are whole.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = AutoStream::new(io::stdout().lock(), self.choice);
        Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
    }

    /// Prints a result that holds a key. It goes past the buffer of standard output, which nothing would wipe.
    pub fn print_key(&self, text: &Zeroizing<String>) -> Result<(), Failure> {
        Ok(unbuffered()?.write_all(text.as_bytes())?)
    }

    /// Whether a person sees the results at once.
    pub fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Prints a result as JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    /// Prints a result as YAML.
    pub fn yaml(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&serde_yaml::to_string(value)?)
    }

    /// Tells the person something beside the result.
    pub fn note(&self, text: &str) {
        let mut err = AutoStream::new(io::stderr().lock(), self.choice);
        // There is no place left to say that this has failed.
        let _ = writeln!(err, "{}", plain(text));
    }

    /// Warns the person.
    pub fn warn(&self, text: &str) {
        let mut err = AutoStream::new(io::stderr().lock(), self.choice);
        let _ = writeln!(err, "{} {}", Tone::Warn.paint("warning:"), plain(text));
    }

    /// Tells an error. A reader that has closed the pipe has seen enough, which is none.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        if failure.is_closed_pipe() {
            return ExitCode::SUCCESS;
        }
        let mut err = AutoStream::new(io::stderr().lock(), self.choice);
        let _ = writeln!(err, "{} {}", Tone::Bad.paint("error:"), plain(&failure.to_string()));
        ExitCode::from(FAILURE)
    }
}

/// A key as one line of `-o name`, in the form that kubectl prints and takes.
pub fn resource_line(name: &str) -> String {
    format!("setupkey.setupkey.dev/{name}\n")
}

/// Standard output without its buffer.
#[cfg(unix)]
fn unbuffered() -> io::Result<File> {
    use std::os::fd::AsFd;
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

/// Standard output without its buffer.
#[cfg(windows)]
fn unbuffered() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    io::stdout().as_handle().try_clone_to_owned().map(File::from)
}

/// Prints what clap has to say: help and version as results, mistakes as errors.
pub fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => ExitCode::from(FAILURE),
        _ if error.use_stderr() => ExitCode::from(FAILURE),
        _ => ExitCode::SUCCESS,
    }
}
