//! What the launcher promises about a NetBird server and its agents.
#![cfg(target_os = "linux")]

use control_plane::netbird::{Agent, Key, NetBird, Options, Outcome, Transport};
use secrecy::ExposeSecret;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn servers_run_side_by_side_and_an_agent_joins_each() {
    for transport in [Transport::Http, Transport::Https] {
        let started = std::time::Instant::now();
        let netbird = NetBird::start(Options { transport, ..Options::default() }).unwrap();
        println!("{transport:?} {:?} {}", started.elapsed(), netbird.url());
        let api = netbird.api(&netbird.tokens().admin);
        let key = api.create_key("office", json!({})).await;
        let started = std::time::Instant::now();
        let agent = Agent::join(&netbird, "laptop", Key::Value(key.key.expose_secret())).unwrap();
        println!("{:?} {:?}", started.elapsed(), agent.outcome());
        assert_eq!(agent.outcome(), Outcome::Joined);
        println!("{:?}", api.peers().await);
    }
}
