//! `kubectl setupkey status`.
//!
//! `around.rs` reads the key and what is around it, `report.rs` makes a report of that, and `text.rs` shows it to people.

mod around;
mod report;
mod text;

use std::process::ExitCode;

use crate::{
    failure::Failure,
    flags::{self, Connection, Format, Output},
    print::{Printer, resource_line},
    session::Session,
};
use around::Around;
pub use report::Report;

/// Show all about one key: its state, rotation, uses, Secret, peers, latest events and findings.
///
/// The exit code is 1 if the condition Ready of the key is not True. What you may not see is said in its place.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 the key is Ready, 1 it is not, or an error.

With kubectl alone:
  kubectl describe setupkeys.setupkey.dev NAME")]
pub struct Flags {
    /// Name of the SetupKey.
    #[arg(value_name = "NAME", value_parser = flags::name)]
    name: String,

    #[command(flatten)]
    output: Output,
}

/// Shows the key.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let session = Session::start(connection)?;
    let (key, around) = Around::read(&session, &flags.name).await?;
    let now = session.now();
    let report = Report::of(&key, around, now);
    match flags.output.output {
        Format::Json => printer.json(&report)?,
        Format::Yaml => printer.yaml(&report)?,
        Format::Name => printer.print(&resource_line(&report.name))?,
        Format::Table | Format::Wide => printer.print(&report.text(now))?,
    }
    Ok(if report.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
