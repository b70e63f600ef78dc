//! `kubectl setupkey` and keys at a real NetBird: a verb that waits says no more than NetBird has done.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::json;

use super::Person;
use crate::{
    harness::{
        TestClock,
        netbird::{Canned, Fault, Which, on},
        says,
    },
    netbird::world::{AUTHORITY, World},
};

const UPDATE: &str = "PUT /api/setup-keys/{id}";
const DELETE: &str = "DELETE /api/setup-keys/{id}";

/// How long NetBird is slow.
const SLOW: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn plugin_revoke_waits_until_netbird_has_revoked_the_key() {
    let world = World::new("plugin-nb-revoke").await;
    let person = Person::administrator(&world.cluster);
    let operator = world.cluster.start_operator().await;
    let first = world.issue("office", json!({ "usageLimit": 3 })).await;
    // A replaced key, which admits machines too.
    let second = world.cluster.rotate("office", &first).await;
    assert_eq!(world.there("office").await.len(), 2);
    world.netbird.proxy.inject(on(UPDATE), Which::First(1), Fault::Delay(SLOW));
    world.netbird.proxy.inject(on(DELETE), Which::First(1), Fault::Delay(SLOW));
    let started = Instant::now();
    let said = person.runs(&["revoke", "office"]);
    let there = world.there("office").await;
    assert_eq!(said.ok(), "setupkey office: revoked\n");
    assert!(started.elapsed() >= SLOW, "{:?}", started.elapsed());
    let states: Vec<_> = there.iter().map(|key| (Some(&key.id) == second.id.as_ref(), key.revoked)).collect();
    assert_eq!(states, [(true, true)], "a key at NetBird still admits machines");

    let refused = person.runs(&["rotate", "office"]);
    let expected = "setupkey office is not rotated: it is revoked, and NetBird creates no key that is revoked; kubectl setupkey unrevoke office issues another key";
    assert_eq!(refused.fails(), expected);

    assert_eq!(person.runs(&["unrevoke", "office"]).ok(), "setupkey office: valid\n");
    let after = world.cluster.keys().get("office").await.unwrap().status.unwrap();
    assert!(after.id != second.id && after.digest != second.digest, "it is the key that was revoked");
    let there = world.there("office").await;
    assert!(there.iter().any(|key| Some(&key.id) == after.id.as_ref() && key.valid), "NetBird has no such key");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_revoke_is_not_done_while_netbird_still_has_a_replaced_key() {
    let world = World::new("plugin-nb-replaced").await;
    let person = Person::administrator(&world.cluster);
    let operator = world.cluster.start_operator().await;
    let first = world.issue("office", json!({})).await;
    world.cluster.rotate("office", &first).await;
    let refusal = Fault::Answer(Canned::refusal(422, "not now"));
    let refusals = world.netbird.proxy.inject(on(DELETE), Which::Every, refusal);
    let said = person.runs(&["revoke", "office", "--timeout", "10s"]);
    let there = world.there("office").await;
    assert!(there.iter().any(|key| Some(&key.id) == first.id.as_ref() && key.valid), "the replaced key has ended");
    let expected = "setupkey office is written as revoked, and is not reported so after 10s: ";
    assert!(said.fails().starts_with(expected), "{said:?}");
    refusals.remove();
    assert_eq!(person.runs(&["revoke", "office"]).ok(), "setupkey office: revoked\n");
    assert!(world.only("office").await.revoked);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_verbs_say_that_netbird_does_not_answer() {
    let world = World::new("plugin-nb-down").await;
    let person = Person::administrator(&world.cluster);
    let operator = world.cluster.start_operator().await;
    for name in ["revoked", "rotated", "now"] {
        world.issue(name, json!({})).await;
    }
    world.netbird.proxy.down();
    world.authority_says(AUTHORITY, "False Unreachable").await;
    let away = "did not answer as a NetBird server";
    for (arguments, said) in [
        (
            vec!["revoke", "revoked", "--timeout", "5s"],
            "setupkey revoked is written as revoked, and is not reported so after 5s: ",
        ),
        (
            vec!["rotate", "rotated", "--wait", "--timeout", "5s"],
            "the rotation of setupkey rotated is requested, and is not done after 5s: ",
        ),
        (
            vec!["rotate", "now", "--now", "--timeout", "5s"],
            "the rotation of setupkey now is requested, and it is not done after 5s: ",
        ),
    ] {
        let waited = person.runs(&arguments);
        assert!(waited.fails().starts_with(said) && waited.fails().contains(away), "{waited:?}");
    }
    assert!(world.cluster.keys().get("revoked").await.unwrap().spec.revoked, "nothing was written");
    assert!(!world.only("revoked").await.revoked);

    world.netbird.proxy.up().await;
    world.cluster.status_when("revoked", "revoked", |status| status.valid == Some(false)).await;
    assert!(world.only("revoked").await.revoked);
    for name in ["rotated", "now"] {
        world.cluster.status_when(name, "rotated", |status| status.revision == Some(2)).await;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_at_netbird_says_until_when_the_replaced_key_admits() {
    let world = World::new("plugin-nb-rotate").await;
    let person = Person::administrator(&world.cluster);
    let operator = world.cluster.start_operator().await;
    let spec = json!({ "usageLimit": 3, "rotation": { "overlap": "2h" } });
    let before = world.issue("office", spec).await;
    let said = person.runs(&["rotate", "office", "--wait"]);
    let after = world.cluster.keys().get("office").await.unwrap().status.unwrap();
    let (old, new) = (before.key.unwrap(), after.key.clone().unwrap());
    let until = after.previous[0].admits_until;
    assert_eq!(said.ok(), format!("setupkey office: revision 2 issued ({new}); {old} admits until {until}\n"));

    // The key without overlap is on no record, and NetBird is slow to delete it.
    let brief = world.issue("brief", json!({ "rotation": { "overlap": "0s" } })).await;
    world.netbird.proxy.inject(on(DELETE), Which::First(1), Fault::Delay(SLOW));
    let said = person.runs(&["rotate", "brief", "--wait"]);
    let old = brief.key.unwrap();
    let expected = format!("; {old} admits until NetBird has deleted it\n");
    assert!(said.ok().ends_with(&expected), "{said:?}");
    assert!(world.there("brief").await.iter().any(|key| Some(&key.id) == brief.id.as_ref()), "it is deleted already");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_rotate_now_waits_until_netbird_has_deleted_all_earlier_keys() {
    let world = World::new("plugin-nb-now").await;
    let person = Person::administrator(&world.cluster);
    let operator = world.cluster.start_operator().await;
    // In words that this program would not choose.
    world.cluster.apply("office", &format!("authorityRef: {{name: {AUTHORITY}}}, rotation: {{overlap: 120m}}"));
    let first = world.cluster.ready("office").await;
    let second = world.cluster.rotate("office", &first).await;
    assert_eq!(world.there("office").await.len(), 2);
    world.netbird.proxy.inject(on(DELETE), Which::First(2), Fault::Delay(SLOW));
    let said = person.runs(&["rotate", "office", "--now"]);
    let there = world.only("office").await;
    let key = world.cluster.keys().get("office").await.unwrap();
    let after = key.status.unwrap();
    assert_eq!(Some(&there.id), after.id.as_ref());
    let (new, old) = (after.key.unwrap(), second.key.unwrap());
    assert_eq!(said.ok(), format!("setupkey office: revision 3 issued ({new}); {old} admits no machine any more\n"));
    assert!(after.previous.is_empty());
    let stored = world.cluster.kubectl_ok(&["get", "sk", "office", "-o", "jsonpath={.spec.rotation.overlap}"], "");
    assert_eq!(stored, "120m", "the overlap is not as it was");

    // NetBird refuses to delete the replaced key.
    let refusal = Fault::Answer(Canned::refusal(500, "internal server error"));
    let refusals = world.netbird.proxy.inject(on(DELETE), Which::Every, refusal);
    let said = person.runs(&["rotate", "office", "--now", "--timeout", "10s"]);
    assert!(
        said.fails().starts_with(
            "setupkey office is rotated, and NetBird has not confirmed after 10s that the replaced key is deleted: "
        ),
        "{said:?}"
    );
    let stored = world.cluster.kubectl_ok(&["get", "sk", "office", "-o", "jsonpath={.spec.rotation.overlap}"], "");
    assert_eq!(stored, "120m", "the overlap is not as it was");
    refusals.remove();
    world.settled_there("office").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_unrevoke_says_that_an_unused_key_stays_as_it_is() {
    let world = World::new("plugin-nb-unused").await;
    let person = Person::administrator(&world.cluster);
    let operator = world.cluster.start_operator().await;
    world.issue("office", json!({ "revokeUnusedAfter": "48h" })).await;
    operator.stop().await;
    let ahead = TestClock::default();
    ahead.step(TimeDelta::hours(49));
    let operator = world.cluster.start_operator_at(ahead).await;
    world.cluster.status_when("office", "unused", |status| says(status, "Valid") == "False Unused").await;
    let said = person.runs(&["unrevoke", "office"]);
    let expected = "setupkey office: not revoked; it still admits no machine: No peer has used the key for 48h, so it is revoked. Raise or remove revokeUnusedAfter to let it admit peers again.\n";
    assert_eq!(said.ok(), expected);
    let waited = person.runs(&["wait", "office", "--for", "valid", "--timeout", "1s"]);
    assert!(
        waited.fails().starts_with("setupkey office is not valid after 1s: it is revoked: No peer has used"),
        "{waited:?}"
    );
    operator.stop().await;
}
