//! Words that make no sense, terminals, pipes that close, and many keys.

use std::{
    fs::File,
    io::Read,
    process::{Command, Stdio},
};

use chrono::TimeDelta;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::PostParams;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

use super::{Person, Said, ahead, issued, terminal};
use crate::harness::Cluster;

/// As many keys as the operator is measured with.
const MANY: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn plugin_refuses_words_that_make_no_sense() {
    let person = Person::administrator(&Cluster::for_test("plugin-words").await);
    for (words, sentence) in [
        (
            ["list", "-n", "team", "-A"].as_slice(),
            "the argument '--namespace <NAME>' cannot be used with '--all-namespaces'",
        ),
        (&["list", "--as-group", "team"], "the following required arguments were not provided:\n  --as <USER>"),
        (&["lsit"], "unrecognized subcommand 'lsit'\n\n  tip: a similar subcommand exists: 'list'"),
        (&["list", "office"], "unexpected argument 'office' found"),
        (&["list", "-n", "Team_A"], "a namespace has 1 to 63 lower-case letters, digits and inner hyphens"),
        (&["list", "--request-timeout", "soon"], "\"soon\" is no time such as 90d, 36h or 1d12h"),
        (
            &["list", "--color", "blue"],
            "invalid value 'blue' for '--color <WHEN>'\n  [possible values: auto, always, never]",
        ),
        (&["list", "-l", " "], "invalid value ' ' for '--selector <LABELS>': it is empty"),
        (&["revoke"], "the following required arguments were not provided:\n  <NAME>"),
        (&["revoke", "office", "--all"], "the argument '[NAME]...' cannot be used with '--all'"),
        (
            &["list", "-o", "jsonpath={.items[*].metadata.name}"],
            "there is table, wide, json, yaml and name; use json with jq, or kubectl get setupkeys.setupkey.dev -o jsonpath={.items[*].metadata.name}",
        ),
        (
            &["list", "-o", "xml"],
            "invalid value 'xml' for '--output <FORM>': there is table, wide, json, yaml and name\n",
        ),
    ] {
        let said = person.runs(words);
        assert!(said.fails().contains(sentence), "{words:?}: {said:?}");
    }
    // Without a verb, kubectl too shows what there is.
    let none = person.runs(&[]);
    assert_eq!((none.code, none.out.as_str()), (1, ""));
    assert!(none.err.contains("Usage: kubectl setupkey [OPTIONS] <COMMAND>\n\nCommands:\n  list "), "{none:?}");
    let help = person.runs(&["--help"]);
    assert!(help.ok().contains("Usage: kubectl setupkey [OPTIONS] <COMMAND>\n"), "{help:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_acts_with_the_rights_of_a_user_that_it_is_told_to_be() {
    let cluster = Cluster::for_test("plugin-as").await;
    let namespace = &cluster.namespace;
    cluster.apply("office", "");
    let person = Person::administrator(&cluster);
    let refused = |words: &[&str], right: &str, attempt: &str| {
        let sentence = format!(
            "could not {attempt}: ann may not {right} in namespace {namespace}; ask an administrator for that right"
        );
        assert_eq!(person.runs(&[words, &["--as", "ann"]].concat()).fails(), sentence);
    };
    let list = format!("list SetupKeys of namespace {namespace}");
    refused(&["list"], "list setupkeys.setupkey.dev", &list);
    refused(&["revoke", "--all"], "list setupkeys.setupkey.dev", &list);
    refused(&["revoke", "office"], "get setupkeys.setupkey.dev", &format!("read SetupKey {namespace}/office"));
    let names = person.runs(&["list", "-o", "name", "--as", "ann", "--as-group", "x", "--as-group", "system:masters"]);
    assert_eq!(names.ok(), "setupkey.setupkey.dev/office\n");
    // The words for the right depend on the version of Kubernetes.
    let guest = Person::with_rights(&cluster, "guest", &[]).runs(&["list", "--as", "ann"]);
    let sentence = format!("{list}: system:serviceaccount:{namespace}:guest may not impersonate");
    assert!(guest.fails().contains(&sentence), "{guest:?}");
}

/// The write end of a pipe whose reader is gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_ends_quietly_when_its_reader_is_gone() {
    let cluster = Cluster::for_test("plugin-pipe").await;
    cluster.apply("office", "");
    let person = Person::administrator(&cluster);
    for words in
        [["list"].as_slice(), &["list", "-o", "json"], &["version", "-o", "yaml"], &["completion", "bash"], &["--help"]]
    {
        let mut command = person.kubectl();
        let output = command.arg("setupkey").args(words).stdout(closed()).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
            (Some(0), ""),
            "{words:?}"
        );
    }
    // Without a place for words, the exit code still tells.
    for (words, code) in [
        (["list", "-n", "team"].as_slice(), 0),
        (&["list", "--as", "guest"], 1),
        (&["lsit"], 1),
        (&["revoke", "none"], 1),
    ] {
        let mut command = person.kubectl();
        let status = command.arg("setupkey").args(words).stdout(Stdio::null()).stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{words:?}");
    }
    // A disk that is full is another matter.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = person.kubectl();
    let output = command.args(["setupkey", "list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = "error: the output cannot be written: No space left on device (os error 28)\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), error);
}

/// Runs the command on a terminal with so many columns, and returns what it shows.
fn on_a_terminal(mut command: Command, columns: u16) -> String {
    let (mut ours, program) = terminal();
    tcsetwinsize(&program, Winsize { ws_row: 10, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut child = command
        .env("TERM", "xterm-256color")
        .stdin(program.try_clone().unwrap())
        .stdout(program.try_clone().unwrap())
        .stderr(program)
        .spawn()
        .unwrap();
    drop(command);
    let mut shown = Vec::new();
    // Once the last program has closed it, a terminal ends with an error.
    let _ = ours.read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

fn without_colours(text: &str) -> String {
    regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap().replace_all(text, "").into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_shows_the_same_on_any_terminal() {
    let cluster = Cluster::for_test("plugin-terminal").await;
    issued(&cluster, "kiosks", json!({ "usageLimit": 50 }), json!({ "usedTimes": 50 })).await;
    issued(&cluster, "office", json!({}), json!({ "usedTimes": 7, "expires": ahead(TimeDelta::days(90)) })).await;
    let person = Person::administrator(&cluster);
    let list = || {
        let mut command = person.kubectl();
        command.args(["setupkey", "list"]);
        command
    };
    let piped = person.runs(&["list"]).ok().to_owned();
    assert!(!piped.contains('\u{1b}') && piped.lines().next().unwrap().len() > 40, "{piped:?}");
    let coloured = person.runs(&["list", "--color", "always"]).ok().to_owned();
    assert!(coloured.contains("\u{1b}[31moverused\u{1b}[0m"), "{coloured:?}");
    assert_eq!(without_colours(&coloured), piped);
    for columns in [0, 40, 200] {
        assert_eq!(on_a_terminal(list(), columns), coloured, "{columns} columns");
    }
    for (variable, value) in [("NO_COLOR", "1"), ("CLICOLOR", "0")] {
        let mut command = list();
        command.env(variable, value);
        assert_eq!(on_a_terminal(command, 40), piped, "{variable}={value}");
    }
    let mut dumb = Command::new("env");
    dumb.args(["TERM=dumb", "CI=true", "kubectl", "setupkey", "list"]);
    let plain = list();
    let tools = std::path::Path::new(plain.get_program()).parent().unwrap().to_owned();
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) if name == "PATH" => {
                let folders = [tools.clone()].into_iter().chain(std::env::split_paths(value));
                dumb.env(name, std::env::join_paths(folders).unwrap())
            }
            Some(value) => dumb.env(name, value),
            None => dumb.env_remove(name),
        };
    }
    assert_eq!(on_a_terminal(dumb, 40), piped, "TERM=dumb");
    // The flag is stronger than the variables.
    let mut forced = list();
    forced.env("NO_COLOR", "1").args(["--color", "always"]);
    assert_eq!(Said::by(&mut forced).ok(), coloured);
    let mut never = list();
    never.args(["--color", "never"]);
    assert_eq!(on_a_terminal(never, 40), piped);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_list_of_a_thousand_keys_is_whole() {
    let cluster = Cluster::for_test("plugin-many").await;
    let create = |number: usize| {
        let keys = cluster.keys();
        let key = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "name": format!("key-{number:04}"), "labels": { "half": (number % 2).to_string() } }, "spec": {},
        });
        async move { keys.create(&PostParams::default(), &serde_json::from_value(key).unwrap()).await }
    };
    stream::iter(0..MANY).map(create).buffer_unordered(16).try_for_each(async |_| Ok(())).await.unwrap();
    let person = Person::administrator(&cluster);
    let names: String = (0..MANY).map(|number| format!("setupkey.setupkey.dev/key-{number:04}\n")).collect();
    assert_eq!(person.runs(&["list", "-o", "name"]).ok(), names);
    assert_eq!(person.runs(&["list", "--no-headers"]).ok().lines().count(), MANY);
    let half: Value = person.runs(&["list", "-o", "json", "-l", "half=1"]).json();
    assert_eq!(half["keys"].as_array().unwrap().len(), MANY / 2);
    // What does not fit into a pipe is broken off without a word.
    let mut head = Command::new("bash");
    let plain = person.kubectl();
    head.args(["-c", "\"$0\" setupkey list -o json | head -c1; echo \"${PIPESTATUS[@]}\""]).arg(plain.get_program());
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            head.env(name, value);
        }
    }
    assert_eq!(Said::by(&mut head).ok(), "{0 0\n");
}
