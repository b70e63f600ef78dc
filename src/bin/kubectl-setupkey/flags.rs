//! The flags that every verb has, and their values.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{
    Arg, Args, Command, ValueEnum,
    builder::{PossibleValue, TypedValueParser},
};
use setupkey_operator::api::Lifetime;

/// Where the help of a verb lists the flags that all verbs have.
const OF_EVERY_VERB: &str = "Flags of every verb";

/// The cluster, the namespace and the caller.
#[derive(Args)]
pub struct Connection {
    /// Namespace. Default: that of the context.
    #[arg(short, long, value_name = "NAME", global = true, help_heading = OF_EVERY_VERB, value_parser = namespace)]
    pub namespace: Option<String>,

    /// Context of the kubeconfig. Default: the current one.
    #[arg(long, value_name = "NAME", global = true, help_heading = OF_EVERY_VERB)]
    pub context: Option<String>,

    /// Kubeconfig file. Default: KUBECONFIG, or ~/.kube/config, or in a pod its ServiceAccount.
    #[arg(long, value_name = "PATH", global = true, help_heading = OF_EVERY_VERB)]
    pub kubeconfig: Option<PathBuf>,

    /// User to act as. It takes the right to impersonate that user.
    #[arg(long = "as", value_name = "USER", global = true, help_heading = OF_EVERY_VERB)]
    pub impersonate: Option<String>,

    /// Group to act as, with --as. It can be repeated.
    #[arg(long = "as-group", value_name = "GROUP", global = true, help_heading = OF_EVERY_VERB, requires = "impersonate")]
    pub impersonate_groups: Vec<String>,

    /// How long each call to the API server may take, such as 30s or 2m; 0 is no limit.
    #[arg(long, value_name = "TIME", global = true, help_heading = OF_EVERY_VERB, default_value = "10s", value_parser = request_timeout)]
    pub request_timeout: Duration,
}

/// What the terminal is shown.
#[derive(Args)]
pub struct Look {
    /// Colours: auto has them on a terminal, unless NO_COLOR is set or TERM is dumb.
    #[arg(long, value_name = "WHEN", global = true, help_heading = OF_EVERY_VERB, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

/// When there are colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// Which keys a verb is about that shows many.
#[derive(Args)]
pub struct Selection {
    /// The keys of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,

    /// Labels of the keys, as in kubectl: team=vpn, 'env in (prod, test)'.
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = not_blank)]
    pub selector: Option<String>,
}

/// Which keys a verb is about that changes them.
#[derive(Args)]
pub struct Targets {
    /// Names of SetupKeys.
    #[arg(value_name = "NAME", value_parser = name, conflicts_with_all = ["selector", "all"], required_unless_present_any = ["selector", "all"])]
    pub names: Vec<String>,

    /// Labels of the keys, as in kubectl.
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = not_blank, conflicts_with = "all")]
    pub selector: Option<String>,

    /// Every key of the namespace.
    #[arg(long)]
    pub all: bool,
}

/// The form of what is printed.
#[derive(Args)]
pub struct Output {
    /// Form: table, wide, json, yaml or name.
    #[arg(short, long, value_name = "FORM", default_value = "table", hide_possible_values = true, value_parser = FORMS)]
    pub output: Format,

    /// A table without its header.
    #[arg(long)]
    pub no_headers: bool,
}

/// The forms of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// The forms, as they are written.
pub const FORMS: Words<Format> = Words { words: &["table", "wide", "json", "yaml", "name"], read: format };

/// A flag with a fixed set of values, which completion offers. What is none of them is refused in words of its own.
pub struct Words<T> {
    /// The values.
    pub words: &'static [&'static str],
    /// Reads a value.
    pub read: fn(&str) -> Result<T, String>,
}

impl<T> Clone for Words<T> {
    fn clone(&self) -> Self {
        Self { words: self.words, read: self.read }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Words<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        self.read.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().map(PossibleValue::new)))
    }
}

/// Reads a form, and says what there is in place of kubectl's others.
pub fn format(text: &str) -> Result<Format, String> {
    match text {
        "table" => Ok(Format::Table),
        "wide" => Ok(Format::Wide),
        "json" => Ok(Format::Json),
        "yaml" => Ok(Format::Yaml),
        "name" => Ok(Format::Name),
        other => Err(no_such_format(other, "table, wide, json, yaml and name")),
    }
}

/// What is said of a form that is not offered.
pub fn no_such_format(text: &str, forms: &str) -> String {
    let of_kubectl =
        ["jsonpath", "go-template", "custom-columns", "template"].iter().any(|form| text.starts_with(form));
    if of_kubectl {
        format!("there is {forms}; use json with jq, or kubectl get setupkeys.setupkey.dev -o {text}")
    } else {
        format!("there is {forms}")
    }
}

/// A time as people write it: days, and all that Go reads. `90d`, `1d12h`, `36h30m`.
pub fn time(text: &str) -> Result<Lifetime, String> {
    let hint = || format!("{text:?} is no time such as 90d, 36h or 1d12h: the units are d, h, m and s");
    if text.is_empty() {
        return Err(hint());
    }
    let (days, rest) = text.split_once('d').unwrap_or(("0", text));
    let days: u64 = days.parse().map_err(|_| hint())?;
    // The parser of the rest panics on a number that no Duration can hold.
    if days > 100_000 || rest.len() > 16 {
        return Err(format!("{text} is too long"));
    }
    let rest = if rest.is_empty() && days > 0 { "0s" } else { rest };
    let rest: Lifetime = rest.parse().map_err(|_| hint())?;
    Ok(Lifetime::seconds(days * 24 * 60 * 60 + rest.as_secs()))
}

/// A time as people read it, in whole seconds: `30s`, `1h30m`.
pub fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let text = Lifetime::seconds(seconds).to_string();
    if seconds < 60 { format!("{seconds}s") } else { text.strip_prefix("0h").unwrap_or(&text).to_owned() }
}

fn request_timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Lifetime::seconds);
    let limit = seconds.or_else(|_| time(text))?.as_duration();
    // As with kubectl, 0 is no limit. A year is none.
    Ok(if limit.is_zero() { Lifetime::hours(8760).as_duration() } else { limit })
}

fn namespace(text: &str) -> Result<String, String> {
    let rule = "a namespace has 1 to 63 lower-case letters, digits and inner hyphens";
    if setupkey_operator::protocol::is_dns_label(text) { Ok(text.to_owned()) } else { Err(rule.to_owned()) }
}

/// The name of a `SetupKey`. `sk/office`, as kubectl prints names, is `office`.
pub fn name(text: &str) -> Result<String, String> {
    let kinds = ["sk/", "setupkey/", "setupkeys/", "setupkey.setupkey.dev/", "setupkeys.setupkey.dev/"];
    let name = kinds.iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
    let fits = name.len() <= 63 && name.split('.').all(setupkey_operator::protocol::is_dns_label);
    let rule = "the name of a SetupKey has 1 to 63 lower-case letters, digits, and inner hyphens and dots";
    if fits { Ok(name.to_owned()) } else { Err(rule.to_owned()) }
}

fn not_blank(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_beside_the_units_of_go() {
        for (text, shown) in
            [("90d", "2160h"), ("1d12h", "36h"), ("36h30m", "36h30m"), ("45s", "0h0m45s"), ("0s", "0h")]
        {
            assert_eq!(time(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in
            ["30x", "", "d", "1.5d", "-1d", "-24h", "24", "1h1d", "99999999999d", "9999999999999999999999h", "1d1d"]
        {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_in_words_has_no_part_that_is_nothing_before_it() {
        for (seconds, words) in [(0, "0s"), (45, "45s"), (60, "1m"), (90, "1m30s"), (36_305, "10h5m5s")] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }

    #[test]
    fn a_name_may_be_the_one_that_kubectl_prints() {
        assert_eq!(name("setupkey.setupkey.dev/office").unwrap(), "office");
        assert_eq!(name("sk/a.b").unwrap(), "a.b");
        for text in ["", "Office", "secret/office", "a/b", "a b", "-a"] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
