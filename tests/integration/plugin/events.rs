use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use chrono::{SecondsFormat, TimeDelta, Utc};
use control_plane::tie_to_this_thread;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{Person, issued};
use crate::harness::Cluster;

/// Longer than a busy machine needs to print a line.
const PATIENCE: Duration = Duration::from_secs(60);

fn moment(span: TimeDelta) -> String {
    (Utc::now() - span).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// An event about a key, so long ago.
async fn event(cluster: &Cluster, key: &str, reason: &str, span: TimeDelta, changes: Value) -> Event {
    let uid = cluster.keys().get(key).await.ok().and_then(|key| key.metadata.uid);
    let mut event = json!({
        "metadata": { "generateName": "event-" }, "eventTime": moment(span), "type": "Normal", "action": "Reconcile",
        "reason": reason, "note": format!("{reason}."), "reportingController": "setupkey-operator",
        "reportingInstance": "test",
        "regarding": {
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "namespace": cluster.namespace, "name": key,
            "uid": uid,
        },
    });
    json_patch::merge(&mut event, &changes);
    let event = serde_json::from_value(event).unwrap();
    events(cluster).create(&PostParams::default(), &event).await.expect("a created event")
}

fn events(cluster: &Cluster) -> Api<Event> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_events_are_shown_the_oldest_first() {
    let cluster = Cluster::for_test("plugin-events").await;
    issued(&cluster, "office", json!({}), json!({})).await;
    issued(&cluster, "kiosks", json!({}), json!({})).await;
    let slow = TimeDelta::seconds(30);
    event(
        &cluster,
        "office",
        "Rotated",
        TimeDelta::days(2) + slow,
        json!({ "note": "revision 2\u{1b}[31m is issued" }),
    )
    .await;
    event(&cluster, "office", "Issued", TimeDelta::days(50) + slow, json!({})).await;
    let series = json!({ "count": 3, "lastObservedTime": moment(TimeDelta::minutes(7) + slow) });
    let changes = json!({ "type": "Warning", "series": series });
    event(&cluster, "office", "SecretConflict", TimeDelta::days(3), changes).await;
    event(&cluster, "kiosks", "Issued", TimeDelta::days(1), json!({})).await;
    let theirs = json!({ "regarding": { "apiVersion": "netbird.io/v1alpha1" } });
    event(&cluster, "office", "Theirs", TimeDelta::days(1), theirs).await;

    let rights = [("get", "setupkeys.setupkey.dev"), ("list", "events.events.k8s.io")];
    let person = Person::with_rights(&cluster, "reader", &rights);
    let said = person.runs(&["events", "office"]);
    let expected = [
        ["LAST SEEN", "TYPE", "REASON", "COUNT", "MESSAGE"],
        ["50d", "Normal", "Issued", "1", "Issued."],
        ["2d", "Normal", "Rotated", "1", "revision 2\\u{1b}[31m is issued"],
        ["7m", "Warning", "SecretConflict", "3", "SecretConflict."],
    ];
    assert_eq!(said.cells(), expected);
    let json = person.runs(&["events", "office", "-o", "json"]).json();
    let reasons: Vec<_> = json["events"].as_array().unwrap().iter().map(|event| &event["reason"]).collect();
    assert_eq!(reasons, ["Issued", "Rotated", "SecretConflict"]);
    let yaml: Value = serde_yaml::from_str(person.runs(&["events", "office", "-o", "yaml"]).ok()).unwrap();
    assert_eq!(yaml, json);
    let names = person.runs(&["events", "office", "-o", "name"]);
    assert!(names.ok().lines().count() == 3 && names.ok().starts_with("event.events.k8s.io/event-"), "{names:?}");
    let coloured = person.runs(&["events", "office", "--color", "always"]);
    assert!(coloured.ok().contains("\u{1b}[33mWarning\u{1b}[0m"), "{coloured:?}");
    assert_eq!(coloured.ok().replace("\u{1b}[33m", "").replace("\u{1b}[0m", ""), said.out);
    let wide = person.runs(&["events", "office", "-o", "wide", "--no-headers"]);
    assert_eq!(wide.cells()[2], ["7m", "Warning", "SecretConflict", "3", "3d", "setupkey-operator", "SecretConflict."]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_events_of_the_operator_are_shown() {
    let cluster = Cluster::for_test("plugin-events-real").await;
    let operator = cluster.start_operator().await;
    cluster.apply("office", "");
    cluster.ready("office").await;
    let reasons: Vec<_> = events(&cluster).list(&Default::default()).await.unwrap().items;
    let first = match reasons.first().and_then(|event| event.reason.clone()) {
        Some(reason) => reason,
        None => cluster.event("office", "Issued").await.reason.unwrap(),
    };
    let said = Person::administrator(&cluster).runs(&["events", "office"]);
    assert!(said.cells().iter().any(|row| row.get(2) == Some(&first.as_str())), "{said:?}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_events_that_are_not_there_and_callers_who_may_not_see_them() {
    let cluster = Cluster::for_test("plugin-events-none").await;
    let namespace = &cluster.namespace;
    issued(&cluster, "office", json!({}), json!({})).await;
    let person = Person::administrator(&cluster);
    let said = person.runs(&["events", "office"]);
    let note = format!(
        "There are no events about SetupKey {namespace}/office. The API server keeps them for an hour, unless it is configured otherwise.\n"
    );
    assert_eq!((said.code, said.out.as_str(), said.err), (0, "", note));
    let lister = Person::with_rights(&cluster, "lister", &[("list", "setupkeys.setupkey.dev")]);
    let expected = format!(
        "could not list events of namespace {namespace}: system:serviceaccount:{namespace}:lister may not list events.events.k8s.io in namespace {namespace}; ask an administrator for that right"
    );
    assert_eq!(lister.runs(&["events", "office"]).fails(), expected);
    let both = [("list", "setupkeys.setupkey.dev"), ("list", "events.events.k8s.io")];
    let reader = Person::with_rights(&cluster, "reader", &both);
    let expected = format!(
        "could not watch events of namespace {namespace}: system:serviceaccount:{namespace}:reader may not watch events.events.k8s.io in namespace {namespace}; ask an administrator for that right"
    );
    assert_eq!(reader.runs(&["events", "office", "--watch"]).fails(), expected);
    for form in ["yaml", "name"] {
        let refused = person.runs(&["events", "office", "--watch", "-o", form]);
        assert_eq!(refused.fails(), "--watch prints a table or, with -o json, one line for each event");
    }
    assert!(
        person.runs(&["events", "offcie"]).fails().starts_with(&format!("there is no SetupKey {namespace}/offcie"))
    );

    // What is left of a deleted key, and of an earlier one of the same name.
    event(&cluster, "office", "Issued", TimeDelta::minutes(9), json!({})).await;
    cluster.kubectl_ok(&["delete", "setupkeys.setupkey.dev", "office"], "");
    let said = person.runs(&["events", "office", "--no-headers"]);
    let note = format!("SetupKey {namespace}/office is deleted. These are the events that are left of it.\n");
    assert_eq!((said.code, said.out.lines().count(), said.err), (0, 1, note));
    issued(&cluster, "office", json!({}), json!({})).await;
    let said = person.runs(&["events", "office", "--no-headers"]);
    let note = "Events about an earlier SetupKey of this name: 1.\n";
    assert_eq!((said.code, said.out.lines().count(), said.err.as_str()), (0, 1, note));
}

/// A running `kubectl setupkey events --watch`.
struct Watching {
    child: Child,
    lines: Receiver<String>,
    _folder: Person,
}

impl Watching {
    fn start(person: Person, arguments: &[&str]) -> Self {
        let mut command = person.kubectl();
        command.args(["setupkey", "events", "office", "--watch"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tie_to_this_thread(&mut command).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines, _folder: person }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    /// Ends it, and returns what it has said on stderr.
    fn end(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.child.wait().unwrap();
        std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap()
    }
}

fn lines_of(out: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines() {
            if line.is_err() || sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_events_with_watch_prints_each_new_one_once() {
    let cluster = Cluster::for_test("plugin-events-watch").await;
    issued(&cluster, "office", json!({}), json!({})).await;
    event(&cluster, "office", "SecretConflict", TimeDelta::minutes(9), json!({})).await;
    let watching = Watching::start(Person::administrator(&cluster), &[]);
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(watching.next())[..2], ["LAST", "SEEN"]);
    let first = watching.next();
    assert_eq!(words(first.clone())[2..], ["SecretConflict", "1", "SecretConflict."]);
    let issued = event(&cluster, "office", "Issued", TimeDelta::zero(), json!({})).await;
    let second = watching.next();
    assert_eq!(words(second.clone())[2..], ["Issued", "1", "Issued."]);
    // The columns go on.
    assert_eq!(first.find("SecretConflict."), second.find("Issued."));
    let series = json!({ "series": { "count": 2, "lastObservedTime": moment(TimeDelta::zero()) } });
    let (name, patch) = (issued.name_any(), Patch::Merge(series));
    events(&cluster).patch(&name, &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(words(watching.next())[2..], ["Issued", "2", "Issued."]);
    assert_eq!(watching.end(), "");

    let watching = Watching::start(Person::administrator(&cluster), &["-o", "json"]);
    let reasons = [watching.next(), watching.next()].map(|line| {
        let event: Value = serde_json::from_str(&line).unwrap();
        event["reason"].as_str().unwrap().to_owned()
    });
    assert_eq!(reasons, ["SecretConflict", "Issued"]);
    assert_eq!(watching.end(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_events_with_watch_ends_quietly_when_its_pipe_is_closed() {
    let cluster = Cluster::for_test("plugin-events-pipe").await;
    issued(&cluster, "office", json!({}), json!({})).await;
    event(&cluster, "office", "Issued", TimeDelta::minutes(9), json!({})).await;
    let person = Person::administrator(&cluster);
    let mut command = person.kubectl();
    command.args(["setupkey", "events", "office", "--watch"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tie_to_this_thread(&mut command).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert!(line.starts_with("LAST SEEN"), "{line}");
    drop(out);
    event(&cluster, "office", "Rotated", TimeDelta::zero(), json!({})).await;
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

/// A way to the API server whose connections can be cut.
struct Cable {
    address: SocketAddr,
    cut: Arc<watch::Sender<()>>,
}

impl Cable {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cut) = (listener.local_addr().unwrap(), Arc::new(watch::Sender::new(())));
        let cuts = Arc::clone(&cut);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let mut upstream = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut upstream) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_events_with_watch_goes_on_after_a_connection_that_broke() {
    let cluster = Cluster::for_test("plugin-events-cut").await;
    issued(&cluster, "office", json!({}), json!({})).await;
    event(&cluster, "office", "Issued", TimeDelta::minutes(9), json!({})).await;
    let mut server = None;
    Person::with(&cluster, |kubeconfig| {
        let url = kubeconfig["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
        server = Some(url.trim_start_matches("https://").parse().unwrap());
    });
    let cable = Cable::to(server.unwrap()).await;
    let person = Person::with(&cluster, |kubeconfig| {
        let entry = &mut kubeconfig["clusters"][0]["cluster"];
        entry["server"] = json!(format!("https://{}", cable.address));
        entry["tls-server-name"] = json!("127.0.0.1");
    });
    let watching = Watching::start(person, &["--no-headers"]);
    assert!(watching.next().ends_with("Issued."));
    event(&cluster, "office", "Rotated", TimeDelta::zero(), json!({})).await;
    assert!(watching.next().ends_with("Rotated."));
    cable.cut.send_replace(());
    event(&cluster, "office", "Revoked", TimeDelta::zero(), json!({})).await;
    assert!(watching.next().ends_with("Revoked."));
    let said = watching.end();
    assert!(said.lines().all(|line| line.starts_with("warning: the watch has failed")), "{said}");
}
