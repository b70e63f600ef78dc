//! The name of a machine: from the flag, from the variable, or from the system.

use std::{
    ffi::{OsStr, OsString},
    fs,
};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Arg, Command, Error, builder::TypedValueParser, parser::ValueSource};

use super::values;

const FLAG: &str = "--hostname";
pub const VARIABLE: &str = "HOSTNAME";

/// A name as it was given. It is judged in [`decide`]: a name that cannot be used ends the program in the same way wherever it
/// comes from.
#[derive(Clone, Debug)]
pub enum Given {
    Flag(OsString),
    Variable(OsString),
}

/// Takes every text, and notes where it comes from.
#[derive(Clone)]
pub struct Parser;

impl TypedValueParser for Parser {
    type Value = Given;

    fn parse_ref(&self, command: &Command, flag: Option<&Arg>, text: &OsStr) -> Result<Given, Error> {
        self.parse_ref_(command, flag, text, ValueSource::CommandLine)
    }

    fn parse_ref_(&self, _: &Command, _: Option<&Arg>, text: &OsStr, source: ValueSource) -> Result<Given, Error> {
        let text = text.to_owned();
        Ok(if source == ValueSource::EnvVariable { Given::Variable(text) } else { Given::Flag(text) })
    }
}

/// The name of this machine. A variable without a text gives none, as a shell that does not know its name sets it.
pub fn decide(given: Option<Given>, of_system: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
    let (source, text) = match given {
        Some(Given::Flag(text)) => (FLAG, text),
        Some(Given::Variable(text)) if !text.to_string_lossy().trim().is_empty() => (VARIABLE, text),
        Some(Given::Variable(_)) | None => {
            let name = of_system()?;
            let name = name.trim();
            ensure!(!name.is_empty(), "the system has no hostname; give {FLAG}");
            return values::hostname(name)
                .map_err(|rule| anyhow!("the system's hostname {name:?} cannot be used: {rule}; give {FLAG}"));
        }
    };
    let text = text.to_string_lossy();
    let text = text.trim();
    ensure!(!text.is_empty(), "{source} is empty");
    values::hostname(text).map_err(|rule| anyhow!("{source} {text:?} cannot be used: {rule}"))
}

/// The system's hostname. It can hold any bytes.
pub fn of_system() -> anyhow::Result<String> {
    let name = fs::read("/proc/sys/kernel/hostname").or_else(|_| fs::read("/etc/hostname"));
    let name = name.with_context(|| format!("the system's hostname cannot be read; give {FLAG}"))?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn flag(text: &str) -> Option<Given> {
        Some(Given::Flag(text.into()))
    }

    fn variable(text: &str) -> Option<Given> {
        Some(Given::Variable(text.into()))
    }

    #[test]
    fn the_flag_and_the_variable_come_before_the_system() {
        let of_system = || Ok("system\n".to_owned());
        for (given, name) in [
            (flag(" ada.example.com\n"), "ada.example.com"),
            (variable("ada_1"), "ada_1"),
            (variable(""), "system"),
            (variable(" \t"), "system"),
            (None, "system"),
        ] {
            assert_eq!(decide(given.clone(), of_system).unwrap(), name, "{given:?}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_used_is_told_with_where_it_comes_from() {
        let long = "a".repeat(254);
        for text in ["ada laptop", "ada's", "büro", "a,b", "a\u{1b}[2J", long.as_str()] {
            for (given, of_system, source) in [
                (flag(text), "system", "--hostname \""),
                (variable(text), "system", "HOSTNAME \""),
                (None, text, "the system's hostname \""),
                (variable(""), text, "the system's hostname \""),
            ] {
                let told = decide(given, || Ok(of_system.to_owned())).unwrap_err().to_string();
                assert!(told.starts_with(source) && told.contains("a hostname has 1 to 253"), "{told}");
                assert!(!told.contains('\u{1b}'), "{told}");
            }
        }
        assert_eq!(decide(flag(" "), || Ok("system".to_owned())).unwrap_err().to_string(), "--hostname is empty");
        let latin_1 = Some(Given::Variable(OsStr::from_bytes(b"b\xfcro").to_owned()));
        assert!(decide(latin_1, || Ok("system".to_owned())).unwrap_err().to_string().starts_with("HOSTNAME "));
        for name in ["", "\n"] {
            let told = decide(None, || Ok(name.to_owned())).unwrap_err().to_string();
            assert_eq!(told, "the system has no hostname; give --hostname");
        }
    }
}
