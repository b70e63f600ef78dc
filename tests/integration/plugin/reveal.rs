use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
};

use chrono::TimeDelta;
use serde_json::json;

use super::{Person, Said, ago, issued, secret, terminal};
use crate::harness::{Cluster, any_key};

const GET_KEYS: (&str, &str) = ("get", "setupkeys.setupkey.dev");
const GET_SECRETS: (&str, &str) = ("get", "secrets");

/// The key `office` of the cluster itself, with its Secret.
async fn office(cluster: &Cluster, status: serde_json::Value) -> String {
    let spec = json!({ "usageLimit": 7, "secret": { "name": "netbird-setup-key" } });
    let value = issued(cluster, "office", spec, status).await;
    secret(cluster, "netbird-setup-key", "setup-key", &value).await;
    value
}

/// The key `vpn` at an authority that is not there, with its Secret.
async fn vpn(cluster: &Cluster, status: serde_json::Value) -> String {
    let spec = json!({
        "authorityRef": { "name": "netbird" }, "secret": { "key": "key", "managementUrlKey": "NB_MANAGEMENT_URL" },
    });
    let value = issued(cluster, "vpn", spec, status).await;
    secret(cluster, "vpn", "key", &value).await;
    value
}

fn authority(cluster: &Cluster, agent_url: &str) {
    let authority = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
        "spec": { "netbird": {
            "url": "https://netbird.example.com", "agentUrl": agent_url, "tokenSecretRef": { "name": "token" },
        } },
    });
    cluster.kubectl_ok(&["apply", "-f", "-"], &authority.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_reveal_prints_the_key_alone_or_for_an_env_file() {
    let cluster = Cluster::for_test("plugin-reveal").await;
    let value = office(&cluster, json!({})).await;
    let person = Person::with_rights(&cluster, "revealer", &[GET_KEYS, GET_SECRETS]);
    assert!(person.runs(&["reveal", "office"]).ok() == format!("{value}\n"), "not the key alone");
    assert!(person.runs(&["reveal", "office", "-o", "key"]).ok() == format!("{value}\n"));
    assert!(person.runs(&["reveal", "office", "-o", "env"]).ok() == format!("NB_SETUP_KEY={value}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_reveal_of_a_key_at_netbird_adds_the_url_that_agents_join_at() {
    let cluster = Cluster::for_test("plugin-reveal-url").await;
    let value = vpn(&cluster, json!({})).await;
    let key = format!("NB_SETUP_KEY={value}\n");
    let account = format!("system:serviceaccount:{}:revealer", cluster.namespace);
    let person = Person::with_rights(&cluster, "revealer", &[GET_KEYS, GET_SECRETS]);
    let said = person.runs(&["reveal", "vpn", "-o", "env"]);
    let namespace = &cluster.namespace;
    let why = format!(
        "NB_MANAGEMENT_URL is left out, because the URL is not known: could not read Authority {namespace}/netbird: {account} may not get authorities.setupkey.dev in namespace {namespace}; ask an administrator for that right\n"
    );
    assert!(said.code == 0 && said.out == key, "not the key alone");
    assert_eq!(said.err, why);

    authority(&cluster, "https://agents.example.com");
    let reader = Person::administrator(&cluster);
    let with_url = |url: &str| format!("{key}NB_MANAGEMENT_URL={url}\n");
    let said = reader.runs(&["reveal", "vpn", "-o", "env"]);
    assert!(said.ok() == with_url("https://agents.example.com"), "not the key and the URL");
    // What the Secret holds beside the key is known without the authority.
    let reference = json!({
        "name": "vpn", "key": "key", "resourceVersion": "1", "managementUrlKey": "NB_MANAGEMENT_URL",
        "managementUrl": "https://status.example.com",
    });
    cluster.patch_status("vpn", json!({ "secret": reference })).await;
    let said = person.runs(&["reveal", "vpn", "-o", "env"]);
    assert!(said.ok() == with_url("https://status.example.com"), "not the key and the URL");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_reveal_warns_of_a_key_that_admits_no_machine() {
    let cluster = Cluster::for_test("plugin-reveal-state").await;
    let value = office(&cluster, json!({})).await;
    let person = Person::administrator(&cluster);
    for (state, status) in [
        ("overused", json!({ "usedTimes": 7 })),
        ("expired", json!({ "expires": ago(TimeDelta::days(1)), "usedTimes": 0 })),
    ] {
        cluster.patch_status("office", status).await;
        let said = person.runs(&["reveal", "office"]);
        let warning = format!("warning: SetupKey {}/office is {state}: no machine joins with it\n", cluster.namespace);
        assert_eq!((said.code, said.out == format!("{value}\n"), said.err), (0, true, warning));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_reveal_says_why_there_is_no_key_to_print() {
    let cluster = Cluster::for_test("plugin-reveal-errors").await;
    let namespace = cluster.namespace.clone();
    let person = Person::administrator(&cluster);
    let fails = |name: &str| person.runs(&["reveal", name]).fails().to_owned();

    assert!(fails("offcie").starts_with(&format!("there is no SetupKey {namespace}/offcie")));
    cluster.apply("new", "");
    let expected =
        format!("SetupKey {namespace}/new has no key yet: the operator has not reported yet (is it running?)");
    assert_eq!(fails("new"), expected);
    let conditions = json!([{
        "type": "Ready", "status": "False", "reason": "SecretConflict", "message": "Secret new has another owner.",
        "lastTransitionTime": ago(TimeDelta::zero()),
    }]);
    cluster.patch_status("new", json!({ "conditions": conditions })).await;
    assert_eq!(fails("new"), format!("SetupKey {namespace}/new has no key yet: Secret new has another owner."));

    issued(&cluster, "office", json!({}), json!({})).await;
    let what = |found: &str| {
        format!(
            "Secret {namespace}/office, which is to hold the key of SetupKey {namespace}/office, {found}: the operator is about to repair it; try again in a moment"
        )
    };
    assert_eq!(fails("office"), what("does not exist"));
    let other = any_key();
    secret(&cluster, "office", "other", &other).await;
    assert_eq!(fails("office"), what("has no data key setup-key"));
    cluster.patch_secret("office", json!({ "stringData": { "setup-key": other } })).await;
    assert!(fails("office") == what("holds another value"), "the sentence is another one");

    let reader = Person::with_rights(&cluster, "reader", &[("list", "setupkeys.setupkey.dev")]);
    let expected = format!(
        "could not read Secret {namespace}/office: system:serviceaccount:{namespace}:reader may not get secrets in namespace {namespace}; ask an administrator for that right"
    );
    assert_eq!(reader.runs(&["reveal", "office"]).fails(), expected);
    let forms = person.runs(&["reveal", "office", "-o", "json"]);
    assert!(forms.code == 1 && forms.err.contains("there is key and env"), "{forms:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_reveal_ends_quietly_at_a_closed_pipe_and_tells_of_a_full_disk() {
    let cluster = Cluster::for_test("plugin-reveal-pipe").await;
    let value = office(&cluster, json!({})).await;
    let person = Person::administrator(&cluster);
    let run = |out: OwnedFd| {
        let mut command = person.kubectl();
        command.args(["setupkey", "reveal", "office"]).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()), (Some(0), String::new()));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (code, said) = run(full.into());
    assert!(!said.contains(&value[6..]), "the key is in the error");
    let begins = said.starts_with("error: the output cannot be written: No space left on device");
    assert!(code == Some(1) && begins && said.lines().count() == 1, "{said}");
}

/// A rotation writes the Secret first.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_reveal_waits_until_the_status_has_followed_the_secret() {
    let cluster = Cluster::for_test("plugin-reveal-rotation").await;
    office(&cluster, json!({})).await;
    let next = any_key();
    cluster.patch_secret("netbird-setup-key", json!({ "stringData": { "setup-key": next } })).await;
    let person = Person::administrator(&cluster);
    let revealing = tokio::task::spawn_blocking(move || person.runs(&["reveal", "office"]));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    cluster.patch_status("office", json!({ "digest": crate::harness::digest(&next) })).await;
    assert!(revealing.await.unwrap().ok() == format!("{next}\n"), "not the next key");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_reveal_on_a_terminal_says_that_the_key_is_visible() {
    let cluster = Cluster::for_test("plugin-reveal-terminal").await;
    let value = office(&cluster, json!({})).await;
    let (mut ours, theirs) = terminal();
    let person = Person::administrator(&cluster);
    let mut command = person.kubectl();
    command.args(["setupkey", "reveal", "office"]);
    let child = command.stdin(Stdio::null()).stdout(theirs).stderr(Stdio::piped()).spawn().unwrap();
    // The command holds the other end, too.
    drop(command);
    let output = child.wait_with_output().unwrap();
    let mut shown = [0; 256];
    let read = ours.read(&mut shown).unwrap();
    assert!(shown[..read] == *format!("{value}\r\n").as_bytes(), "the terminal shows something else than the key");
    let note = format!(
        "The key is visible, and stays in the scrollback of this terminal. To keep it out: (umask 077 && kubectl setupkey reveal office -n {} > setup-key)\n",
        cluster.namespace
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), note);
}

/// What every verb prints with every form, and all command lines of this machine while it runs, hold no key.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_prints_a_key_only_where_it_is_asked_for() {
    let cluster = Cluster::for_test("plugin-leaks").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "secret: {key: key}");
    cluster.ready("office").await;
    let person = Person::administrator(&cluster);
    let help = person.runs(&["--help"]).ok().to_owned();
    let verbs: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for verb in ["list", "revoke", "reveal", "join", "peers", "events"] {
        assert!(verbs.contains(&verb), "{verbs:?}");
    }
    let joins = ["docker", "linux", "windows", "kubernetes", "cloud-init"].map(|target| {
        ["join", "office", "--server", "https://enroll.example.com", "--for", target].map(str::to_owned).to_vec()
    });
    let forms: [&[&str]; 4] = [&[], &["-o", "json"], &["-o", "yaml"], &["-o", "wide"]];
    let plain = verbs.iter().flat_map(|verb| {
        forms.map(|form| [&[*verb, "office"], form].concat().into_iter().map(str::to_owned).collect::<Vec<_>>())
    });
    let env = ["reveal", "office", "-o", "env"].map(str::to_owned).to_vec();
    let loud = ["reveal", "office", "-v=9"].map(str::to_owned).to_vec();
    let shows = ["join", "office", "--server", "https://a.example.com", "--show-key", "--for", "linux"];
    let commands: Vec<_> = plain.chain(joins).chain([env, loud, shows.map(str::to_owned).to_vec()]).collect();

    let mut keys = BTreeSet::from([cluster.value("office", "key").await]);
    let over = AtomicBool::new(false);
    let mut shown = 0;
    let seen = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                seen.append(&mut command_lines());
            }
            seen
        });
        let mut run = || {
            for arguments in &commands {
                let mut command = person.kubectl();
                command.arg("setupkey").args(arguments).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
                let said = Said::by(&mut command);
                let value = tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(cluster.value("office", "key"))
                });
                keys.insert(value);
                let holds = |text: &str| keys.iter().any(|key| text.contains(&key[6..]));
                assert!(!holds(&said.err), "{arguments:?} has a key on stderr");
                let asked = arguments[0] == "reveal" || arguments.iter().any(|argument| argument == "--show-key");
                assert!(asked || !holds(&said.out), "{arguments:?} has a key on stdout");
                shown += usize::from(holds(&said.out));
            }
        };
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut run));
        over.store(true, Ordering::Relaxed);
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        watching.join().unwrap()
    });
    assert!(shown >= 3, "the key was shown {shown} times: the search finds nothing");
    assert!(seen.iter().any(|line| line.contains("setupkey\0reveal")), "the command lines were not seen");
    assert!(!keys.iter().any(|key| seen.iter().any(|line| line.contains(&key[6..]))), "a key is on a command line");
    operator.stop().await;
}

/// The command lines of all processes now.
fn command_lines() -> BTreeSet<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("cmdline")));
    processes.filter_map(|path| Some(String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned())).collect()
}
