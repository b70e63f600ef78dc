//! Random changes drawn from the CRD's own schema, each judged by a small model of the README's table.
//!
//! Each sequence creates a `SetupKey` with a random spec. Each step then sets, unsets or spoils one field. The model
//! says whether the API server accepts the step, and what the cluster looks like afterwards. Undoing a step must
//! restore the earlier state. A fresh object with the same spec must reach the same state. A refused step must change
//! nothing, and no step may change the key itself. The idea comes from Acto (Gu et al., SOSP 2023), a tester for
//! operators.
//!
//! A field that is new in the schema, or has a new bound, fails the test until the model covers it.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::LazyLock,
};

use futures::{FutureExt, future::join_all};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
};
use rand::{RngExt, SeedableRng, prelude::IndexedRandom, rngs::SmallRng};
use serde_json::{Value, json};
use setupkey_operator::api::{SetupKey, Timestamp};

use crate::harness::{Cluster, digest, eventually, setup_key_crd};

/// At most 26: each sequence names its key by a letter.
const SEQUENCES: u64 = 20;
const STEPS: usize = 40;
/// The random specs that each sequence tries to create. It continues with the last accepted one.
const CREATIONS: usize = 6;

type Tally = BTreeMap<String, usize>;

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_taken_up_or_refused_as_the_readme_says() {
    // The fresh objects have the same names as the first ones, so they need a namespace of their own.
    let (cluster, fresh) = (Cluster::for_test("acto").await, Cluster::for_test("acto_fresh").await);
    let operators = [cluster.start_operator().await, fresh.start_operator().await];
    let replayed = std::env::var("ACTO_SEED").ok().map(|seed| seed.parse().expect("ACTO_SEED is a number"));
    let seeds = replayed.map_or(0..SEQUENCES, |seed| seed..seed + 1);
    let tallies = join_all(seeds.map(|seed| Sequence::of(seed, &cluster, &fresh).run())).await;

    let mut total = Tally::new();
    for (what, count) in tallies.into_iter().flatten() {
        *total.entry(what).or_default() += count;
    }
    println!("{total:#?}");
    if replayed.is_none() {
        assert!(total["steps"] >= 500 && total["reverted"] >= 150 && total["refused"] >= 150, "too little was tried");
        for change in TABLE.iter().flat_map(|(path, ..)| ["set", "unset", "spoil"].map(|how| format!("{how} {path}"))) {
            assert!(total.contains_key(&change), "no step was to {change}");
        }
    }
    for operator in operators {
        operator.stop().await;
    }
}

// The model.

/// The README's table: each field, its default in YAML, where NAME is `metadata.name`, and whether it may change.
const TABLE: [(&str, &str, bool); 19] = [
    ("name", "NAME", false),
    ("type", "reusable", false),
    ("expiresIn", "720h", false),
    ("autoGroups", "[]", true),
    ("usageLimit", "0", false),
    ("ephemeral", "false", false),
    ("allowExtraDnsLabels", "false", false),
    ("revoked", "false", true),
    ("rotation.renewBefore", "null", true),
    ("rotation.overlap", "24h", true),
    ("revokeUnusedAfter", "null", true),
    ("secret.name", "NAME", false),
    ("secret.key", "setup-key", false),
    ("secret.aliases", "[]", true),
    (URL_KEY, "null", true),
    ("secret.labels", "{}", true),
    ("secret.annotations", "{}", true),
    (AUTHORITY, "null", false),
    ("deletionPolicy", "Delete", true),
];

/// The keys of this test are those of the cluster itself, so no change may give them an authority.
const AUTHORITY: &str = "authorityRef";

/// The fields that hold a duration.
const DURATIONS: [&str; 4] = ["expiresIn", "rotation.renewBefore", "rotation.overlap", "revokeUnusedAfter"];

/// Without an authority, every value of it is refused.
const URL_KEY: &str = "secret.managementUrlKey";

/// The value of a field in the spec, or its default.
fn said(spec: &Value, path: &str, name: &str) -> Value {
    let written = spec.pointer(&pointer(path)).filter(|value| !value.is_null());
    written.cloned().unwrap_or_else(|| {
        let (_, default, _) = TABLE.iter().find(|(told, ..)| *told == path).expect("a field of the table");
        serde_yaml::from_str(&default.replace("NAME", name)).expect("YAML")
    })
}

/// The fields that make the API server refuse a spec of valid values. Empty if it must accept the spec.
fn objections(before: Option<&Value>, after: &Value, name: &str) -> Vec<String> {
    let fixed = TABLE.iter().filter(|(.., may_change)| !may_change).map(|(path, ..)| *path);
    let changed = fixed.filter(|path| before.is_some_and(|before| said(before, path, name) != said(after, path, name)));
    let mut objections: Vec<_> = changed.map(str::to_owned).collect();
    if said(after, "type", name) == "one-off" && said(after, "usageLimit", name).as_u64() > Some(1) {
        objections.push("usageLimit".to_owned());
    }
    if said(after, "deletionPolicy", name) == "Retain" && said(after, AUTHORITY, name).is_null() {
        objections.push("deletionPolicy".to_owned());
    }
    let lifetime = said(after, "expiresIn", name);
    let exceeds = |path, more: f64| {
        said(after, path, name)
            .as_str()
            .is_some_and(|text| seconds(text) + more > seconds(lifetime.as_str().expect("text")))
    };
    objections.extend(exceeds("rotation.renewBefore", 3600.0).then(|| "rotation.renewBefore".to_owned()));
    objections.extend(exceeds("rotation.overlap", 0.0).then(|| "rotation.overlap".to_owned()));
    let aliases = said(after, "secret.aliases", name);
    if aliases.as_array().is_some_and(|aliases| aliases.contains(&said(after, "secret.key", name))) {
        objections.push("secret.aliases".to_owned());
    }
    if !said(after, URL_KEY, name).is_null() && said(after, AUTHORITY, name).is_null() {
        objections.push(URL_KEY.to_owned());
    }
    objections
}

/// What the cluster must look like for a spec.
fn promised(spec: &Value, name: &str) -> Value {
    let said = |path| said(spec, path, name);
    let revoked = said("revoked") == true;
    let limit = match said("usageLimit") {
        _ if said("type") == "one-off" => json!(1),
        limit if limit == 0 => Value::Null,
        limit => limit,
    };
    let mut data = vec![said("secret.key")];
    data.extend(said("secret.aliases").as_array().into_iter().flatten().cloned());
    data.sort_by_key(Value::to_string);
    let mut labels = said("secret.labels");
    labels["app.kubernetes.io/managed-by"] = "setupkey-operator".into();
    labels["setupkey.dev/key"] = name.into();
    json!({
        "state": if revoked { "revoked" } else { "valid" },
        "valid": !revoked,
        "usageLimit": limit,
        "usedTimes": 0,
        "lastUsed": null,
        "conditions": ["Ready True Reconciled", if revoked { "Valid False Revoked" } else { "Valid True Valid" }],
        "recorded": [said("secret.name"), said("secret.key")],
        "labels": labels,
        "annotations": said("secret.annotations"),
        "data": data,
    })
}

/// The seconds of a duration in hours, minutes and seconds.
fn seconds(duration: &str) -> f64 {
    let parts = duration.split_inclusive(['h', 'm', 's']).map(|part| {
        let (number, unit) = part.split_at(part.len() - 1);
        let number: f64 = number.parse().expect("a number");
        number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                _ => 1.0,
            }
    });
    parts.sum()
}

// The generator.

/// Values that the CEL rules accept and refuse, which cannot be derived from the schema. NAME is `metadata.name`: it
/// makes the Secrets of the sequences differ.
static SAMPLES: LazyLock<BTreeMap<String, [Vec<String>; 2]>> = LazyLock::new(|| {
    let samples = r#"
expiresIn:
- [24h, 8760h, 720h, 720h0m0s, 36h30m, 24.5h, 86400s]
- [23h59m59s, 8760h1s, 30d, -48h, '', '720', 9999h9999h9999h]
rotation.renewBefore:
- [1h, 23h, 35h30m, 168h, 3600s]
- [59m59s, 7d, -2h, '', '720', 9999h9999h9999h]
rotation.overlap:
- [0s, 1s, 24h, 36h30m, 720h]
- [-1s, 2d, '', '0', 8760h1s]
revokeUnusedAfter:
- [24h, 720h, 36h30m, 8760h]
- [23h59m59s, 8760h1s, 30d, -48h, '', '720']
name: [['"東京"', Büro], ["a\nb", "a\tb", "\e[31m"]]
autoGroups[]: [[office, A.b_c-1, '0'], [no spaces, -a, a-, a/b, ü]]
secret.name: [[NAME-0, NAME.b-c], [Not_DNS, -a, a., a..b, a/b]]
secret.key: &data-keys [[setup-key, .netbird_KEY, a..b], [a/b, .., ., ..a, a b, ü]]
secret.aliases[]: *data-keys
secret.managementUrlKey: *data-keys
secret.labels[]: [['', a, A.b_c-1], [x y, -a, a-, ü]]
secret.labels keys: &keys
- [team, A.b_c-1, example.com/team, app.kubernetes.io/name, argocd.argoproj.io/sync-options]
- ['', a b, -a, a/b/c, setupkey.dev/key, argocd.argoproj.io/tracking-id, helm.toolkit.fluxcd.io/name, helm.sh/chart,
  meta.helm.sh/release-name, applyset.kubernetes.io/part-of, kubectl.kubernetes.io/last-applied-configuration,
  app.kubernetes.io/instance, app.kubernetes.io/managed-by]
secret.annotations keys: *keys
"#;
    serde_yaml::from_str(samples).expect("YAML")
});

/// A field of the spec, with values to try in it.
struct Field {
    path: String,
    valid: Vec<Value>,
    invalid: Vec<Value>,
}

/// Every field below a node of the schema, an object before its own fields.
fn fields(path: &str, schema: &Value, name: &str, rng: &mut SmallRng) -> Vec<Field> {
    if path == AUTHORITY {
        let named = |kind: &str, name: &str| json!({ "kind": kind, "name": name });
        let mut invalid = wrong_types("object");
        invalid.extend([json!({}), named("Issuer", "a"), named("Authority", ""), named("Authority", &"a".repeat(254))]);
        let valid = vec![Value::Null, json!({ "name": name }), named("ClusterAuthority", name)];
        return vec![Field { path: path.to_owned(), valid, invalid }];
    }
    let mut fields = vec![field(path, schema, name, rng)];
    // Kubernetes treats null as an absent field.
    fields[0].valid.push(Value::Null);
    for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { property.clone() } else { format!("{path}.{property}") };
        let leaf = schema["properties"].is_null();
        assert!(!leaf || TABLE.iter().any(|(told, ..)| *told == path), "spec.{path} is not in the table");
        fields.extend(self::fields(&path, schema, name, rng));
    }
    fields
}

/// One field, or the elements of a list or map.
fn field(path: &str, schema: &Value, name: &str, rng: &mut SmallRng) -> Field {
    let type_ = schema["type"].as_str().unwrap_or_default();
    let bound = |keyword: &str| schema[keyword].as_i64().unwrap_or_else(|| panic!("spec.{path} has no {keyword}"));
    let (mut valid, mut invalid) = (vec![], wrong_types(type_));
    let understood: &[&str] = match type_ {
        "boolean" => {
            valid.extend([json!(true), json!(false)]);
            &[]
        }
        "integer" => {
            let (least, most) = (bound("minimum"), bound("maximum"));
            valid.extend([least, least + 1, rng.random_range(least..=most), most].map(Value::from));
            invalid.extend([json!(least - 1), json!(most + 1), json!(0.5)]);
            &["minimum", "maximum", "format"]
        }
        "string" if schema["enum"].is_array() => {
            valid.extend(schema["enum"].as_array().into_iter().flatten().cloned());
            invalid.extend([json!(""), json!("other")]);
            &["enum"]
        }
        "string" => {
            let mut rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
            let samples = SAMPLES.get(path).cloned();
            assert!(
                samples.is_some() || rules.all(|rule| rule["rule"] == "self == oldSelf"),
                "no samples of spec.{path}"
            );
            // The limit counts characters, not bytes. Where a rule requires ASCII, the key's own letter serves.
            let letter = if samples.is_some() { name } else { "ü" };
            let of_length = |length: i64| match usize::try_from(length).expect("a length") {
                length if DURATIONS.contains(&path) => "0h".repeat(length.div_ceil(2) - 2) + "720h",
                length => letter.repeat(length),
            };
            let [right, wrong] = samples.unwrap_or([vec!["\"東京\"".to_owned()], vec![]]);
            valid.extend(right.iter().map(|text| Value::from(text.replace("NAME", name))));
            invalid.extend(wrong.into_iter().map(Value::from));
            for (bound, beyond) in [("minLength", -1), ("maxLength", 1)] {
                // Without an authority, a rule keeps groups as short as labels.
                let of_rule = (path == "autoGroups[]" && bound == "maxLength").then_some(63);
                if let Some(length) = of_rule.or(schema[bound].as_i64()) {
                    valid.push(of_length(length).into());
                    invalid.push(of_length(length + beyond).into());
                }
            }
            &["minLength", "maxLength"]
        }
        "array" => {
            let item = field(&format!("{path}[]"), &schema["items"], name, rng);
            let many = |count: i64| Value::from_iter((0..count).map(|number| format!("g{number}")));
            valid.extend([json!([]), many(bound("maxItems"))]);
            valid.extend((1..=4).map(|count| Value::from_iter(item.valid.sample(rng, count).cloned())));
            invalid.extend([many(bound("maxItems") + 1), json!(["a", "b", "a"])]);
            invalid.extend(item.invalid.iter().map(|wrong| json!(["a", wrong])));
            assert_eq!(schema["x-kubernetes-list-type"], "set", "spec.{path} may hold an item twice");
            &["items", "maxItems", "x-kubernetes-list-type"]
        }
        "object" if schema["properties"].is_object() => {
            valid.push(json!({}));
            &["properties"]
        }
        "object" => {
            let value = field(&format!("{path}[]"), &schema["additionalProperties"], name, rng);
            let [right, wrong] = &SAMPLES[&format!("{path} keys")];
            let many = |count: i64| Value::from_iter((0..count).map(|number| (format!("k{number}"), "v")));
            valid.extend([json!({}), many(bound("maxProperties"))]);
            for count in [1, 1, 2, 2, 3, 4] {
                let keys: Vec<_> = right.sample(rng, count).collect();
                valid.push(keys.into_iter().map(|key| (key.clone(), value.valid.choose(rng).cloned())).collect());
            }
            invalid.push(many(bound("maxProperties") + 1));
            invalid.extend(wrong.iter().map(|key| json!({ "team": "a", key: "a" })));
            invalid.extend(value.invalid.iter().map(|wrong| json!({ "team": "a", "wrong": wrong })));
            &["additionalProperties", "maxProperties"]
        }
        _ => panic!("spec.{path} is of a type that cannot be drawn yet: {schema}"),
    };
    for keyword in schema.as_object().into_iter().flat_map(|schema| schema.keys()).map(String::as_str) {
        let harmless = ["type", "description", "default", "x-kubernetes-validations"].contains(&keyword);
        assert!(harmless || understood.contains(&keyword), "spec.{path}: {keyword} is new here");
    }
    Field { path: path.to_owned(), valid, invalid }
}

/// A value of every JSON type except this one.
fn wrong_types(type_: &str) -> Vec<Value> {
    let types = ["boolean", "integer", "string", "array", "object"];
    let values = types.into_iter().zip([json!(true), json!(7), json!("true"), json!([]), json!({})]);
    values.filter(|(other, _)| *other != type_).map(|(_, value)| value).collect()
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

/// The spec with another value in one field, or without the field.
fn with(spec: &Value, path: &str, value: Option<Value>) -> Value {
    let mut spec = spec.clone();
    let (parent, leaf) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some(value) = value {
        *path.split('.').fold(&mut spec, |place, name| &mut place[name]) = value;
    } else if let Some(parent) = spec.pointer_mut(pointer(parent).trim_end_matches('/')) {
        parent.as_object_mut().map(|parent| parent.remove(leaf));
    }
    spec
}

// The sequences.

/// Everything that the test observes of a key.
struct Seen {
    /// What the spec alone decides. This includes the wording of messages, which the README does not specify.
    state: Value,
    /// The key itself, which no change of the spec may touch.
    issue: Value,
    /// The resource versions of the `SetupKey` and the Secret.
    versions: [String; 2],
}

struct Sequence<'a> {
    name: String,
    rng: SmallRng,
    fields: Vec<Field>,
    cluster: &'a Cluster,
    fresh: &'a Cluster,
    history: Vec<String>,
    tally: Tally,
}

impl<'a> Sequence<'a> {
    fn of(seed: u64, cluster: &'a Cluster, fresh: &'a Cluster) -> Self {
        let crd: Value = serde_yaml::from_reader(std::fs::File::open(setup_key_crd()).expect("the CRD")).expect("YAML");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let name = char::from(b'a' + (seed % 26) as u8).to_string();
        let mut rng = SmallRng::seed_from_u64(seed);
        let fields = fields("", schema, &name, &mut rng).split_off(1);
        let history = vec![format!("ACTO_SEED={seed} replays this:")];
        Self { name, rng, fields, cluster, fresh, history, tally: Tally::new() }
    }

    async fn run(mut self) -> Tally {
        let played = AssertUnwindSafe(self.play()).catch_unwind().await;
        played.unwrap_or_else(|panic| {
            eprintln!("{}", self.history.join("\n  "));
            resume_unwind(panic)
        });
        self.tally
    }

    async fn play(&mut self) {
        let mut spec = json!({});
        for _ in 0..CREATIONS {
            let (other, objections) = self.draw_spec();
            if objections.is_empty() {
                self.on_a_fresh_object(&other).await;
                spec = other;
            } else {
                assert_refused(self.send(self.cluster, &other, None).await, &objections);
                assert!(self.cluster.keys().get_opt(&self.name).await.expect("an answer").is_none());
                assert!(self.secrets_of_key(self.cluster).await.is_empty());
            }
        }
        self.send(self.cluster, &spec, None).await.expect("an accepted creation");
        let mut seen = self.look(self.cluster, &spec).await;
        for _ in 0..STEPS {
            let (after, objections) = self.draw_change(&spec);
            if objections.is_empty() {
                seen = self.there_and_back(&spec, &after, seen).await;
                spec = after;
            } else {
                // The update is based on the version last seen, so any later write in between fails the next step.
                assert_refused(self.send(self.cluster, &after, Some(&seen)).await, &objections);
                assert_eq!(self.look(self.cluster, &spec).await.versions, seen.versions, "something moved");
                self.count("refused");
            }
        }
    }

    /// Makes a change, takes it back and makes it again; then makes it on a fresh object.
    async fn there_and_back(&mut self, before: &Value, after: &Value, seen_before: Seen) -> Seen {
        let seen = self.change(after, &seen_before).await;
        self.count("accepted");
        if seen.versions[0] == seen_before.versions[0] {
            // The API server saw no change, so there is nothing to take back.
            assert_eq!(seen.versions, seen_before.versions, "an object was written without a change");
            return seen;
        }
        let back = self.change(before, &seen).await;
        assert_eq!(back.state, seen_before.state, "going back does not lead back");
        let again = self.change(after, &back).await;
        assert_eq!(again.state, seen.state, "the same change leads elsewhere the second time");
        self.count("reverted");
        assert_eq!(self.on_a_fresh_object(after).await, seen.state, "a fresh object has another state");
        again
    }

    /// Makes a change that must be accepted and must leave the key alone.
    async fn change(&self, spec: &Value, before: &Seen) -> Seen {
        let stored = self.send(self.cluster, spec, Some(before)).await.expect("an accepted change");
        for (path, ..) in &TABLE {
            let (stored, sent) = (said(&stored.data["spec"], path, &self.name), said(spec, path, &self.name));
            assert_eq!(stored, sent, "spec.{path} was not stored as sent");
        }
        let seen = self.look(self.cluster, spec).await;
        assert_eq!(seen.issue, before.issue, "the key was touched");
        seen
    }

    /// The state that the spec gives an object without a history.
    async fn on_a_fresh_object(&mut self, spec: &Value) -> Value {
        self.send(self.fresh, spec, None).await.expect("an accepted creation");
        let state = self.look(self.fresh, spec).await.state;
        self.fresh.keys().delete(&self.name, &DeleteParams::default()).await.expect("a deletion");
        // The next fresh object needs the name of this Secret.
        let collected = || async { self.secrets_of_key(self.fresh).await.is_empty().then_some(()) };
        eventually("the Secret to be collected", collected).await;
        self.count("fresh");
        state
    }

    async fn secrets_of_key(&self, cluster: &Cluster) -> Vec<Secret> {
        let of_key = ListParams::default().labels(&format!("setupkey.dev/key={}", self.name));
        cluster.secrets().list(&of_key).await.expect("the Secrets").items
    }

    /// Creates the `SetupKey`, or replaces the version that was seen.
    async fn send(&self, cluster: &Cluster, spec: &Value, seen: Option<&Seen>) -> kube::Result<DynamicObject> {
        let resource = ApiResource::erase::<SetupKey>(&());
        let keys: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
        let mut key = DynamicObject::new(&self.name, &resource).data(json!({ "spec": spec }));
        key.metadata.resource_version = seen.map(|seen| seen.versions[0].clone());
        match seen {
            None => keys.create(&PostParams::default(), &key).await,
            Some(_) => keys.replace(&self.name, &PostParams::default(), &key).await,
        }
    }

    /// Observes the key once its status reports the present spec. By then everything that the spec promises must be
    /// true.
    async fn look(&self, cluster: &Cluster, spec: &Value) -> Seen {
        let key = eventually(&format!("SetupKey {} to be reconciled", self.name), || async {
            let key = cluster.keys().get(&self.name).await.ok()?;
            (key.status.as_ref()?.observed_generation == key.metadata.generation).then_some(key)
        })
        .await;
        let status = key.status.as_ref().expect("a status");
        let recorded = status.secret.as_ref().expect("a Secret on record");
        let secret = cluster.secrets().get(&recorded.name).await.expect("the Secret");
        assert_eq!(secret.resource_version().as_ref(), Some(&recorded.resource_version), "an old Secret is on record");

        let data = secret.data.clone().unwrap_or_default();
        let value = String::from_utf8(data[&recorded.key].0.clone()).expect("text");
        assert_eq!((&status.digest, &status.key), (&Some(digest(&value)), &Some(format!("{}****", &value[..5]))));
        let created = Timestamp::from(key.metadata.creation_timestamp.as_ref().expect("a moment"));
        let expires = status.expires.expect("an expiry");
        let lifetime = seconds(said(spec, "expiresIn", &self.name).as_str().expect("text"));
        let late = (expires.moment() - created.moment()).as_seconds_f64() - lifetime;
        assert!((0.0..60.0).contains(&late), "the key expires {late} s after the moment that was promised");
        let mut annotations = secret.annotations().clone();
        assert_eq!(annotations.remove("setupkey.dev/id"), status.id);
        assert_eq!(annotations.remove("setupkey.dev/expires"), Some(expires.to_string()));

        let conditions = status.conditions.iter();
        let findings = conditions.clone().map(|found| format!("{} {} {}", found.type_, found.status, found.reason));
        let messages = conditions.map(|found| found.message.replace(&expires.to_string(), "EXPIRES"));
        let state = json!({
            "state": status.state,
            "valid": status.valid,
            "usageLimit": status.usage_limit,
            "usedTimes": status.used_times,
            "lastUsed": status.last_used,
            "conditions": Value::from_iter(findings),
            "messages": Value::from_iter(messages),
            "recorded": [recorded.name, recorded.key],
            "labels": secret.labels(),
            "annotations": annotations,
            "data": Value::from_iter(data.keys().cloned()),
        });
        for (what, promised) in promised(spec, &self.name).as_object().into_iter().flatten() {
            assert_eq!(state[what], *promised, "{what}: left what there is, right what the spec promises");
        }
        Seen {
            state,
            issue: json!([status.id, status.digest, expires, secret.uid()]),
            versions: [key.resource_version(), secret.resource_version()].map(Option::unwrap_or_default),
        }
    }

    /// A spec, perhaps with one spoilt field, and the fields that the API server must object to.
    fn draw_spec(&mut self) -> (Value, Vec<String>) {
        let mut spec = json!({});
        for field in self.fields.iter().filter(|field| ![AUTHORITY, URL_KEY].contains(&field.path.as_str())) {
            if self.rng.random_bool(0.6) {
                spec = with(&spec, &field.path, field.valid.choose(&mut self.rng).cloned());
            }
        }
        let mut objections = objections(None, &spec, &self.name);
        if self.rng.random_bool(0.5) {
            let field = self.fields.choose(&mut self.rng).expect("a field");
            spec = with(&spec, &field.path, field.invalid.choose(&mut self.rng).cloned());
            objections = vec![field.path.clone()];
        }
        self.history.push(format!("create {spec}"));
        self.count("created");
        (spec, objections)
    }

    /// The spec with one changed field, and the fields that the API server must object to.
    fn draw_change(&mut self, spec: &Value) -> (Value, Vec<String>) {
        // The API server refuses most changes of an immutable field, so these are tried less often.
        let may_change = |field: &Field| TABLE.iter().any(|(path, _, may)| *may && *path == field.path);
        let weight = |field: &Field| if may_change(field) { 2 } else { 1 };
        let field = self.fields.choose_weighted(&mut self.rng, weight).expect("a field");
        let (how, values) = match self.rng.random_range(0..10) {
            0..=1 => ("unset", None),
            2..=4 => ("spoil", Some(&field.invalid)),
            _ => ("set", Some(&field.valid)),
        };
        let value = values.and_then(|values| values.choose(&mut self.rng)).cloned();
        let change = format!("{how} {}", field.path);
        self.history.push(format!("{change} {}", value.as_ref().map(Value::to_string).unwrap_or_default()));
        let after = with(spec, &field.path, value);
        let objections =
            if how == "spoil" { vec![field.path.clone()] } else { objections(Some(spec), &after, &self.name) };
        self.count("steps");
        self.count(&change);
        (after, objections)
    }

    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }
}

/// The API server must refuse the request and name every field that it objects to.
fn assert_refused(answer: kube::Result<DynamicObject>, objections: &[String]) {
    let Some(kube::Error::Api(refusal)) = answer.err() else { panic!("not refused because of {objections:?}") };
    assert!((400..500).contains(&refusal.code) && refusal.code != 409, "{refusal:?}");
    for path in objections {
        assert!(refusal.message.contains(&format!("spec.{path}")), "{path} is not named: {}", refusal.message);
    }
}
