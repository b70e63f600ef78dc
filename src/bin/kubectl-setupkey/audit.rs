//! `kubectl setupkey audit`.

use std::{pin::pin, process::ExitCode};

use clap::ValueEnum;
use futures::{StreamExt, future::OptionFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use schemars::JsonSchema;
use serde::Serialize;
use setupkey_operator::{
    actions::{Keys, rights},
    api::Lifetime,
    audit::{Evidence, Finding, RULES, Readers, Rule, Severity, Thresholds, findings},
    cluster::call,
};

use crate::{
    each::without,
    failure::Failure,
    flags::{self, Connection, Format, Output, Selection},
    print::{Printer, resource_line},
    session::{Chosen, Session, none_found},
    table::{Cell, Table, Tone},
};

/// Exit code: there are findings.
const FINDINGS: u8 = 2;

/// Find what is unwise about keys, and what to do.
///
/// It needs the right to list SetupKeys, and for the rules SK008 and SK009 the right to list pods. Without that one, the two are
/// skipped.
#[derive(clap::Args)]
#[command(after_help = "Rules:
  SK001 lives longer than --max-age          SK006 expired more than 30 days ago
  SK002 reusable without usageLimit          SK007 reusable with usageLimit 1
  SK003 never used for longer than --unused  SK008 not ephemeral, and read by a Job
  SK004 last used longer ago than --idle     SK009 read as environment variable
  SK005 in use, expires within --soon, and no rotation

Exit codes: 0 done, 1 error, 2 findings at or above --fail-on.

With kubectl alone, what the rules look at:
  kubectl get setupkeys.setupkey.dev -A -o yaml")]
pub struct Flags {
    #[command(flatten)]
    selection: Selection,

    /// The findings that make the exit code 2: info for all, warn for warnings.
    #[arg(long, value_name = "SEVERITY", value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,

    /// The longest lifetime that is in order (SK001).
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = flags::time)]
    max_age: Lifetime,

    /// How long a key may wait for its first use (SK003).
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = flags::time)]
    unused: Lifetime,

    /// How long ago the last use may be (SK004).
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = flags::time)]
    idle: Lifetime,

    /// How long before its end a key in use should have a rotation (SK005).
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = flags::time)]
    soon: Lifetime,

    /// Only these rules, such as SK002,SK003. It can be repeated.
    #[arg(long = "rule", value_name = "ID", value_delimiter = ',', value_parser = rule)]
    rules: Vec<&'static Rule>,

    /// All rules but these. It can be repeated.
    #[arg(long = "ignore", value_name = "ID", value_delimiter = ',', value_parser = rule)]
    ignored: Vec<&'static Rule>,

    #[command(flatten)]
    output: Output,
}

/// From which severity on findings make the exit code 2.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum FailOn {
    Info,
    Warn,
    Never,
}

impl FailOn {
    fn includes(self, severity: Severity) -> bool {
        match self {
            Self::Info => true,
            Self::Warn => severity >= Severity::Warn,
            Self::Never => false,
        }
    }
}

/// What an audit has found, as scripts read it.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Audit {
    /// The findings: warnings first, then by namespace, name and id.
    pub findings: Vec<Finding>,
    /// How many keys were looked at.
    pub keys: usize,
    /// The keys that cannot be read, as namespace and name. They were not looked at.
    pub unread: Vec<String>,
    /// The ids of the rules that were skipped, because the caller may not list pods.
    pub skipped: Vec<&'static str>,
}

/// Audits the keys.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let rules = chosen(&flags)?;
    let session = Session::start(connection)?;
    let scope = session.scope(&flags.selection);
    let need_pods = rules.iter().any(|rule| rule.evidence == Evidence::Pods);
    let readers = OptionFuture::from(need_pods.then(|| readers(&session.keys, scope)));
    let (chosen, readers) = futures::join!(session.select(&flags.selection, printer), readers);
    let Chosen { keys, unread } = chosen?;
    let (readers, forbidden) = match readers.transpose() {
        Ok(readers) => (readers, None),
        Err(error) if error.code() == Some(403) => (None, Some(error.why())),
        Err(error) => return Err(error.into()),
    };
    let (skipped, rules): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| forbidden.is_some() && rule.evidence == Evidence::Pods);
    let skipped: Vec<_> = skipped.into_iter().map(|rule| rule.id).collect();
    if let Some(why) = forbidden {
        let why = rights::missing(&why).unwrap_or(why);
        let skips = skips(&skipped);
        if rules.is_empty() {
            return Err(Failure::new(format!("{skips}, and no other rule is chosen: {why}")));
        }
        printer.note(&format!("{skips}: {why}."));
    }
    let thresholds = Thresholds { max_age: flags.max_age, unused: flags.unused, idle: flags.idle, soon: flags.soon };
    let now = session.now();
    let found = keys.iter().flat_map(|key| findings(rules.iter().copied(), key, readers.as_ref(), &thresholds, now));
    let mut audit = Audit { findings: found.collect(), keys: keys.len(), unread, skipped };
    audit.findings.sort_by(|a, b| {
        let (a, b) = ((b.severity, &a.namespace, &a.name, a.id), (a.severity, &b.namespace, &b.name, b.id));
        a.cmp(&b)
    });
    match flags.output.output {
        Format::Json => printer.json(&audit)?,
        Format::Yaml => printer.yaml(&audit)?,
        Format::Name => printer.print(&names(&audit.findings))?,
        Format::Table | Format::Wide => {
            printer.print(&table(&audit.findings, flags.output.no_headers))?;
            printer.note(&summary(&audit, scope));
        }
    }
    let fails = audit.findings.iter().any(|finding| flags.fail_on.includes(finding.severity));
    Ok(if fails { ExitCode::from(FINDINGS) } else { without(&audit.unread, ExitCode::SUCCESS) })
}

/// The rules that the flags choose.
fn chosen(flags: &Flags) -> Result<Vec<&'static Rule>, Failure> {
    let ignores = |rule: &Rule| flags.ignored.iter().any(|ignored| ignored.id == rule.id);
    if let Some(both) = flags.rules.iter().find(|rule| ignores(rule)) {
        let id = both.id;
        return Err(Failure::new(format!("{id} is in --rule and in --ignore: leave it out of one of them")));
    }
    let is_chosen = |rule: &&Rule| flags.rules.is_empty() || flags.rules.iter().any(|chosen| chosen.id == rule.id);
    let rules: Vec<_> = RULES.iter().filter(is_chosen).filter(|rule| !ignores(rule)).collect();
    if rules.is_empty() {
        return Err(Failure::new("every rule is in --ignore, so nothing can be found: leave one out"));
    }
    Ok(rules)
}

/// Reads the id of a rule.
fn rule(id: &str) -> Result<&'static Rule, String> {
    let known = || RULES.iter().map(|rule| rule.id).collect::<Vec<_>>().join(", ");
    RULES.iter().find(|rule| rule.id.eq_ignore_ascii_case(id)).ok_or_else(|| format!("the rules are {}", known()))
}

/// The workloads that read Secrets. Pods are read a page at a time, because a cluster has many and little of each is kept.
pub async fn readers(keys: &Keys, namespace: Option<&str>) -> Result<Readers, call::Error> {
    let mut readers = Readers::default();
    let mut pages = pin!(keys.pages_of::<Pod>("pods", namespace, ListParams::default()));
    while let Some(pods) = pages.next().await {
        readers.add(&pods?);
    }
    Ok(readers)
}

/// "SK008 and SK009 are skipped".
fn skips(ids: &[&str]) -> String {
    let verb = if ids.len() == 1 { "is" } else { "are" };
    format!("{} {verb} skipped", ids.join(" and "))
}

/// One line for each key with findings, by namespace and name.
fn names(findings: &[Finding]) -> String {
    let mut keys: Vec<_> = findings.iter().map(|finding| (&finding.namespace, &finding.name)).collect();
    keys.sort();
    keys.dedup();
    keys.iter().map(|(_, name)| resource_line(name)).collect()
}

fn table(findings: &[Finding], no_headers: bool) -> String {
    let mut table = Table::new(&["SEVERITY", "ID", "KEY", "FINDING", "DO"], no_headers);
    for finding in findings {
        table.push(vec![
            Cell::new(finding.severity.as_str(), severity_tone(finding.severity)),
            finding.id.into(),
            format!("{}/{}", finding.namespace, finding.name).into(),
            finding.finding.as_str().into(),
            finding.advice.as_str().into(),
        ]);
    }
    table.render()
}

/// The tone of a severity.
pub fn severity_tone(severity: Severity) -> Tone {
    match severity {
        Severity::Warn => Tone::Warn,
        Severity::Info => Tone::Faint,
    }
}

/// "5 warnings, 4 notes in 37 keys."
fn summary(audit: &Audit, namespace: Option<&str>) -> String {
    let of = |severity: Severity| audit.findings.iter().filter(|finding| finding.severity == severity).count();
    match (audit.keys, audit.findings.len()) {
        (0, _) => none_found(namespace),
        (keys, 0) => format!("No findings in {}.", count(keys, "key")),
        (keys, _) => {
            let (warnings, notes) = (count(of(Severity::Warn), "warning"), count(of(Severity::Info), "note"));
            format!("{warnings}, {notes} in {}.", count(keys, "key"))
        }
    }
}

fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use regex::Regex;

    use super::*;
    use crate::{Cli, Verb};

    fn ids(arguments: &[&str]) -> Result<Vec<&'static str>, String> {
        let cli = Cli::try_parse_from([&["kubectl-setupkey", "audit"], arguments].concat());
        let Verb::Audit(flags) = cli.map_err(|error| error.to_string())?.verb else { unreachable!("it is audit") };
        let rules = chosen(&flags).map_err(|failure| failure.to_string())?;
        Ok(rules.into_iter().map(|rule| rule.id).collect())
    }

    #[test]
    fn flags_choose_rules() {
        assert_eq!(ids(&[]).unwrap().len(), 9);
        assert_eq!(ids(&["--rule", "SK005,sk001", "--rule", "SK003"]).unwrap(), ["SK001", "SK003", "SK005"]);
        let others = ["SK001", "SK003", "SK004", "SK005", "SK007", "SK008", "SK009"];
        assert_eq!(ids(&["--ignore", "SK006", "--ignore", "SK002"]).unwrap(), others);
        let both = ids(&["--rule", "SK001,SK006", "--ignore", "SK006"]);
        assert_eq!(both.unwrap_err(), "SK006 is in --rule and in --ignore: leave it out of one of them");
        let all = RULES.iter().map(|rule| rule.id).collect::<Vec<_>>().join(",");
        assert!(ids(&["--ignore", &all]).unwrap_err().starts_with("every rule is in --ignore"));
        for unknown in ["SK010", "SK00", "", "SK001,"] {
            let error = ids(&["--ignore", unknown]).unwrap_err();
            assert!(error.contains("SK001, SK002, SK003, SK004, SK005, SK006, SK007, SK008, SK009"), "{error}");
        }
    }

    #[test]
    fn one_thing_is_singular() {
        let finding = |severity| Finding {
            id: "SK001",
            severity,
            namespace: "n".to_owned(),
            name: "k".to_owned(),
            finding: String::new(),
            advice: String::new(),
        };
        let of =
            |findings, keys| summary(&Audit { findings, keys, unread: Vec::new(), skipped: Vec::new() }, Some("n"));
        let (warn, info) = (Severity::Warn, Severity::Info);
        assert_eq!(of(vec![finding(warn), finding(info)], 1), "1 warning, 1 note in 1 key.");
        assert_eq!(of(vec![finding(info), finding(info)], 37), "0 warnings, 2 notes in 37 keys.");
        assert_eq!(of(Vec::new(), 2), "No findings in 2 keys.");
        assert_eq!(of(Vec::new(), 0), "No SetupKeys found in namespace n.");
    }

    #[test]
    fn the_documentation_has_each_rule_and_its_severity() {
        let docs = include_str!("../../../docs/plugin.md");
        let row = Regex::new(r"(?m)^\| (SK\d{3}) \| (\w+) \|").unwrap();
        let documented: Vec<_> = row.captures_iter(docs).map(|row| (row[1].to_owned(), row[2].to_owned())).collect();
        let rules: Vec<_> = RULES.iter().map(|rule| (rule.id.to_owned(), rule.severity.as_str().to_owned())).collect();
        assert_eq!(documented, rules);
    }
}
