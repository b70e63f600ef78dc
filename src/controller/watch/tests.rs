use kube::runtime::watcher::Event;
use serde_json::Value;

use super::*;

fn key(name: &str, change: &Value) -> WatchedKey {
    let mut key: Value = serde_json::from_slice(WatchedKey::dictionary()).unwrap();
    json_patch::merge(&mut key, &json!({ "metadata": { "name": name, "namespace": "n", "uid": name } }));
    json_patch::merge(&mut key, change);
    DeserializeGuard(Ok(serde_json::from_value(key).unwrap()))
}

fn issued(name: &str, digest: &str) -> WatchedKey {
    key(name, &json!({ "status": { "digest": digest } }))
}

fn undecodable(name: &str) -> WatchedKey {
    let metadata = serde_json::from_value(json!({ "name": name, "namespace": "n", "uid": "1" })).unwrap();
    DeserializeGuard(Err(InvalidObject { error: "no spec".to_owned(), metadata }))
}

/// Each field that a key can have.
fn full() -> WatchedKey {
    let previous = json!({
        "id": "0123456789abcdefghij", "digest": "b", "key": "BBBBB****", "expires": "2026-12-24T06:00:00Z",
        "admitsUntil": "2026-11-25T06:00:00Z", "usedTimes": 3, "usageLimit": 5,
    });
    let pending = json!({
        "keyId": "0123456789abcdefghij", "number": 4, "name": "peer-a", "publicKey": "p", "hostname": "h",
        "extraDnsLabels": ["web"], "tokenDigest": "t", "since": "2026-11-24T06:00:00Z",
    });
    let foreign = json!({
        "type": "example.org/Seen", "status": "Unknown", "reason": "Other", "message": "\"[{ü\n",
        "lastTransitionTime": "2026-11-24T06:00:00Z",
    });
    let mut key = key(
        "full",
        &json!({
            "metadata": {
                "deletionTimestamp": "2026-11-24T07:00:00Z", "finalizers": ["setupkey.dev/authority", "example.org/other"],
                "annotations": { "setupkey.dev/rotate-requested-at": "soon" },
            },
            "spec": {
                "name": "Office", "type": "one-off", "expiresIn": "36h30m", "autoGroups": ["servers", "läden"],
                "usageLimit": 1, "ephemeral": true, "allowExtraDnsLabels": true, "revoked": true,
                "rotation": { "renewBefore": "12h", "overlap": "0s" }, "revokeUnusedAfter": "720h",
                "authorityRef": { "kind": "ClusterAuthority", "name": "main" }, "deletionPolicy": "Retain",
                "secret": {
                    "name": "s", "key": "k", "aliases": ["NB_SETUP_KEY"], "managementUrlKey": "NB_MANAGEMENT_URL",
                    "labels": { "a": "b" }, "annotations": { "c": "d" },
                },
            },
            "status": {
                "observedGeneration": -1, "rotateAt": "2026-12-24T06:00:00Z", "unusedSince": "2026-11-23T06:00:00Z",
                "usageLimit": 1, "lastUsed": "2026-11-24T06:30:00Z", "state": "revoked", "valid": false,
                "previous": [previous], "pending": [pending],
                "authority": { "standing": "Active", "usedBefore": 2 },
                "secret": { "aliases": ["NB_SETUP_KEY"], "managementUrlKey": "U", "managementUrl": "https://a.example" },
            },
        }),
    );
    let status = key.0.as_mut().unwrap().status.as_mut().unwrap();
    status.conditions.push(serde_json::from_value(foreign).unwrap());
    key
}

fn read_back<K: Watchable>(object: &K) -> K {
    let packed = packed::Packed::new(&object.to_text(), K::dictionary());
    K::from_text(&packed.text(K::dictionary())).unwrap()
}

#[test]
fn a_key_is_read_back_as_it_was_kept() {
    for before in [full(), issued("office", "d"), key("new", &json!({ "status": null, "spec": {} }))] {
        assert_eq!(read_back(&before).0.unwrap(), before.0.unwrap());
    }
    let kept = read_back(&undecodable("odd")).0.unwrap_err();
    assert_eq!((kept.error.as_str(), kept.metadata.name.as_deref()), ("no spec", Some("odd")));
}

#[test]
fn a_secret_and_a_peer_are_read_back_as_they_were_kept() {
    let metadata = json!({
        "name": "s", "namespace": "n", "resourceVersion": "7", "labels": { "setupkey.dev/key": "office" },
        "ownerReferences": [
            { "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "name": "other", "uid": "u", "controller": true },
        ],
    });
    let mut secret = SecretMetadata { metadata: serde_json::from_value(metadata).unwrap(), ..Default::default() };
    secret.strip();
    assert_eq!(read_back(&secret).metadata, secret.metadata);
    let peer = json!({
        "metadata": { "name": "p", "namespace": "n", "uid": "u", "finalizers": ["setupkey.dev/pending"] },
        "spec": { "ephemeral": true, "setupKeyRef": { "name": "office", "uid": "u" } },
        "status": { "connected": true, "lastSeen": "2026-11-24T06:00:00Z" },
    });
    let mut peer: WatchedPeer = serde_json::from_value(peer).unwrap();
    peer.strip();
    assert_eq!(format!("{:?}", read_back(&peer)), format!("{peer:?}"));
}

#[test]
fn a_cache_shows_the_old_objects_until_a_list_is_complete() {
    let mut filling = Filling::new();
    let cache = filling.cache();
    let names = || {
        let mut names: Vec<_> = cache.names().iter().map(|name| name.name.clone()).collect();
        names.sort();
        names
    };
    for name in ["a", "b"] {
        assert_eq!(filling.apply(&Event::Apply(issued(name, name)))[0].name, name);
    }
    assert_eq!(filling.apply(&Event::Init), []);
    assert_eq!(filling.apply(&Event::InitApply(issued("b", "b"))), []);
    assert_eq!(filling.apply(&Event::InitApply(issued("c", "c"))), []);
    assert_eq!(names(), ["a", "b"]);
    assert_eq!(filling.apply(&Event::InitDone), [ObjectName::new("n", "a").into()], "what is gone");
    assert_eq!(names(), ["b", "c"]);
    assert_eq!(filling.apply(&Event::Delete(issued("b", "b"))), [ObjectName::new("n", "b").into()]);
    assert_eq!(names(), ["c"]);
    assert!(cache.get(&ObjectName::new("n", "b")).is_none());
}

#[test]
fn an_object_is_found_by_the_marks_that_it_has_now() {
    let mut filling = Filling::new();
    let cache = filling.cache();
    let of = |digest: &str| -> Vec<String> {
        let found = cache.marked(Mark::new(Sort::Digest, digest));
        found.iter().map(|name| name.name.clone()).collect()
    };
    for name in ["a", "b"] {
        filling.apply(&Event::Apply(issued(name, "one")));
    }
    assert_eq!(of("one"), ["a", "b"]);
    filling.apply(&Event::Apply(issued("a", "two")));
    assert_eq!((of("one"), of("two")), (vec!["b".to_owned()], vec!["a".to_owned()]));
    filling.apply(&Event::Apply(undecodable("a")));
    assert_eq!(of("two"), Vec::<String>::new());
    assert_eq!(cache.all_marked(Sort::Undecodable).len(), 1);
    filling.apply(&Event::Delete(issued("b", "anything")));
    assert_eq!(cache.all_marked(Sort::Digest), []);
    filling.apply(&Event::Apply(full()));
    let full = full().0.unwrap();
    let authority = AuthorityName::of_key(&full).unwrap();
    assert!(cache.has(authority.mark()) && cache.has(authority.mark_of_owner("full")));
    assert!(!cache.has(authority.mark_of_owner("other")));
    assert_eq!((of("a"), of("b")), (vec!["full".to_owned()], vec!["full".to_owned()]), "its replaced key too");
}

#[test]
fn most_of_a_key_is_in_the_dictionary() {
    let (id, digest) = ("0b5k2mv9qj1d7t3hc8ga", "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=");
    let settled = key(
        "checkout-service-0042",
        &json!({
            "metadata": {
                "namespace": "payments-production", "uid": "6f1c1f0a-8d3e-4b7a-9a53-0e2f5c9b7d41", "generation": 2,
                "resourceVersion": "104857", "creationTimestamp": "2026-10-02T17:41:09Z",
            },
            "spec": { "autoGroups": ["servers"], "usageLimit": 20 },
            "status": {
                "observedGeneration": 2, "id": id, "digest": digest, "key": "7Q2XM****", "usageLimit": 20, "usedTimes": 7,
                "expires": "2026-11-01T17:41:09Z", "issuedAt": "2026-10-02T17:41:09Z", "updatedAt": "2026-10-02T17:41:10Z",
                "secret": { "name": "checkout-service-0042", "resourceVersion": "104851" },
            },
        }),
    );
    let text = settled.to_text();
    let size = packed::Packed::new(&text, WatchedKey::dictionary()).size();
    assert!(size < 400 && size < text.len() / 2, "{size} bytes of {}", text.len());
}
