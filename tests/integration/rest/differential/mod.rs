//! The same requests to a real NetBird and to this API. Every difference is on a list, with its reason.

mod answers;
mod differences;
mod rows;

use control_plane::netbird::Options;
use secrecy::ExposeSecret;
use serde_json::json;
use setupkey_operator::{
    api::State,
    serve::{Limits, Server as HttpServer},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Rest,
    tokens::{EVERYTHING, token_of},
};
use crate::harness::{Cluster, netbird::NetBird};
use answers::Server;
use differences::Comparison;

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_from_netbird_is_on_the_list() {
    let netbird = NetBird::alone("differential", Options::default()).await;
    let cluster = Cluster::for_test("rest_differential").await;
    let operator = cluster.start_operator().await;
    let (address, end) = serve(Rest::of(&cluster).await).await;

    let owner = netbird.tokens().owner.expose_secret();
    let mut there = Server::new(netbird.server.url().trim_start_matches("http://"), &[("token", owner)]);
    let everything = token_of(&cluster, "admin", EVERYTHING);
    // NetBird lets every service user list the keys.
    let reader = token_of(&cluster, "reader", &["list,get setupkeys.setupkey.dev"]);
    let mut here = Server::new(
        &address,
        &[
            ("token", &everything),
            ("token.admin", &everything),
            ("token.user", &reader),
            ("token.auditor", &reader),
            ("token.network_admin", &reader),
            ("group.g1", "g1"),
            ("group.g2", "g2"),
            ("group.all", "All"),
        ],
    );

    let mut comparison = Comparison::default();
    for row in rows::rows() {
        tokio::time::sleep(row.wait()).await;
        let netbirds = there.ask(&row).await;
        if row.setup {
            continue;
        }
        comparison.compare(&row.name, &netbirds, &here.ask(&row).await);
        if row.name == "expires_in: 1" {
            here.variables.insert("k3".to_owned(), expired_key(&cluster).await);
        }
    }
    comparison.end();
    end.cancel();
    operator.stop().await;
}

/// Serves the API over HTTP. Returns its address, and what ends it.
async fn serve(rest: Rest) -> (String, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::new(listener, None, Limits::default());
    let (address, end) = (server.address().unwrap().to_string(), CancellationToken::new());
    tokio::spawn(server.run(rest.router, end.clone()));
    (address, end)
}

/// The id of a key that has expired. None of these can be had by a request: the shortest lifetime is a day.
async fn expired_key(cluster: &Cluster) -> String {
    cluster.apply("soon", "name: soon, expiresIn: 24h");
    let id = cluster.ready("soon").await.id.expect("an id");
    cluster.patch_status("soon", json!({ "expires": chrono::Utc::now().format("%FT%TZ").to_string() })).await;
    cluster.status_when("soon", "expired", |status| status.state == Some(State::Expired)).await;
    id
}
