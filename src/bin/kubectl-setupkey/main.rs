//! `kubectl setupkey`: what people do with setup keys, day by day.
//!
//! kubectl finds this program on the PATH by its name. Each verb is a file; `session.rs` is the way to the cluster,
//! `print.rs` and `table.rs` are what people and scripts see, and `failure.rs` has the sentences of what goes wrong.

mod at_once;
mod audit;
mod commands;
mod complete;
mod completion;
mod create;
mod each;
mod events;
mod failure;
mod flags;
mod join;
mod list;
mod management;
mod peers;
mod print;
mod reveal;
mod revoke;
mod rotate;
#[cfg(test)]
mod schemas;
mod session;
mod status;
mod table;
mod version;
mod wait;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;
use flags::{Connection, Look};
use print::Printer;

/// See, audit, reveal, rotate and revoke the setup keys of a cluster.
///
/// It works with SetupKeys of the group setupkey.dev, and with your own rights.
#[derive(Parser)]
#[command(
    name = "kubectl-setupkey",
    bin_name = "kubectl setupkey",
    version,
    args_override_self = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 error, 2 findings of audit.\nMore: docs/plugin.md"
)]
struct Cli {
    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    look: Look,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    List(list::Flags),
    Status(status::Flags),
    Audit(audit::Flags),
    Create(Box<create::Flags>),
    Reveal(reveal::Flags),
    Join(join::Flags),
    Rotate(rotate::Flags),
    Revoke(revoke::Revoke),
    Unrevoke(revoke::Unrevoke),
    Wait(wait::Flags),
    Peers(peers::Flags),
    Events(events::Flags),
    Version(version::Flags),
    Completion(completion::Flags),
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Some(words) = complete::asked_for(std::env::args_os()) {
        // What goes wrong while a line is completed is not told.
        return runtime.map_or(ExitCode::SUCCESS, |runtime| runtime.block_on(complete::run(Cli::command(), &words)));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print::usage(&error),
    };
    let printer = Printer::new(&cli.look);
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli, &printer)),
        Err(error) => Err(Failure::new(format!("the process cannot start: {error}"))),
    };
    result.unwrap_or_else(|failure| printer.fail(&failure))
}

async fn run(cli: Cli, printer: &Printer) -> Result<ExitCode, Failure> {
    let Cli { connection, verb, .. } = cli;
    match verb {
        Verb::List(flags) => list::run(flags, &connection, printer).await,
        Verb::Status(flags) => status::run(flags, &connection, printer).await,
        Verb::Audit(flags) => audit::run(flags, &connection, printer).await,
        Verb::Create(flags) => create::run(*flags, &connection, printer).await,
        Verb::Reveal(flags) => reveal::run(flags, &connection, printer).await,
        Verb::Join(flags) => join::run(flags, &connection, printer).await,
        Verb::Rotate(flags) => rotate::run(flags, &connection, printer).await,
        Verb::Revoke(flags) => revoke::revoke(flags, &connection, printer).await,
        Verb::Unrevoke(flags) => revoke::unrevoke(flags, &connection, printer).await,
        Verb::Wait(flags) => wait::run(flags, &connection, printer).await,
        Verb::Peers(flags) => peers::run(flags, &connection, printer).await,
        Verb::Events(flags) => events::run(flags, &connection, printer).await,
        Verb::Version(flags) => version::run(&flags, &connection, printer).await,
        Verb::Completion(flags) => completion::run(&flags, printer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_each_verb_fit_together() {
        Cli::command().debug_assert();
    }

    /// A person and completion are told what each flag does.
    #[test]
    fn each_flag_of_each_verb_has_a_help_text() {
        let mut root = Cli::command();
        root.build();
        for verb in root.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
            for flag in verb.get_arguments() {
                let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 5, "{} {} has no help", verb.get_name(), flag.get_id());
            }
        }
    }

    #[test]
    fn the_page_has_each_verb_and_its_rights() {
        let page = include_str!("../../../docs/plugin.md");
        let (_, rights) = page.split_once("\n## Rights\n").expect("a section about rights");
        let (rights, _) = rights.split_once("\n## ").expect("another section");
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            assert!(page.contains(&format!("kubectl setupkey {name}")), "docs/plugin.md has no sample of {name}");
            assert!(rights.contains(&format!("`{name}`")), "docs/plugin.md has no rights of {name}");
        }
    }

    #[test]
    fn the_help_of_each_verb_ends_with_the_plain_command() {
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let last = help.lines().last().unwrap_or_default();
            assert!(last.trim_start().starts_with("kubectl "), "{}: {help:?}", verb.get_name());
        }
    }
}
