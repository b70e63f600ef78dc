//! Completion of a command line, for kubectl and for the scripts of `completion`.
//!
//! It reads the words so far, without `kubectl setupkey`; the last one is unfinished and may be empty. It prints the choices,
//! each with a description after a tab, and then a line for the shell as in cobra: `:4`, no file names; `:0`, file names. An
//! error ends the list, without a word: it would be written into the person's command line.

mod line;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::{Args, Command, FromArgMatches};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt, api::ListParams};
use setupkey_operator::{
    api::SetupKey,
    cluster::{
        call::Attempt,
        kubeconfig::{self, Choice},
        pages,
    },
    key::Facts,
    plain::is_plain,
};

use crate::{flags::Connection, session::Session};
use line::{Line, Wanted};

/// How long a person waits for a list of names. The flag `--request-timeout` sets another limit.
const PATIENCE: Duration = Duration::from_secs(3);

/// The name by which kubectl runs this program for completion.
const COMPLETER: &str = "kubectl_complete-setupkey";

/// The hidden verb.
const VERB: &str = "__complete";

/// The words to complete, if that is what the program was started for.
pub fn asked_for(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Option<Vec<String>> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next()?;
    let mut words: Vec<_> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    if std::path::Path::new(&program).file_stem().is_some_and(|name| name == COMPLETER) {
        return Some(words);
    }
    (words.first().map(String::as_str) == Some(VERB)).then(|| words.split_off(1))
}

/// A word that can come next, and what it means.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Suggestion {
    word: String,
    meaning: String,
}

/// Prints what can come next.
pub async fn run(command: Command, words: &[String]) -> ExitCode {
    let line = Line::read(command, words);
    let (suggestions, directive) = match line.wanted() {
        Wanted::Words(suggestions) => (suggestions, 4),
        Wanted::Keys { except } => (keys(&line, &except).await.unwrap_or_default(), 4),
        Wanted::Namespaces => (namespaces(&line).await.unwrap_or_default(), 4),
        Wanted::Contexts => (contexts(&line).unwrap_or_default(), 4),
        Wanted::Files => (Vec::new(), 0),
        Wanted::Nothing => (Vec::new(), 4),
    };
    let mut text = String::new();
    for Suggestion { word, meaning } in suggestions {
        // A line is one word, and a tab ends it.
        if word.starts_with(line.prefix()) && word.chars().all(is_plain) {
            text += &word;
            if !meaning.is_empty() {
                text += &format!("\t{}", meaning.lines().next().unwrap_or_default());
            }
            text.push('\n');
        }
    }
    text += &format!(":{directive}\n");
    let mut out = std::io::stdout().lock();
    // A shell that has closed the pipe needs no more.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

/// The connection that the words describe, if they describe one.
fn connection(line: &Line) -> Option<Connection> {
    let reader = Connection::augment_args(Command::new("connection").no_binary_name(true).args_override_self(true));
    let flags = line.values_of(&reader);
    let is_patient = flags.iter().any(|flag| flag.starts_with("--request-timeout="));
    let mut connection = Connection::from_arg_matches(&reader.try_get_matches_from(flags).ok()?).ok()?;
    if !is_patient {
        connection.request_timeout = PATIENCE;
    }
    Some(connection)
}

async fn keys(line: &Line, except: &[String]) -> Option<Vec<Suggestion>> {
    let session = Session::start(&connection(line)?).ok()?;
    let page = session.keys.list(Some(&session.namespace), ListParams::default()).await.ok()?;
    let now = session.now();
    let suggestion = |key: &SetupKey| {
        let state = Facts::of(key).map_or("not issued", |facts| facts.state(now).as_str());
        let uses = match key.spec.effective_usage_limit() {
            Some(limit) => format!("{} of {limit}", key.used_times()),
            None => key.used_times().to_string(),
        };
        Suggestion { word: key.name_any(), meaning: format!("{state}, used {uses}") }
    };
    let others = page.keys.iter().filter(|key| !except.contains(&key.name_any()));
    Some(others.map(suggestion).collect())
}

async fn namespaces(line: &Line) -> Option<Vec<Suggestion>> {
    let session = Session::start(&connection(line)?).ok()?;
    let namespaces: Api<Namespace> = Api::all(session.keys.client.clone());
    let attempt = Attempt::to("list namespaces");
    let pages = pages::list(namespaces, ListParams::default(), attempt, session.keys.paging());
    let all: Vec<_> = pages.try_concat().await.ok()?;
    Some(all.iter().map(|namespace| Suggestion { word: namespace.name_any(), meaning: String::new() }).collect())
}

fn contexts(line: &Line) -> Option<Vec<Suggestion>> {
    let choice = Choice { kubeconfig: connection(line)?.kubeconfig, context: None };
    let names = kubeconfig::contexts(&choice).ok()?;
    Some(names.into_iter().map(|word| Suggestion { word, meaning: String::new() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_completes_by_its_name_or_by_its_verb() {
        let asked = |words: &[&str]| asked_for(words.iter().map(Into::into));
        assert_eq!(asked(&["/bin/kubectl_complete-setupkey", "list", ""]), Some(vec!["list".into(), String::new()]));
        assert_eq!(asked(&["kubectl_complete-setupkey.exe"]), Some(vec![]));
        assert_eq!(asked(&["kubectl-setupkey", "__complete", "-n"]), Some(vec!["-n".into()]));
        assert_eq!(asked(&["kubectl-setupkey", "list", "__complete"]), None);
        assert_eq!(asked(&["kubectl-setupkey"]), None);
        assert_eq!(asked(&[]), None);
    }
}
