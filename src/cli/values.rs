//! The values of flags and of the variables that stand in for them.
//!
//! A value is taken as it was meant or refused at the start, and never widened. To the API server an empty namespace means
//! all namespaces, and to the log filter a misspelt level is the name of a module. Blanks around a value do not count.

use std::path::PathBuf;

use clap::{
    Command,
    builder::{PathBufValueParser, StyledStr, TypedValueParser},
    error::{ContextKind, ContextValue, Error},
};
use setupkey_operator::{
    agent::client::service_url,
    api::Lifetime,
    authority::netbird::{HostPattern, InvalidHostPattern},
    protocol,
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The name of a namespace.
pub fn namespace(text: &str) -> Result<String, String> {
    let name = not_blank(text)?;
    let rule = "a namespace has 1 to 63 lower-case letters, digits and inner hyphens";
    if protocol::is_dns_label(name) { Ok(name.to_owned()) } else { Err(rule.to_owned()) }
}

/// The name of an object.
pub fn object_name(text: &str) -> Result<String, String> {
    let name = not_blank(text)?;
    let rule = "a name has 1 to 253 lower-case letters, digits, and inner hyphens and dots";
    if name.len() <= 253 && name.split('.').all(protocol::is_dns_label) {
        Ok(name.to_owned())
    } else {
        Err(rule.to_owned())
    }
}

/// The hostname of a machine, within the limits of the enrollment service.
pub fn hostname(text: &str) -> Result<String, String> {
    let name = not_blank(text)?;
    let rule = "a hostname has 1 to 253 letters, digits, dots, hyphens and underscores";
    if protocol::is_hostname(name) { Ok(name.to_owned()) } else { Err(rule.to_owned()) }
}

/// A DNS label of a machine.
pub fn dns_label(text: &str) -> Result<String, String> {
    let label = not_blank(text)?;
    let rule = "a DNS label has 1 to 63 lower-case letters, digits and inner hyphens";
    if protocol::is_dns_label(label) { Ok(label.to_owned()) } else { Err(rule.to_owned()) }
}

/// The URL of the enrollment service.
pub fn server(text: &str) -> Result<String, String> {
    let url = not_blank(text)?;
    service_url(url).map(|_| url.to_owned()).map_err(|error| error.to_string())
}

/// A host that authorities may name.
pub fn authority_host(text: &str) -> Result<HostPattern, String> {
    not_blank(text)?.parse().map_err(|error: InvalidHostPattern| error.to_string())
}

/// A log filter: a level, or target=level pairs.
///
/// tracing takes a word that is no level as a target to be logged in full, and skips empty entries.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    let rule =
        || "it is no level (error, warn, info, debug, trace or off) and no list of target=level pairs".to_owned();
    let entries: Vec<_> = text.split(',').map(str::trim).collect();
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_meant = |entry: &&str| match entry.rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(entry),
    };
    if !entries.iter().all(is_meant) {
        return Err(rule());
    }
    EnvFilter::try_new(entries.join(",")).map_err(|_| rule())
}

/// How long a peer may stay quiet: a minute to a year. `lastSeen` is in whole seconds and written once per third of it.
pub fn peer_lifetime(text: &str) -> Result<Lifetime, String> {
    lifetime(text, Lifetime::minutes(1), Lifetime::hours(365 * 24))
}

/// The time between heartbeats: a second to a day.
pub fn heartbeat(text: &str) -> Result<Lifetime, String> {
    lifetime(text, Lifetime::seconds(1), Lifetime::hours(24))
}

fn lifetime(text: &str, least: Lifetime, most: Lifetime) -> Result<Lifetime, String> {
    let text = not_blank(text)?;
    // The parser panics on a number that no Duration can hold.
    if text.len() > 16 {
        return Err(format!("it is longer than {most}"));
    }
    let lifetime: Lifetime = text.parse()?;
    if lifetime < least {
        Err(format!("{lifetime} is shorter than {least}"))
    } else if lifetime > most {
        Err(format!("{lifetime} is longer than {most}"))
    } else {
        Ok(lifetime)
    }
}

/// A path.
pub fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.to_str().map(not_blank) {
        Some(Err(complaint)) => Err(complaint),
        _ => Ok(path),
    })
}

fn not_blank(text: &str) -> Result<&str, String> {
    let text = text.trim();
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text) }
}

/// Adds the variable that a refused value may come from to an error of the command line, which names only the flag.
pub fn with_variable(mut error: Error, subcommand: Option<&Command>) -> Error {
    let Some(ContextValue::String(refused)) = error.get(ContextKind::InvalidArg) else { return error };
    let flag = subcommand.and_then(|command| command.get_arguments().find(|flag| flag.to_string() == *refused));
    let variable = flag.and_then(|flag| flag.get_env()).filter(|variable| std::env::var_os(variable).is_some());
    if let Some(variable) = variable {
        let hint = format!("without the flag, the value comes from the variable {}", variable.display());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(hint)]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_around_a_value_do_not_count() {
        assert_eq!(namespace(" team-a ").unwrap(), "team-a");
        assert_eq!(hostname("ada.example.com\n").unwrap(), "ada.example.com");
        assert_eq!(server(" https://enroll.example.com/ ").unwrap(), "https://enroll.example.com/");
        assert_eq!(peer_lifetime(" 1h30m ").unwrap(), Lifetime::minutes(90));
        assert!(log_filter(" info , kube_runtime=warn ").is_ok());
    }

    #[test]
    fn a_filter_is_a_level_or_pairs() {
        for filter in ["info", "off", "INFO", "warn,kube=debug", "kube_runtime::watcher=trace", "[span{field=1}]=debug"]
        {
            assert!(log_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["kube", "info,kube", "debgu", "info,", "", "=info", "kube=", "kube=loud"] {
            assert!(log_filter(filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn times_have_a_range() {
        for text in ["1m", "60s", "8760h"] {
            assert!(peer_lifetime(text).is_ok(), "{text}");
        }
        for text in ["59s", "8761h", "9999999999999h", "999999999999999h", "99999999999999999999h", "-1h", ""] {
            assert!(peer_lifetime(text).is_err(), "{text}");
        }
    }
}
