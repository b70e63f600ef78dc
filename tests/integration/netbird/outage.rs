//! NetBird is away, refuses, or answers as it should not.

use std::time::{Duration, Instant};

use control_plane::netbird::Outcome;
use futures::{StreamExt, stream};
use http::Method;
use k8s_openapi::ByteString;
use secrecy::ExposeSecret;
use serde_json::json;

use super::world::{AUTHORITY, SOON, World};
use crate::harness::{
    eventually,
    netbird::{Canned, Fault, Front, NetBird, Which, any_call, on},
    no_write_for, says,
};

const CREATE: &str = "POST /api/setup-keys";
const LIST: &str = "GET /api/setup-keys";

#[tokio::test(flavor = "multi_thread")]
async fn netbird_outage() {
    let world = World::new("netbird_outage").await;
    let operator = world.cluster.start_operator().await;
    world.issue("before", json!({})).await;
    let before = world.cluster.keys().get("before").await.unwrap();
    world.netbird.proxy.down();
    let message = world.authority_says(AUTHORITY, "False Unreachable").await;
    assert_eq!(message, "The host did not answer as a NetBird server. The operator keeps retrying.");
    for number in 0..20 {
        world.create(&format!("during-{number}"), json!({})).await;
    }
    let message = world.key_says("during-0", "Ready", "False AuthorityNotReady").await;
    assert!(message.contains("did not answer as a NetBird server"), "{message}");
    let status = world.cluster.keys().get("during-0").await.unwrap().status.unwrap();
    assert_eq!(says(&status, "Stalled"), "", "the key is Stalled, and it only waits for NetBird");
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.netbird.proxy.up().await;
    let back = Instant::now();
    for number in 0..20 {
        world.cluster.ready(&format!("during-{number}")).await;
    }
    println!("netbird_outage: 20 keys ready {:?} after NetBird was back", back.elapsed());
    for number in 0..20 {
        world.only(&format!("during-{number}")).await;
    }
    let after = world.cluster.keys().get("before").await.unwrap();
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version, "a settled key was written");
    world.authority_says(AUTHORITY, "True Connected").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_limits_or_fails_is_left_alone_as_a_whole() {
    let world = World::new("netbird_limits").await;
    let operator = world.cluster.start_operator().await;
    world.issue("before", json!({})).await;
    for (answer, reason) in [
        (Canned::too_many_requests(Some("3")), "False RateLimited"),
        (Canned::refusal(500, "internal server error"), "False Unreachable"),
    ] {
        let fault = world.netbird.proxy.inject(any_call, Which::Every, Fault::Answer(answer));
        world.authority_says(AUTHORITY, reason).await;
        for number in 0..30 {
            world.create(&format!("key-{number}"), json!({})).await;
        }
        world.key_says("key-29", "Ready", "False AuthorityNotReady").await;
        world.netbird.proxy.forget();
        tokio::time::sleep(SOON).await;
        let calls = world.netbird.proxy.calls().len();
        assert!(calls <= 12, "{reason}: {calls} calls in {SOON:?} for 31 keys");
        assert_eq!(world.netbird.proxy.count(CREATE), 0, "{reason}");
        fault.remove();
        for number in 0..30 {
            world.cluster.ready(&format!("key-{number}")).await;
            world.delete(&format!("key-{number}")).await;
        }
        for number in 0..30 {
            world.gone(&format!("key-{number}")).await;
        }
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_creations_is_waited_for_without_a_word() {
    let world = World::new("netbird_limited_creations").await;
    let operator = world.cluster.start_operator().await;
    world.issue("before", json!({})).await;
    tokio::time::sleep(SOON).await; // Until the Authority shows that key.
    let version = async || world.authorities().get(AUTHORITY).await.unwrap().metadata.resource_version;
    let before = version().await;
    let limited = Fault::Answer(Canned::too_many_requests(Some("2")));
    let limited = world.netbird.proxy.inject(on(CREATE), Which::Every, limited);
    for number in 0..20 {
        world.create(&format!("key-{number}"), json!({})).await;
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    let calls = limited.hits();
    assert!((2..=20).contains(&calls), "{calls} creations in 8 s, with pauses of 2 s and 4 at a time");
    assert_eq!(version().await, before, "the status of the Authority was written");
    for key in world.cluster.keys().list(&Default::default()).await.unwrap() {
        let status = key.status.unwrap();
        assert!(!says(&status, "Ready").starts_with("False"), "{}", says(&status, "Ready"));
    }
    limited.remove();
    for number in 0..20 {
        world.cluster.ready(&format!("key-{number}")).await;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_the_server_asks_for_is_kept() {
    let world = World::new("netbird_retry_after").await;
    let operator = world.cluster.start_operator().await;
    world.authority_says(AUTHORITY, "True Connected").await;
    let limited = Fault::Answer(Canned::too_many_requests(Some("6")));
    let limited = world.netbird.proxy.inject(on(LIST), Which::First(1), limited);
    limited.hit(1).await;
    world.netbird.proxy.forget();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let calls = world.netbird.proxy.calls();
    assert!(calls.is_empty(), "{} calls within the pause", calls.len());
    world.authority_says(AUTHORITY, "True Connected").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_up_when_it_changes() {
    let world = World::new("netbird_token").await;
    world.cluster.delete_secret(AUTHORITY).await;
    let operator = world.cluster.start_operator().await;
    let namespace = &world.cluster.namespace;
    world.create("office", json!({})).await;
    let missing = world.authority_says(AUTHORITY, "False TokenMissing").await;
    assert!(missing.starts_with(&format!("There is no Secret {namespace}/{AUTHORITY}")), "{missing}");

    let token = world.netbird.admin.token.expose_secret();
    world.set_token(AUTHORITY, "").await;
    let said = |part: &'static str| {
        let world = &world;
        async move {
            eventually(part, || async {
                let status = world.authorities().get(AUTHORITY).await.ok()?.status?;
                status.conditions.iter().any(|condition| condition.message.contains(part)).then_some(())
            })
            .await;
        }
    };
    said("holds no token under \"NB_API_KEY\": it is empty").await;
    world.cluster.patch_secret(AUTHORITY, json!({ "data": { "NB_API_KEY": null, "other": "YQ==" } })).await;
    said("has no data key \"NB_API_KEY\"").await;
    world.set_token(AUTHORITY, "two words").await;
    said("it has a character other than visible ASCII").await;
    world.set_token(AUTHORITY, "nbp_0000000000000000000000000000000000000").await;
    let message = world.authority_says(AUTHORITY, "False TokenRefused").await;
    assert_eq!(message, "NetBird refuses the token: token invalid. The operator keeps retrying.");

    // A line break at the end does not count, as in a Secret made of a file.
    let mended = Instant::now();
    world.set_token(AUTHORITY, &format!("{token}\n")).await;
    world.cluster.ready("office").await;
    println!("a_token_is_taken_up_when_it_changes: ready {:?} after it was mended", mended.elapsed());
    world.authority_says(AUTHORITY, "True Connected").await;

    // It is withdrawn at NetBird, as an expired one is.
    world.netbird.api.delete_token(&world.netbird.admin.id, &world.netbird.admin.token_id).await;
    // A key is not taken for deleted because of it.
    world.delete("office").await;
    world.authority_says(AUTHORITY, "False TokenRefused").await;
    world.key_says("office", "Ready", "False DeletionPending").await;
    world.only("office").await;
    let (_, another) = world.netbird.api.create_token(&world.netbird.admin.id, "another", 1).await;
    world.set_token(AUTHORITY, another.expose_secret()).await;
    world.authority_says(AUTHORITY, "True Connected").await;
    let expires = world.authorities().get(AUTHORITY).await.unwrap().status.unwrap().token_expires;
    assert!(expires.is_some(), "it is the user's only token, so its expiry is known");
    world.gone("office").await;
    assert!(world.there("office").await.is_empty());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_and_taken_up_when_they_change() {
    let netbird = NetBird::over_https("netbird_certificates").await;
    let address = netbird.server.host().into();
    let other = control_plane::Authority::named("another authority").unwrap();
    let of_another = netbird.another_proxy(Front::Https(other.server("netbird", &[address]).unwrap())).await;
    let wrong = netbird.server.authority().server("netbird", &[[192, 0, 2, 1].into()]).unwrap();
    let wrong = netbird.another_proxy(Front::Https(wrong)).await;
    let bundle = |pem: &str| json!(ByteString(pem.as_bytes().to_vec()));
    let ours = bundle(netbird.authority());
    let world = World::with("netbird_certificates", netbird, json!({})).await;
    let operator = world.cluster.start_operator().await;
    // Not one of the built-in authorities.
    let message = world.authority_says(AUTHORITY, "False CertificateInvalid").await;
    assert!(message.starts_with("The server's certificate cannot be trusted: "), "{message}");
    let patch = async |netbird: serde_json::Value| {
        let patch = kube::api::Patch::Merge(json!({ "spec": { "netbird": netbird } }));
        world.authorities().patch(AUTHORITY, &Default::default(), &patch).await.unwrap();
    };
    patch(json!({ "caBundle": ours })).await;
    world.authority_says(AUTHORITY, "True Connected").await;
    patch(json!({ "url": of_another.url() })).await;
    world.authority_says(AUTHORITY, "False CertificateInvalid").await;
    patch(json!({ "caBundle": bundle(other.pem()) })).await;
    world.authority_says(AUTHORITY, "True Connected").await;
    patch(json!({ "url": wrong.url(), "caBundle": ours })).await;
    world.authority_says(AUTHORITY, "False CertificateInvalid").await;
    assert_eq!(wrong.calls().len(), 0, "a request went to a server that is not trusted");
    patch(json!({ "caBundle": bundle("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n") })).await;
    let message = world.authority_says(AUTHORITY, "False CertificateInvalid").await;
    assert!(!message.is_empty());
    patch(json!({ "caBundle": ours, "url": world.netbird.base_url })).await;
    world.authority_says(AUTHORITY, "True Connected").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_netbirds_is_told_as_that_and_nothing_of_it() {
    let world = World::new("netbird_answers").await;
    let operator = world.cluster.start_operator().await;
    world.issue("before", json!({})).await;
    let version = world.cluster.keys().get("before").await.unwrap().metadata.resource_version;
    let huge = format!("\"{}\"", "x".repeat(10 * 1024 * 1024));
    for (what, answer) in [
        ("a page", Canned::page(200)),
        ("a page that says not found", Canned::page(404)),
        ("a redirect", Canned::redirect("http://192.0.2.1/")),
        ("rubbish", Canned::new(200, "application/json", "[{\"colour\": \"red\"}")),
        ("another kind of JSON", Canned::new(200, "application/json", "{\"items\": [\"internal-name\"]}")),
        ("10 MiB", Canned::new(200, "application/json", huge)),
    ] {
        let fault = world.netbird.proxy.inject(on(LIST), Which::Every, Fault::Replace(answer));
        let message = world.authority_says(AUTHORITY, "False Unreachable").await;
        assert_eq!(message, "The host did not answer as a NetBird server. The operator keeps retrying.", "{what}");
        fault.remove();
        world.authority_says(AUTHORITY, "True Connected").await;
    }
    let now = world.cluster.keys().get("before").await.unwrap().metadata.resource_version;
    assert_eq!(now, version, "the key was written");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_never_answered_blocks_one_key_and_nothing_else() {
    let world = World::new("netbird_silence").await;
    let operator = world.cluster.start_operator().await;
    world.authority_says(AUTHORITY, "True Connected").await;
    let silent = world.netbird.proxy.inject(on(CREATE), Which::First(1), Fault::Silence);
    world.create("blocked", json!({})).await;
    silent.hit(1).await;
    let began = Instant::now();
    for number in 0..5 {
        world.issue(&format!("key-{number}"), json!({})).await;
    }
    let others = began.elapsed();
    world.cluster.ready("blocked").await;
    println!(
        "a_call_that_is_never_answered: others ready after {others:?}, the blocked one after {:?}",
        began.elapsed()
    );
    assert!(others < Duration::from_secs(10), "others waited {others:?}");
    world.only("blocked").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_leave_no_key_over() {
    let world = World::new("netbird_lost_answers").await;
    let operator = world.cluster.start_operator().await;
    world.authority_says(AUTHORITY, "True Connected").await;
    let lost = world.netbird.proxy.inject(on(CREATE), Which::Every, Fault::DropAfter);
    world.create("office", json!({})).await;
    let mut most = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        most = most.max(world.there("office").await.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("lost_answers_leave_no_key_over: {} keys created, at most {most} at a time", lost.hits());
    assert!(most <= 1, "{most} keys at a time");
    lost.remove();
    world.cluster.ready("office").await;
    let there = world.settled_there("office").await;
    assert!(there.valid);
    let metrics = operator.metrics.expose().unwrap();
    assert!(metrics.contains("setupkey_authority_leftovers_removed_total"), "{metrics}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_says_what_it_lacks() {
    let world = World::new("netbird_roles").await;
    let operator = world.cluster.start_operator().await;
    let tokens = world.netbird.tokens();
    for (role, token) in
        [("user", &tokens.user), ("auditor", &tokens.auditor), ("network_admin", &tokens.network_admin)]
    {
        world.set_token(AUTHORITY, token.expose_secret()).await;
        let part =
            format!("the role {role} may list setup keys and not change them; use a service user with the role admin");
        eventually(&part, || async {
            let status = world.authorities().get(AUTHORITY).await.ok()?.status?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.reason == "RoleTooLow" && ready.message.contains(&part)).then_some(())
        })
        .await;
    }
    for token in [&tokens.admin, &tokens.owner] {
        world.set_token(AUTHORITY, token.expose_secret()).await;
        world.authority_says(AUTHORITY, "True Connected").await;
    }
    world.issue("office", json!({})).await;
    let value = world.value("office").await;
    assert_eq!(world.netbird.join(&world.netbird.prefix, &value).await.outcome(), Outcome::Joined);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn netbird_settled_costs_one_list() {
    let world = World::new("netbird_settled").await;
    let group = world.netbird.group("laptops").await;
    let operator = world.cluster.start_operator().await;
    stream::iter(0..500)
        .for_each_concurrent(16, |number| {
            let (world, group) = (&world, &group);
            async move {
                world.create(&format!("key-{number}"), json!({ "autoGroups": [group.name], "usageLimit": 5 })).await;
            }
        })
        .await;
    for number in 0..500 {
        world.cluster.ready(&format!("key-{number}")).await;
    }
    tokio::time::sleep(SOON).await;
    world.netbird.proxy.forget();
    operator.requests.clear();
    no_write_for(&operator.requests, 10 * crate::harness::INTERVAL).await;
    let calls = world.netbird.proxy.calls();
    let lists = calls.iter().filter(|call| call.method == Method::GET && call.path == "/api/setup-keys").count();
    assert_eq!(calls.len(), lists, "{calls:?}");
    assert!((8..=11).contains(&lists), "{lists} lists in 10 intervals");
    operator.stop().await;
}
