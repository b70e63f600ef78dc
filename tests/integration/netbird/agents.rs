//! Real agents, and keys that are made at NetBird itself.

use control_plane::netbird::{Options, Outcome};
use serde_json::json;

use crate::harness::{
    eventually,
    netbird::{Front, NetBird},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_joins_with_a_key_and_a_revoked_key_is_refused() {
    let netbird = NetBird::for_test("agent").await;
    let group = netbird.group("laptops").await;
    let key = netbird.api.create_key(&netbird.name("office"), json!({ "auto_groups": [group.id] })).await;

    let agent = netbird.join(&netbird.prefix, &key.key).await;
    assert_eq!(agent.outcome(), Outcome::Joined, "{}", agent.log());
    let peers = netbird.api.peers().await;
    let peer = peers.iter().find(|peer| peer.hostname == netbird.prefix).expect("the agent is a peer");
    assert!(peer.groups.iter().any(|of_peer| of_peer.name == group.name), "{peer:?}");
    assert_eq!(netbird.api.key(&key.id).await.unwrap().used_times, 1);

    netbird.api.revoke_key(&key.id).await;
    let refused = netbird.join("too-late", &key.key).await;
    assert_eq!(refused.outcome(), Outcome::Refused, "{}", refused.log());
    let key = netbird.api.key(&key.id).await.unwrap();
    assert_eq!((key.used_times, key.state.as_str()), (1, "revoked"));
    // The peer stays, and comes online.
    eventually("the first agent to be connected", || async {
        let peers = netbird.api.peers().await;
        peers.iter().any(|peer| peer.hostname == netbird.prefix && peer.connected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_over_https_and_a_used_one_off_key_is_refused() {
    let netbird = NetBird::over_https("agent_https").await;
    let once = json!({ "type": "one-off", "usage_limit": 1 });
    let key = netbird.api.create_key(&netbird.name("once"), once).await;
    assert_eq!(netbird.join("first", &key.key).await.outcome(), Outcome::Joined);
    assert_eq!(netbird.join("second", &key.key).await.outcome(), Outcome::Refused);
    assert_eq!(netbird.api.key(&key.id).await.unwrap().state, "overused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_its_own_has_an_empty_account_and_survives_being_killed() {
    let netbird = NetBird::alone("alone", Options::default()).await;
    assert!(netbird.api.keys().await.is_empty());
    let key = netbird.api.create_key("office", json!({})).await;

    netbird.server.kill();
    let refused = netbird.api.call(http::Method::GET, "/api/setup-keys", json!(null)).await;
    assert!(refused.is_err(), "a killed server answered");
    netbird.server.revive().unwrap();
    let keys: Vec<_> = netbird.api.keys().await.into_iter().map(|key| key.id).collect();
    assert_eq!(keys, [key.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_have_netbirds_rights() {
    let netbird = NetBird::for_test("roles").await;
    let tokens = netbird.tokens();
    let allowed = async |token, name| {
        let body = json!({ "name": netbird.name(name), "type": "reusable", "auto_groups": [] });
        let api = netbird.api.with_token(token);
        let reads = api.call(http::Method::GET, "/api/setup-keys", json!(null)).await.is_ok();
        (reads, api.call(http::Method::POST, "/api/setup-keys", body).await.is_ok())
    };
    assert_eq!(allowed(&tokens.owner, "owner").await, (true, true));
    assert_eq!(allowed(&tokens.admin, "admin").await, (true, true));
    assert_eq!(allowed(&netbird.admin.token, "own admin").await, (true, true));
    assert_eq!(allowed(&tokens.network_admin, "network admin").await, (true, false));
    assert_eq!(allowed(&tokens.auditor, "auditor").await, (true, false));
    assert_eq!(allowed(&tokens.user, "user").await, (true, false));
    netbird.api.delete_token(&netbird.admin.id, &netbird.admin.token_id).await;
    assert_eq!(allowed(&netbird.admin.token, "deleted token").await, (false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_trusts_the_proxy_only_with_a_certificate_of_the_servers_authority() {
    let netbird = NetBird::over_https("certificates").await;
    let address = netbird.server.host().into();
    let other = control_plane::Authority::named("another authority").unwrap();
    let good = netbird.server.authority().server("netbird", &[address]).unwrap();
    let wrong_address = netbird.server.authority().server("netbird", &[[192, 0, 2, 1].into()]).unwrap();
    let mut expired = control_plane::server_certificate("netbird", &[address]);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = netbird.server.authority().sign(expired).unwrap();
    let of_another = other.server("netbird", &[address]).unwrap();

    for (identity, is_trusted) in [(good, true), (wrong_address, false), (expired, false), (of_another, false)] {
        let proxy = netbird.another_proxy(Front::Https(identity)).await;
        let api = control_plane::netbird::Api::new(&proxy.url(), netbird.authority(), &netbird.admin.token);
        let answer = api.call(http::Method::GET, "/api/setup-keys", json!(null)).await;
        assert_eq!(answer.is_ok(), is_trusted, "{answer:?}");
        assert_eq!(proxy.calls().len(), usize::from(is_trusted));
    }
}
