use std::{
    fs::File,
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use chrono::TimeDelta;
use control_plane::{netbird::Group as PeerGroup, tie_to_this_thread};
use serde_json::{Value, json};

use super::{PLUGIN, Person, Said, ago, issued, secret};
use crate::{
    enrollment::{Replica, machine::url},
    harness::{Cluster, eventually, kubectl, netbird::NetBird},
    netbird::world::World,
};

const SERVER: [&str; 2] = ["--server", "https://enroll.example.com"];

/// What is printed beside commands that need kubectl.
const NEEDS_KUBECTL: &str = "The first command needs kubectl. For a machine without it, copy the file setup-key there, and leave that command out.\n";

impl Person {
    /// What a verb has printed with a note beside it.
    fn prints(&self, arguments: &[&str], note: &str) -> String {
        let said = self.runs(arguments);
        assert_eq!((said.code, said.err.as_str()), (0, note), "{}", said.out);
        said.out
    }

    /// A shell in this folder, in which these programs are found before others.
    fn shell(&self, folder: &Path, script: &str, programs: &[&Path]) -> Command {
        let kubectl = kubectl();
        let folders = [Path::new(PLUGIN), Path::new(kubectl.get_program())].map(|path| path.parent().unwrap());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = programs.iter().copied().chain(folders).map(Path::to_owned);
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
        let mut command = Command::new("bash");
        command.args(["-euc", script]).current_dir(folder).env("PATH", path);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", folder).env_remove("HOSTNAME");
        command
    }
}

/// A program that keeps its arguments, one a line.
fn program(folder: &Path, name: &str) {
    use std::io::Write;
    let mut file = File::options().create_new(true).write(true).mode(0o755).open(folder.join(name)).unwrap();
    writeln!(file, "#!/bin/sh\nprintf '%s\\n' \"$@\" > {name}.arguments").unwrap();
}

/// A key at NetBird with its Secret, and the Authority that it names.
async fn vpn(cluster: &Cluster) -> String {
    let authority = json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "Authority", "metadata": { "name": "netbird" },
        "spec": { "netbird": { "url": "https://netbird.example.com", "tokenSecretRef": { "name": "token" } } },
    });
    cluster.kubectl_ok(&["apply", "-f", "-"], &authority.to_string());
    let spec =
        json!({ "authorityRef": { "name": "netbird" }, "secret": { "name": "netbird-setup-key", "key": "key" } });
    let value = issued(cluster, "vpn", spec, json!({})).await;
    secret(cluster, "netbird-setup-key", "key", &value).await;
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_join_starts_a_container_that_mounts_the_key() {
    let cluster = Cluster::for_test("plugin-join-docker").await;
    let value = vpn(&cluster).await;
    let office = issued(&cluster, "office", json!({}), json!({})).await;
    secret(&cluster, "office", "setup-key", &office).await;
    let person = Person::administrator(&cluster);
    let of_cluster = [&["join", "office", "--for", "docker", "--image", "registry/op:1"], SERVER.as_slice()].concat();
    for (arguments, key, name, of_agent) in [
        (
            ["join", "vpn", "--for", "docker"].as_slice(),
            &value,
            "netbird-vpn",
            [
                "-e NB_SETUP_KEY_FILE=/key -e NB_MANAGEMENT_URL=https://netbird.example.com",
                "netbirdio/netbird:0.77.1",
            ]
            .join(" "),
        ),
        (
            &of_cluster,
            &office,
            "setupkey-office",
            "registry/op:1 enroll --server https://enroll.example.com --key-file /key --state-file /state/peer --leave never"
                .to_owned(),
        ),
    ] {
        let text = person.prints(arguments, NEEDS_KUBECTL);
        assert!(!text.contains(key.as_str()), "the key is among the commands");
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "docker");
        let said = Said::by(&mut person.shell(folder.path(), &text, &[folder.path()]));
        assert_eq!(said.ok(), "");
        let arguments = std::fs::read_to_string(folder.path().join("docker.arguments")).unwrap();
        let arguments: Vec<_> = arguments.lines().collect();
        assert_eq!(arguments[..4], ["run", "-d", "--name", name]);
        let mounts: Vec<_> = arguments.windows(2).filter(|pair| pair[0] == "-v").map(|pair| pair[1]).collect();
        let file = folder.path().join("setup-key");
        assert_eq!(mounts[0], format!("{}:/key:ro", file.display()));
        assert!(arguments.join(" ").ends_with(&of_agent), "{arguments:?}");
        assert!(std::fs::read_to_string(&file).unwrap().trim_end() == key.as_str(), "the file has another key");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // Further mounts are volumes by name, or folders that are there.
        for mount in &mounts[1..] {
            let (source, _) = mount.split_once(':').unwrap();
            assert!(!source.starts_with('/') || Path::new(source).is_dir(), "{mount}");
        }
    }
}

/// A program that ends with the test, and all that it has started.
struct Group {
    child: Child,
}

impl Group {
    fn start(command: &mut Command) -> Self {
        Self { child: tie_to_this_thread(command.process_group(0)).spawn().unwrap() }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_join_makes_a_linux_machine_a_peer_of_the_cluster() {
    let cluster = Cluster::for_test("plugin-join-linux").await;
    let (operator, replica) = (cluster.start_operator().await, Replica::start(&cluster).await);
    cluster.apply("office", "usageLimit: 1, secret: {name: keys, key: office}");
    cluster.ready("office").await;
    let value = cluster.value("keys", "office").await;
    let rights = [("get", "setupkeys.setupkey.dev"), ("get", "secrets")];
    let person = Person::with_rights(&cluster, "person", &rights);
    let text = person.prints(&["join", "office", "--for", "linux", "--server", &url(&replica)], NEEDS_KUBECTL);
    assert!(!text.contains(&value), "the key is among the commands");

    let folder = tempfile::tempdir().unwrap();
    let log = File::create(folder.path().join("log")).unwrap();
    let mut shell = person.shell(folder.path(), &text, &[]);
    shell.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let machine = Group::start(&mut shell);
    eventually("a connected Peer", || async {
        let name = cluster.peers_of("office").await.pop()?;
        cluster.peers().get(&name).await.ok()?.status.filter(|status| status.connected)
    })
    .await;
    let mode = |file: &str| std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("setup-key"), mode("setupkey-state")), (0o600, 0o600));
    let said = Person::administrator(&cluster).runs(&["peers", "office", "--no-headers"]);
    assert!(said.cells()[0].contains(&"current"), "{said:?}");
    drop(machine);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(!log.is_empty() && !log.contains(&value[6..]), "a key is in the log, or there is none");
    replica.stop().await;
    operator.stop().await;
}

/// With the key among the commands, no kubectl is needed.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_join_makes_a_linux_machine_a_peer_at_netbird() {
    let netbird = NetBird::for_test("plugin_join").await;
    let agent_url = json!({ "netbird": { "agentUrl": netbird.server.url() } });
    let world = World::with("plugin_join", netbird, agent_url).await;
    let operator = world.cluster.start_operator().await;
    let group = world.netbird.group("laptops").await;
    world.issue("office", json!({ "autoGroups": [group.name] })).await;
    let person = Person::administrator(&world.cluster);
    let value = world.cluster.value("office", "setup-key").await;
    let connected = async || {
        let peers = world.netbird.api.peers().await;
        let in_group = |groups: &[PeerGroup]| groups.iter().any(|of_peer| of_peer.name == group.name);
        peers.iter().filter(|peer| peer.connected && in_group(&peer.groups)).count()
    };
    let agent = world.netbird.server.agent_program().parent().unwrap().to_owned();

    for (number, flags, note) in [(1, &[][..], NEEDS_KUBECTL), (2, &["--show-key"][..], "")] {
        let text = person.prints(&[&["join", "office", "--for", "linux"], flags].concat(), note);
        assert_eq!(text.contains(&value), number == 2, "whether the key is among the commands");
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("netbird.sock");
        let variables = [
            ("NB_DAEMON_ADDR", format!("unix://{}", socket.display())),
            ("NB_STATE_DIR", folder.path().display().to_string()),
            ("NB_USE_NETSTACK_MODE", "true".to_owned()),
            ("NB_SOCKS5_LISTENER_PORT", (2080 + number).to_string()),
            ("NB_DISABLE_DNS", "true".to_owned()),
            ("NB_LOG_FILE", "console".to_owned()),
            ("USER", "root".to_owned()),
            ("HOME", folder.path().display().to_string()),
        ];
        let enter = world.netbird.server.enter();
        let mut daemon = Command::new(&enter[0]);
        daemon.args(&enter[1..]).arg(world.netbird.server.agent_program()).args(["service", "run"]);
        let log = File::create(folder.path().join("log")).unwrap();
        daemon.envs(variables.clone()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Group::start(&mut daemon);
        eventually("the daemon to listen", || async { socket.exists().then_some(()) }).await;

        let mut shell = person.shell(folder.path(), &text, &[&agent]);
        shell.envs(variables);
        let said = tokio::task::spawn_blocking(move || Said::by(&mut shell)).await.unwrap();
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(said.code, 0, "{}\n{}\n{}", said.out, said.err, log());
        eventually("a peer to be connected", || async { (connected().await == 1).then_some(()) }).await;
        assert_eq!(world.only("office").await.used_times, number);
        assert!(!folder.path().join("setup-key").exists(), "the file with the key is left");
        assert!(![said.out, said.err].iter().any(|text| text.contains(&value[6..])), "the key was printed");
        drop(daemon);
        eventually("no peer to be connected", || async { (connected().await == 0).then_some(()) }).await;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_join_prints_a_manifest_that_the_api_server_takes() {
    let cluster = Cluster::for_test("plugin-join-kubernetes").await;
    vpn(&cluster).await;
    issued(&cluster, "office", json!({}), json!({})).await;
    let namespace = cluster.namespace.as_str();
    cluster.kubectl_ok(&["label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted"], "");
    // No right to get Secrets is needed.
    let rights = [("get", "setupkeys.setupkey.dev"), ("get", "authorities.setupkey.dev")];
    let person = Person::with_rights(&cluster, "person", &rights);
    let of_cluster = [&["join", "office", "--for", "kubernetes"], SERVER.as_slice()].concat();
    let trusting = [of_cluster.as_slice(), &["--ca-config-map", "enrollment-ca"]].concat();
    for (arguments, secret, name) in [
        (["join", "vpn", "--for", "kubernetes"].as_slice(), "netbird-setup-key", "netbird-vpn"),
        (&of_cluster, "office", "enroll-office"),
        (&trusting, "office", "enroll-office"),
    ] {
        let note =
            format!("To apply it, pipe it into kubectl apply -f -. Its pods mount Secret {namespace}/{secret}.\n");
        let manifest = person.prints(arguments, &note);
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = cluster.kubectl(&apply, &manifest);
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(said, [format!("deployment.apps/{name} created (server dry run)\n"), String::new()]);
        let deployment: Value = serde_yaml::from_str(&manifest).unwrap();
        let volume = &deployment["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"];
        assert_eq!(volume, secret);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_join_prints_commands_for_windows_and_user_data() {
    let cluster = Cluster::for_test("plugin-join-others").await;
    let value = vpn(&cluster).await;
    let namespace = &cluster.namespace;
    let person = Person::administrator(&cluster);
    let windows = person.prints(&["join", "vpn", "--for", "windows"], NEEDS_KUBECTL);
    let expected = format!(
        "\
$null = New-Item -Force setup-key
icacls setup-key /inheritance:r /grant:r \"${{env:USERNAME}}:F\"
kubectl setupkey reveal vpn -n {namespace} | Set-Content -NoNewline -Encoding ascii setup-key
netbird up --management-url https://netbird.example.com --setup-key-file setup-key
Remove-Item setup-key
"
    );
    assert_eq!(windows, expected);

    let reveal = format!("kubectl setupkey reveal vpn -n {namespace}");
    let note = format!("Replace REPLACE-WITH-THE-SETUP-KEY by the key: {reveal}\n");
    let shown = "Every program of the machine can ask its cloud for this text, and so for the key.\n";
    for (flags, note, content) in
        [(&[][..], note.as_str(), "REPLACE-WITH-THE-SETUP-KEY\n"), (&["--show-key"][..], shown, &format!("{value}\n"))]
    {
        let text = person.prints(&[&["join", "vpn", "--for", "cloud-init"], flags].concat(), note);
        assert!(text.starts_with("#cloud-config\n"));
        let config: Value = serde_yaml::from_str(&text).unwrap();
        let file = &config["write_files"][0];
        assert!(file["content"] == content, "the file holds something else");
        assert_eq!((&file["path"], &file["permissions"]), (&json!("/etc/setupkey/setup-key"), &json!("0600")));
        let join = json!([
            "netbird",
            "up",
            "--management-url",
            "https://netbird.example.com",
            "--setup-key-file",
            file["path"],
        ]);
        assert_eq!(config["runcmd"], json!([join, ["rm", "-f", file["path"]]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_join_says_what_it_needs_to_know() {
    let cluster = Cluster::for_test("plugin-join-errors").await;
    let namespace = &cluster.namespace;
    issued(&cluster, "office", json!({}), json!({ "expires": ago(TimeDelta::days(1)) })).await;
    issued(&cluster, "vpn", json!({ "authorityRef": { "name": "netbird" } }), json!({})).await;
    let person = Person::administrator(&cluster);
    let expected = format!(
        "the URL of the enrollment service, at which machines join with SetupKey {namespace}/office, is not known here: give --server URL"
    );
    assert_eq!(person.runs(&["join", "office", "--for", "linux"]).fails(), expected);
    let unknown = person.runs(&["join", "vpn", "--for", "linux"]);
    let begins = format!(
        "the URL at which machines join with SetupKey {namespace}/vpn is not known: could not read Authority {namespace}/netbird: "
    );
    assert!(unknown.fails().starts_with(&begins) && unknown.fails().ends_with("; give --server URL"), "{unknown:?}");
    assert_eq!(person.runs(&["join", "vpn", "--for", "linux", "--server", "https://n.example.com"]).code, 0);

    let said = person.runs(&[&["join", "office", "--for", "linux"], SERVER.as_slice()].concat());
    let warning = format!("warning: SetupKey {namespace}/office is expired: no machine joins with it\n");
    assert_eq!((said.code, said.err), (0, format!("{NEEDS_KUBECTL}{warning}")));
    for (flags, sentence) in [
        (["linux", "--image", "a:1"], "--image says nothing here: only docker and kubernetes start an image"),
        (["docker", "--ca-config-map", "ca"], "--ca-config-map says nothing here: only kubernetes mounts one"),
        (
            ["kubernetes", "--show-key", "--show-key"],
            "--show-key says nothing here: the pods mount the Secret, and the manifest has no key",
        ),
    ] {
        assert_eq!(person.runs(&[&["join", "office", "--for"], flags.as_slice()].concat()).fails(), sentence);
    }
    for (arguments, words) in [
        (["join", "office", "--for", "mac"].as_slice(), "docker, linux, windows, kubernetes, cloud-init"),
        (&["join", "office"], "--for <WHAT>"),
        (&["join", "office", "--for", "linux", "--server", "enroll.example.com"], "https://"),
    ] {
        let refused = person.runs(arguments);
        assert!(refused.code == 1 && refused.out.is_empty() && refused.err.contains(words), "{refused:?}");
    }
    let lister = Person::with_rights(&cluster, "lister", &[("list", "setupkeys.setupkey.dev")]);
    let refused = lister.runs(&[&["join", "office", "--for", "linux", "--show-key"], SERVER.as_slice()].concat());
    assert!(refused.fails().contains("lister may not get secrets in namespace"), "{refused:?}");
}
