//! What the launcher promises about a NetBird server and its agents. All tests need root.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use control_plane::netbird::{Agent, CABLE_PREFIX, Key, NetBird, Options, Outcome, Transport};
use secrecy::ExposeSecret;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn servers_run_side_by_side_and_nothing_of_them_stays() {
    let both = [Transport::Http, Transport::Https].map(|transport| {
        let netbird = NetBird::start(Options { transport, ..Options::default() }).unwrap();
        let (dir, cable) = (netbird.dir().to_owned(), cable_to(&netbird));
        (netbird, dir, cable)
    });
    assert_ne!(both[0].0.url(), both[1].0.url());
    for (netbird, ..) in &both {
        let api = netbird.api(&netbird.tokens().admin);
        api.create_key("office", json!({})).await;
        assert_eq!(api.keys().await.len(), 1, "the two share an account");
    }
    for (netbird, dir, cable) in both {
        drop(netbird);
        assert!(programs_in(&dir).is_empty());
        assert!(!dir.exists());
        within_five_seconds("the cable is gone", || !cable.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_a_peer_and_stays_one_when_it_restarts_without_a_valid_key() {
    let netbird = NetBird::start(Options::default()).unwrap();
    let api = netbird.api(&netbird.tokens().admin);
    let key = api.create_key("office", json!({ "usage_limit": 1 })).await;
    let file = netbird.dir().join("mounted-key");
    fs::write(&file, key.key.expose_secret()).unwrap();

    let mut agent = Agent::join(&netbird, "laptop", Key::File(&file)).unwrap();
    assert_eq!(agent.outcome(), Outcome::Joined, "{}", agent.log());
    assert!(!agent.log().contains(key.key.expose_secret()));
    api.delete_key(&key.id).await;
    assert_eq!(agent.restart().unwrap(), Outcome::Joined, "{}", agent.log());
    assert_eq!(api.peers().await.len(), 1);

    agent.kill();
    let another = Agent::join(&netbird, "another", Key::File(&file)).unwrap();
    assert_eq!(another.outcome(), Outcome::Refused, "{}", another.log());
    assert_eq!(api.peers().await.len(), 1);
}

#[test]
fn a_server_has_no_way_out() {
    let netbird = NetBird::start(Options::default()).unwrap();
    let enter = netbird.enter();
    let routes = Command::new(&enter[0]).args(&enter[1..]).args(["ip", "route"]).output().unwrap();
    let routes = String::from_utf8(routes.stdout).unwrap();
    let destinations: Vec<_> = routes.lines().filter_map(|route| route.split_whitespace().next()).collect();
    let own = destinations.iter().filter(|destination| destination.starts_with("10.213.")).count();
    assert_eq!((own, destinations.len()), (1, 2), "{routes}");
    assert!(destinations.contains(&"10.244.0.0/24"), "{routes}");
}

#[test]
fn a_killed_launcher_leaves_no_server_behind() {
    let script = r#"dirname "$NETBIRD_CA_FILE"; test -s "$NETBIRD_TOKEN_FILE" && echo "$NETBIRD_URL"; exec sleep 600"#;
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .args(["run", "--netbird", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(launcher.stdout.take().unwrap()).lines().map(Result::unwrap);
    let dir = PathBuf::from(lines.next().expect("the launcher starts its command"));
    assert!(lines.next().unwrap().starts_with("https://10.213."));
    assert_eq!(programs_in(&dir).len(), 3, "not management, signal and the holder of the network");

    launcher.kill().unwrap();
    launcher.wait().unwrap();

    within_five_seconds("the programs are gone", || programs_in(&dir).is_empty());
    within_five_seconds("the folder is gone", || !dir.exists());
}

/// This machine's end of the cable to a server.
fn cable_to(netbird: &NetBird) -> PathBuf {
    let links = Command::new("ip").args(["-oneline", "address"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    let ours = links.lines().find(|link| link.contains(&format!(" {}/30 ", netbird.host()))).expect("a cable");
    let name = ours.split_whitespace().nth(1).unwrap();
    assert!(name.starts_with(CABLE_PREFIX), "{name}");
    Path::new("/sys/class/net").join(name)
}

fn programs_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .collect()
}

fn within_five_seconds(promise: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "after 5 s, it is still not true that {promise}");
        thread::sleep(Duration::from_millis(20));
    }
}
