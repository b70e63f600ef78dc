//! `kubectl setupkey completion`: what shells and kubectl need to complete the words of a command line.

use std::process::ExitCode;

use clap::{ValueEnum, builder::PossibleValue};

use crate::{failure::Failure, print::Printer};

/// Print what a shell, or kubectl, needs to complete verbs, flags and the names of keys.
///
/// For `kubectl setupkey`: save the script for kubectl on the PATH as kubectl_complete-setupkey, and make it executable.
/// For kubectl-setupkey itself: let the shell source the script with its name.
#[derive(clap::Args)]
#[command(after_help = "For kubectl itself:\n  kubectl completion bash")]
pub struct Flags {
    /// What is to complete.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Clone, Copy)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Kubectl,
}

impl ValueEnum for Shell {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Bash, Self::Zsh, Self::Fish, Self::Kubectl]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Bash => PossibleValue::new("bash").help("kubectl-setupkey in bash"),
            Self::Zsh => PossibleValue::new("zsh").help("kubectl-setupkey in zsh"),
            Self::Fish => PossibleValue::new("fish").help("kubectl-setupkey in fish"),
            Self::Kubectl => {
                PossibleValue::new("kubectl").help("kubectl setupkey, in every shell that completes kubectl")
            }
        })
    }
}

/// Prints the script.
pub fn run(flags: &Flags, printer: &Printer) -> Result<ExitCode, Failure> {
    printer.print(match flags.shell {
        Shell::Bash => include_str!("completion/bash.sh"),
        Shell::Zsh => include_str!("completion/zsh.zsh"),
        Shell::Fish => include_str!("completion/fish.fish"),
        Shell::Kubectl => include_str!("completion/kubectl.sh"),
    })?;
    Ok(ExitCode::SUCCESS)
}
