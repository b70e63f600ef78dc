use serde_json::{Value, json};

use super::{super::wire::read, *};

fn key(object: Value) -> SetupKey {
    serde_json::from_value(object).unwrap()
}

/// An issued key that was never used.
fn office() -> SetupKey {
    key(json!({
        "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
        "metadata": { "name": "office-x7k2p", "generation": 1, "creationTimestamp": "2026-11-24T00:42:00Z" },
        "spec": {
            "name": "Office, 2nd floor", "usageLimit": 3, "expiresIn": "24h", "autoGroups": ["office"],
            "ephemeral": true, "allowExtraDnsLabels": true,
        },
        "status": {
            "observedGeneration": 1, "id": "dc2dqmtqmd2tbgsp86m0", "key": "563A1****", "digest": "d",
            "expires": "2026-11-25T00:42:03Z", "usedTimes": 0, "updatedAt": "2026-11-24T00:42:03Z",
        },
    }))
}

fn now() -> DateTime<Utc> {
    "2026-11-24T06:00:00Z".parse().unwrap()
}

fn seen(key: &SetupKey) -> Value {
    serde_json::to_value(answer(key, now()).expect("an id")).unwrap()
}

#[test]
fn an_answer_has_every_field_of_netbird_and_no_other() {
    let answer = serde_json::to_string(&answer(&office(), now())).unwrap();
    let netbirds = concat!(
        r#"{"allow_extra_dns_labels":true,"auto_groups":["office"],"ephemeral":true,"expires":"2026-11-25T00:42:03Z","#,
        r#""id":"dc2dqmtqmd2tbgsp86m0","key":"563A1****","last_used":"0001-01-01T00:00:00Z","#,
        r#""name":"Office, 2nd floor","revoked":false,"state":"valid","type":"reusable","#,
        r#""updated_at":"2026-11-24T00:42:03Z","usage_limit":3,"used_times":0,"valid":true}"#,
    );
    assert_eq!(answer, netbirds);
}

#[test]
fn the_state_is_that_of_the_moment_whatever_the_status_reports() {
    let mut key = office();
    key.status.as_mut().unwrap().state = Some(State::Valid);
    key.status.as_mut().unwrap().used_times = 3;
    assert_eq!((&seen(&key)["state"], &seen(&key)["valid"]), (&json!("overused"), &json!(false)));
    key.spec.revoked = true;
    assert_eq!(seen(&key)["state"], "revoked");
    key.status.as_mut().unwrap().expires = Some("2026-11-24T05:59:59Z".parse().unwrap());
    assert_eq!((&seen(&key)["state"], &seen(&key)["valid"]), (&json!("expired"), &json!(false)));
}

#[test]
fn never_is_written_as_netbird_writes_it() {
    let mut key = office();
    assert_eq!(seen(&key)["last_used"], "0001-01-01T00:00:00Z");
    key.status.as_mut().unwrap().expires = None;
    assert_eq!(seen(&key)["expires"], "0001-01-01T00:00:00Z");
}

#[test]
fn a_key_that_was_applied_has_the_name_of_its_object() {
    let mut key = office();
    key.spec.name = None;
    assert_eq!(seen(&key)["name"], "office-x7k2p");
}

#[test]
fn the_limit_is_the_one_that_holds() {
    let mut key = office();
    key.spec.usage_limit = 0;
    assert_eq!(seen(&key)["usage_limit"], 0);
    key.spec.key_type = KeyType::OneOff;
    assert_eq!(seen(&key)["usage_limit"], 1);
}

/// A key whose Secret belongs to another owner: the controller has taken the digest and the mask out of the status.
fn without_a_secret() -> SetupKey {
    let mut key = office();
    let status = key.status.as_mut().unwrap();
    (status.digest, status.key) = (None, None);
    key
}

#[test]
fn a_key_that_no_secret_holds_reads_revoked_though_nothing_revoked_it() {
    let seen = seen(&without_a_secret());
    assert_eq!((&seen["state"], &seen["valid"], &seen["key"]), (&json!("revoked"), &json!(false), &json!("")));
    assert_eq!(seen["revoked"], false);
}

#[test]
fn a_key_that_no_secret_holds_reads_expired_once_it_has() {
    let mut key = without_a_secret();
    key.status.as_mut().unwrap().expires = Some(now().into());
    assert_eq!(seen(&key)["state"], "revoked");
    key.status.as_mut().unwrap().expires = Some("2026-11-24T05:59:59Z".parse().unwrap());
    assert_eq!((&seen(&key)["state"], &seen(&key)["valid"]), (&json!("expired"), &json!(false)));
}

#[test]
fn a_change_that_the_controller_has_not_noted_was_made_now() {
    let mut key = office();
    key.metadata.generation = Some(2);
    assert_eq!(seen(&key)["updated_at"], "2026-11-24T06:00:00Z");
}

#[test]
fn a_key_without_an_id_cannot_be_shown() {
    let mut key = office();
    key.status.as_mut().unwrap().id = None;
    assert!(answer(&key, now()).is_none());
}

fn asked_for(body: &str) -> Result<SetupKey, Refusal> {
    created(read::<CreateRequest>(body.as_bytes())?)
}

#[test]
fn a_request_becomes_a_setup_key() {
    let body = r#"{"name":"Office, 2nd floor","type":"reusable","expires_in":90000,"auto_groups":["a","b","a"],
        "usage_limit":3,"ephemeral":true,"allow_extra_dns_labels":true}"#;
    let key = serde_json::to_value(asked_for(body).unwrap()).unwrap();
    assert_eq!(key["metadata"], json!({ "generateName": "office-2nd-floor-" }));
    let spec = json!({
        "name": "Office, 2nd floor", "type": "reusable", "expiresIn": "25h", "autoGroups": ["a", "b"],
        "usageLimit": 3, "ephemeral": true, "allowExtraDnsLabels": true, "revoked": false,
    });
    assert_eq!(key["spec"], spec);
}

#[test]
fn what_is_refused_is_refused_with_a_reason() {
    let range = "expires_in must be from 86400 to 31536000 seconds, which is one day to 365 days; a key that never expires is not offered";
    let limit = "usage_limit must be from 0, which is any number, to 2147483647";
    for (fields, reason) in [
        (r#""name":"","type":"reusable","expires_in":86400"#, "setup key name shouldn't be empty"),
        (r#""type":"reusable","expires_in":86400"#, "setup key name shouldn't be empty"),
        (r#""name":"k","type":"Weird","expires_in":86400"#, "unknown setup key type weird"),
        (r#""name":"k","expires_in":86400"#, "unknown setup key type "),
        (
            r#""name":"k","type":"one-off","usage_limit":5,"expires_in":86400"#,
            "usage_limit 5 is not valid for a one-off setup key, which can be used once; use type reusable for a key that can be used more than once",
        ),
        (r#""name":"k","type":"reusable","expires_in":-1"#, "expiresin can not be in the past"),
        (r#""name":"k","type":"reusable""#, range),
        (r#""name":"k","type":"reusable","expires_in":0"#, range),
        (r#""name":"k","type":"reusable","expires_in":86399"#, range),
        (r#""name":"k","type":"reusable","expires_in":31536001"#, range),
        (r#""name":"k","type":"reusable","expires_in":9300000000"#, range),
        (r#""name":"k","type":"reusable","expires_in":86400,"usage_limit":-5"#, limit),
        (r#""name":"k","type":"reusable","expires_in":86400,"usage_limit":2147483648"#, limit),
        (
            r#""name":"a\u001bb","type":"weird""#,
            "setup key name may not contain control characters, such as line breaks and tabs",
        ),
    ] {
        let refusal = asked_for(&format!("{{{fields}}}")).expect_err(fields);
        assert_eq!((refusal.status().as_u16(), refusal.to_string().as_str()), (422, reason), "{fields}");
    }
}

#[test]
fn a_one_off_key_may_leave_its_limit_out() {
    for limit in [0, 1] {
        let body = format!(r#"{{"name":"k","type":"one-off","usage_limit":{limit},"expires_in":86400}}"#);
        assert_eq!(asked_for(&body).unwrap().spec.effective_usage_limit(), Some(1));
    }
}

#[test]
fn an_update_must_name_the_groups_and_may_leave_revoked_out() {
    let asked_for = |body: &str| changed(read::<UpdateRequest>(body.as_bytes())?);
    for body in [r#"{"revoked":true}"#, r#"{"revoked":true,"auto_groups":null}"#] {
        let refusal = asked_for(body).expect_err(body);
        assert_eq!(refusal.to_string(), "setup key autogroups field is invalid");
    }
    let change = asked_for(r#"{"auto_groups":[]}"#).unwrap();
    assert_eq!(change, Change { revoked: false, auto_groups: vec![] });
}

#[test]
fn the_name_of_an_object_begins_like_that_of_its_key() {
    for (name, begins) in [
        ("office", "office-"),
        ("Office, 2nd floor!", "office-2nd-floor-"),
        ("--a__b--", "a-b-"),
        ("Büro", "b-ro-"),
        ("事務所", "key-"),
        ("!", "key-"),
    ] {
        assert_eq!(prefix(name), begins, "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn every_text_begins_a_name_that_kubernetes_takes(text in "\\PC{1,255}") {
        let drawn = format!("{}bcdfg", prefix(&text));
        let pattern = regex::Regex::new("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$").unwrap();
        proptest::prop_assert!(pattern.is_match(&drawn) && drawn.len() <= 63, "{}", drawn);
    }
}

fn change_of(key: &SetupKey, body: &str) -> Result<Change, String> {
    let change = changed(read(body.as_bytes()).unwrap()).unwrap();
    change.allowed_for(key).map(|()| change).map_err(|refusal| refusal.to_string())
}

fn with_groups(groups: &[&str]) -> String {
    json!({ "revoked": true, "auto_groups": groups }).to_string()
}

fn at_netbird() -> SetupKey {
    let mut key = office();
    key.spec.authority_ref = serde_json::from_value(json!({ "name": "netbird" })).unwrap();
    key
}

#[test]
fn where_a_key_lives_decides_what_its_groups_may_be_called() {
    let (longest, too_long) = ("a".repeat(63), "a".repeat(64));
    let (longest_there, too_long_there) = ("ü".repeat(255), "ü".repeat(256));
    for (group, here, there) in [
        ("office", true, true),
        ("a.b_c-d", true, true),
        (&longest, true, true),
        (&too_long, false, true),
        ("Second Floor", false, true),
        ("-office", false, true),
        ("büro", false, true),
        ("All", true, true),
        ("", false, false),
        (" office", false, false),
        ("office\n", false, false),
        (&longest_there, false, true),
        (&too_long_there, false, false),
    ] {
        assert_eq!(change_of(&office(), &with_groups(&[group])).is_ok(), here, "{group:?}");
        assert_eq!(change_of(&at_netbird(), &with_groups(&[group])).is_ok(), there, "{group:?} at NetBird");
    }
    let said = change_of(&office(), &with_groups(&["ok", &too_long])).unwrap_err();
    assert!(said.starts_with(&format!("invalid auto groups: no group can be called \"{longest}\"; ")), "{said}");
}

#[test]
fn a_key_has_at_most_64_groups() {
    let groups: Vec<_> = (0..65).map(|number| format!("g{number}")).collect();
    let groups: Vec<_> = groups.iter().map(String::as_str).collect();
    assert!(change_of(&office(), &with_groups(&groups[..64])).is_ok());
    let refused = Err("invalid auto groups: a key can have at most 64 groups".to_owned());
    assert_eq!(change_of(&office(), &with_groups(&groups)), refused);
}

#[test]
fn a_revocation_is_taken_back_for_keys_of_the_cluster_only() {
    let unrevoke = r#"{"revoked":false,"auto_groups":[]}"#;
    let (mut here, mut there) = (office(), at_netbird());
    assert!(change_of(&there, unrevoke).is_ok(), "it is not revoked");
    (here.spec.revoked, there.spec.revoked) = (true, true);
    assert!(change_of(&here, unrevoke).is_ok());
    assert_eq!(change_of(&there, unrevoke), Err("can't un-revoke a revoked setup key".to_owned()));
    assert!(change_of(&there, &with_groups(&["a"])).is_ok(), "it stays revoked");
}
