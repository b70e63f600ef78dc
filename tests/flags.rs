//! A wrong value of a flag or a variable ends the program at the start, with a message that names it.
//!
//! The real program runs with each value. A value that is accepted shows as a process that does not end with the expected
//! code in time.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use control_plane::tie_to_this_thread;
use regex::Regex;
use tempfile::TempDir;

/// Exit code: the command line is wrong.
const USAGE: i32 = 2;
/// Exit code: what the command line names does not work.
const FAILURE: i32 = 1;

/// How long a process may take to end, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A flag of a subcommand, the variable that it can come from, and values that both must refuse.
struct Row(&'static [&'static str], &'static str, Option<&'static str>, &'static [&'static str]);

const CONTROLLER: &str = "controller";
const ENROLLMENT: &str = "enrollment";
const API: &str = "api";
const ENROLL: &str = "enroll";
const CRDS: &str = "crds";

const SERVICES: &[&str] = &[CONTROLLER, ENROLLMENT, API];
const NAMESPACES: &[&str] = &["", " ", ",", "team-a,", ",team-a", "a,,b", "a, ,b", "Not_A_Name", "a b", "-a", "a/b"];
const NAMESPACE: &[&str] = &["", " ", "team-a,", "a,b", "Not_A_Name", "-a", "*"];
const ADDRESS: &[&str] = &["", " ", "8080", ":8080", "0.0.0.0", "0.0.0.0:65536", "0.0.0.0:8080,", "localhost:8080"];
const LIFETIME: &[&str] =
    &["", " ", "10", "10m,", "ten", "0", "30s", "-10m", "30d", "99999999999999999999h", "9999999h"];
const NUMBER: &[&str] = &["", " ", "-1", "10,", "ten", "1.5", "99999999999999999999"];
const WORD: &[&str] = &["", " ", "json,", "nonsense"];
const LOG: &[&str] =
    &["", " ", ",", "info,", "info,,kube=warn", "nonsense", "info,kube", "kube=loud", "=info", "kube="];
const PATH: &[&str] = &["", " "];

const ROWS: &[Row] = &[
    Row(&[CONTROLLER, ENROLLMENT], "--namespace", Some("SETUPKEY_NAMESPACES"), NAMESPACES),
    Row(&[API], "--namespace", Some("POD_NAMESPACE"), NAMESPACE),
    Row(&[CONTROLLER], "--leader-election-namespace", Some("POD_NAMESPACE"), NAMESPACE),
    Row(
        &[CONTROLLER],
        "--leader-election-name",
        None,
        &["", " ", "Not_A_Name", "a,b", "a b", "-a", "a/b", "a..b", ".a", "a."],
    ),
    Row(SERVICES, "--health-address", None, ADDRESS),
    Row(&[ENROLLMENT, API], "--address", None, ADDRESS),
    Row(&[ENROLLMENT, API], "--tls-cert", None, PATH),
    Row(&[ENROLLMENT, API], "--tls-key", None, PATH),
    Row(&[CONTROLLER], "--metrics-max-keys", None, NUMBER),
    Row(&[CONTROLLER, ENROLLMENT], "--peer-lifetime", None, LIFETIME),
    Row(
        &[CONTROLLER],
        "--authority-hosts",
        Some("SETUPKEY_AUTHORITY_HOSTS"),
        &[
            "",
            " ",
            "https://netbird.example.com",
            "netbird.example.com:443",
            "*",
            "a b",
            "10.1.2.3/8",
            "127.1",
            "a,,b",
            "-a",
        ],
    ),
    Row(&[ENROLLMENT], "--failures-per-minute", None, NUMBER),
    Row(&[ENROLLMENT], "--owner-time", None, &["", " ", "-1", "0", "ten", "3600"]),
    Row(&[API], "--issue-timeout", None, &["", " ", "-1", "0", "61", "10,", "ten"]),
    Row(&[CONTROLLER, ENROLLMENT, API, ENROLL], "--log-format", None, WORD),
    Row(&[CONTROLLER, ENROLLMENT, API, ENROLL], "--log", Some("RUST_LOG"), LOG),
    Row(
        &[ENROLL],
        "--server",
        None,
        &[
            "",
            " ",
            "nonsense",
            "enroll.example.com",
            "ftp://enroll.example.com",
            "https://",
            "https://:443",
            "https://enroll.example.com:70000",
            "https://enroll.example.com,",
            "https://user:password@enroll.example.com",
            "https://enroll.example.com/?a=b",
        ],
    ),
    Row(&[ENROLL], "--key-file", None, PATH),
    Row(&[ENROLL], "--state-file", None, PATH),
    Row(&[ENROLL], "--ca-file", None, PATH),
    // What is wrong with a hostname is a failure, as with that of the system. The tests of enrollment have the values.
    Row(&[ENROLL], "--hostname", Some("HOSTNAME"), &[]),
    Row(&[ENROLL], "--extra-dns-label", None, &["", " ", "db,", "a,b", "Db", "-db", "a.b"]),
    Row(&[ENROLL], "--heartbeat", None, &["", " ", "10", "1m,", "ten", "0", "10ms", "-1m", "99999999999999999999h"]),
    Row(&[ENROLL], "--leave", None, WORD),
    Row(&[CRDS], "--folder", None, PATH),
];

/// A folder with a key file and a kubeconfig for an address where no API server listens.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.file("key", "563A1F41-DB48-43E6-B871-0EF6B9304390\n");
        let kubeconfig = "{apiVersion: v1, kind: Config, current-context: c, \
            clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}], \
            users: [{name: c, user: {}}], contexts: [{name: c, context: {cluster: c, user: c}}]}";
        place.file("kubeconfig", kubeconfig);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The subcommand with all that it needs, except for the flag that the test sets.
    fn command(&self, subcommand: &str, without: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_setupkey-operator"));
        tie_to_this_thread(&mut command).arg(subcommand).env("KUBECONFIG", self.path("kubeconfig"));
        for variable in ROWS.iter().filter_map(|row| row.2) {
            command.env_remove(variable);
        }
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let needed: Vec<(&str, String)> = match subcommand {
            CONTROLLER => vec![("--health-address", "127.0.0.1:0".to_owned())],
            ENROLLMENT | API => {
                vec![("--health-address", "127.0.0.1:0".to_owned()), ("--address", "127.0.0.1:0".to_owned())]
            }
            ENROLL => vec![
                ("--server", "http://127.0.0.1:9".to_owned()),
                ("--key-file", path("key")),
                ("--state-file", path("state")),
            ],
            _ => vec![],
        };
        for (flag, value) in needed.iter().filter(|(flag, _)| *flag != without) {
            command.arg(format!("{flag}={value}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// Complains unless the program ends with this code and a message with all these texts.
fn complaint(what: &str, mut command: Command, code: i32, texts: &[&str]) -> Option<String> {
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return Some(format!("{what}: accepted"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(code) && texts.iter().all(|text| message.contains(text)) {
        return None;
    }
    Some(format!("{what}: {}, {}", output.status, message.trim()))
}

/// Checks all cases, a few at a time, and fails with all complaints.
fn check<T: Send>(cases: Vec<T>, check: impl Fn(T) -> Option<String> + Sync) {
    let share = cases.len().div_ceil(32);
    let mut cases = cases.into_iter();
    let complaints: Vec<_> = thread::scope(|scope| {
        let mut threads = Vec::new();
        loop {
            let part: Vec<_> = cases.by_ref().take(share).collect();
            if part.is_empty() {
                break;
            }
            threads.push(scope.spawn(|| part.into_iter().filter_map(&check).collect::<Vec<_>>()));
        }
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn a_wrong_value_is_refused_with_the_name_of_its_flag() {
    let place = Place::new();
    let cases: Vec<_> = ROWS
        .iter()
        .flat_map(|Row(subcommands, flag, _, values)| {
            subcommands.iter().flat_map(move |subcommand| values.iter().map(move |value| (*subcommand, *flag, *value)))
        })
        .collect();
    check(cases, |(subcommand, flag, value)| {
        let mut command = place.command(subcommand, flag);
        command.arg(format!("{flag}={value}"));
        match flag {
            "--tls-cert" => command.arg("--tls-key=key.pem"),
            "--tls-key" => command.arg("--tls-cert=cert.pem"),
            _ => &mut command,
        };
        complaint(&format!("{subcommand} {flag}={value:?}"), command, USAGE, &[flag])
    });
}

#[test]
fn a_wrong_value_of_a_variable_is_refused_with_its_name_and_that_of_the_flag() {
    let place = Place::new();
    let cases: Vec<_> = ROWS
        .iter()
        .filter_map(|Row(subcommands, flag, variable, values)| Some((subcommands, flag, (*variable)?, values)))
        .flat_map(|(subcommands, flag, variable, values)| {
            subcommands
                .iter()
                .flat_map(move |subcommand| values.iter().map(move |value| (*subcommand, *flag, variable, *value)))
        })
        .collect();
    check(cases, |(subcommand, flag, variable, value)| {
        let mut command = place.command(subcommand, flag);
        command.env(variable, value);
        complaint(&format!("{subcommand} {variable}={value:?}"), command, USAGE, &[flag, variable])
    });
}

#[test]
fn a_file_that_is_missing_or_holds_nothing_of_use_is_named_with_its_flag() {
    let place = Place::new();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let good_cert = place.file("good.crt", certificate.cert.pem());
    let good_key = place.file("good.key", certificate.signing_key.serialize_pem());
    let folder = place.0.path().to_str().unwrap().to_owned();
    let missing = place.path("missing").to_str().unwrap().to_owned();
    let useless = [place.file("empty", ""), place.file("blank", " \n"), place.file("nonsense", [0xff; 2000]), folder];
    let all: Vec<_> = [&missing].into_iter().chain(&useless).collect();
    let mut cases: Vec<(&str, &str, &str, Option<String>)> = Vec::new();
    for path in &all {
        for subcommand in [ENROLLMENT, API] {
            cases.push((subcommand, "--tls-cert", path, Some(format!("--tls-key={good_key}"))));
            cases.push((subcommand, "--tls-key", path, Some(format!("--tls-cert={good_cert}"))));
        }
        cases.push((ENROLL, "--key-file", path, None));
        cases.push((ENROLL, "--ca-file", path, None));
        if **path != missing {
            cases.push((ENROLL, "--state-file", path, None));
        }
    }
    let nowhere = place.path("missing/state").to_str().unwrap().to_owned();
    cases.push((ENROLL, "--state-file", &nowhere, None));
    cases.push((CRDS, "--folder", &missing, None));
    check(cases, |(subcommand, flag, path, also)| {
        let mut command = place.command(subcommand, flag);
        command.arg(format!("{flag}={path}")).args(also);
        complaint(&format!("{subcommand} {flag}={path}"), command, FAILURE, &[flag, path])
    });
}

/// A program that cannot use the kubeconfig it was given must not work in the cluster in which it runs instead.
#[test]
fn a_kubeconfig_that_cannot_be_used_is_named_with_its_variable() {
    let place = Place::new();
    let missing = place.path("missing").to_str().unwrap().to_owned();
    let paths = [missing, place.file("empty", ""), place.file("nonsense", "nonsense"), place.file("bytes", [0xff; 9])];
    let cases = SERVICES.iter().flat_map(|subcommand| paths.iter().map(move |path| (*subcommand, path)));
    check(cases.collect(), |(subcommand, path)| {
        let mut command = place.command(subcommand, "");
        command.env("KUBECONFIG", path);
        complaint(&format!("{subcommand} KUBECONFIG={path}"), command, FAILURE, &["KUBECONFIG", path])
    });
}

#[test]
fn a_proxy_that_cannot_be_used_is_named_with_its_variable_and_without_its_text() {
    let place = Place::new();
    let good =
        fs::read_to_string(place.path("kubeconfig")).unwrap().replace("http://127.0.0.1:9", "https://kube.invalid");
    let direct = place.file("direct", &good);
    let proxied = good.replace("server:", "proxy-url: 'ftp://user:hush@proxy', server:");
    let proxied = place.file("proxied", proxied);
    let cases =
        SERVICES.iter().flat_map(|service| [(*service, &direct, "HTTPS_PROXY"), (*service, &proxied, "proxy-url")]);
    check(cases.collect(), |(subcommand, path, name)| {
        let mut command = place.command(subcommand, "");
        command.env("KUBECONFIG", path).env("HTTPS_PROXY", "ftp://user:hush@proxy");
        let texts = ["KUBECONFIG", path.as_str(), name, "socks5://"];
        let quoted =
            place.command(subcommand, "").env("KUBECONFIG", path).env("HTTPS_PROXY", "ftp://user:hush@p").output();
        let is_quoted = String::from_utf8_lossy(&quoted.unwrap().stderr).contains("hush");
        complaint(&format!("{subcommand} {name}"), command, FAILURE, &texts)
            .or_else(|| is_quoted.then(|| format!("{subcommand} {name}: the password is quoted")))
    });
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_value_counts() {
    let place = Place::new();
    let mut command = place.command(ENROLLMENT, "");
    command.args([
        "--tls-cert=/first",
        "--tls-key=/none",
        "--tls-cert=/none",
        "--log-format=text",
        "--log-format=json",
    ]);
    assert_eq!(complaint("enrollment", command, FAILURE, &["--tls-cert", "/none"]), None);
    // A flag that takes several values still takes them all.
    let mut command = place.command(CONTROLLER, "");
    command.args(["--namespace=team-a", "--namespace=Team_B", "--namespace=team-c"]);
    assert_eq!(complaint("controller", command, USAGE, &["--namespace", "Team_B"]), None);
}

/// The namespace of a kubeconfig is a value too. As with kubectl, an empty one is the namespace default.
#[test]
fn a_kubeconfig_with_a_wrong_namespace_is_refused() {
    let place = Place::new();
    let good = fs::read_to_string(place.path("kubeconfig")).unwrap();
    check(vec!["' '", "Not_A_Name"], |namespace| {
        let name = format!("kubeconfig{}", namespace.len());
        let path = place.file(&name, good.replace("user: c}}", &format!("user: c, namespace: {namespace}}}}}")));
        let mut command = place.command(API, "");
        command.env("KUBECONFIG", path);
        complaint(&format!("namespace: {namespace}"), command, FAILURE, &["--namespace"])
    });
}

#[test]
fn each_flag_that_takes_a_value_has_a_row() {
    let flag = Regex::new(r"(?m)^ +(--[a-z-]+) <").unwrap();
    let variable = Regex::new(r"\[env: ([A-Z_]+)=").unwrap();
    for subcommand in [CONTROLLER, ENROLLMENT, API, ENROLL, CRDS] {
        let mut command = Place::new().command(subcommand, "");
        let output = command.arg("--help").stdout(Stdio::piped()).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let rows = || ROWS.iter().filter(|row| row.0.contains(&subcommand));
        let shown =
            |pattern: &Regex| pattern.captures_iter(&help).map(|found| found[1].to_owned()).collect::<BTreeSet<_>>();
        // A flag that the help does not show.
        let flags = rows().map(|row| row.1.to_owned()).filter(|flag| flag != "--owner-time");
        assert_eq!(shown(&flag), flags.collect(), "{subcommand}");
        assert_eq!(shown(&variable), rows().filter_map(|row| row.2).map(str::to_owned).collect(), "{subcommand}");
    }
}

#[test]
fn blanks_around_a_value_do_not_count() {
    // Each process gets as far as a file that is missing.
    let place = Place::new();
    let mut command = place.command(ENROLL, "--key-file");
    command
        .args(["--key-file=/none", "--hostname= ada ", "--extra-dns-label= db "])
        .env("RUST_LOG", " info , kube=warn ");
    assert_eq!(complaint("enroll", command, FAILURE, &["--key-file", "/none"]), None);
    let mut command = place.command(ENROLLMENT, "");
    command.args(["--namespace= team-a , team-b ", "--tls-cert=/none", "--tls-key=/none"]);
    assert_eq!(complaint("enrollment", command, FAILURE, &["--tls-cert", "/none"]), None);
    assert!(Path::new("/none").metadata().is_err());
}
