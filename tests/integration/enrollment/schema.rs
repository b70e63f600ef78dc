//! What a schema-driven tester does: reads the OpenAPI document from the service, checks it, makes good and bad requests for
//! each call from it, and holds each answer against it.

use std::{collections::BTreeSet, net::SocketAddr};

use axum::body::Bytes;
use http::{Method, Request, header::AUTHORIZATION};
use http_body_util::Full;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    string::string_regex,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use super::{Answer, Machine, Replica, send};
use crate::harness::{Cluster, eventually};

/// Requests of each kind for each call.
const CASES: usize = 40;

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "patch", "trace"];

/// The document of a running service.
struct Document(Value);

impl Document {
    async fn of(at: SocketAddr) -> Self {
        let request = Request::get(format!("http://{at}/openapi.json")).body(Full::default()).unwrap();
        Self(send(request).await.unwrap().json())
    }

    /// Every call, as path, method and description.
    fn calls(&self) -> Vec<(&str, &str, &Value)> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        let calls = paths.flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(|(method, call)| (path.as_str(), method.as_str(), call))
        });
        calls.collect()
    }

    /// What a reference leads to.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads elsewhere"));
        self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    fn validator(&self, schema: &Value) -> jsonschema::Validator {
        let mut schema = schema.clone();
        schema["components"] = self.0["components"].clone();
        jsonschema::draft202012::new(&schema).unwrap()
    }

    /// What OpenAPI 3.1 demands, as far as this document has it.
    fn check(&self) {
        assert!(self.0["openapi"].as_str().unwrap().starts_with("3.1."));
        assert!(self.0["info"]["title"].is_string() && self.0["info"]["version"].is_string());
        self.check_references(&self.0);
        let mut ids = BTreeSet::new();
        for (path, method, call) in self.calls() {
            let at = format!("{method} {path}");
            assert!(path.starts_with('/') && METHODS.contains(&method), "{at}");
            assert!(ids.insert(call["operationId"].as_str().unwrap()), "{at}: the operationId is not unique");
            self.check_parameters(&at, path, call);
            self.check_responses(&at, call);
            if let Some(body) = call.get("requestBody") {
                self.check_content(&at, &self.resolved(body)["content"]);
            }
            for scheme in
                call["security"].as_array().into_iter().flatten().flat_map(|all| all.as_object().unwrap().keys())
            {
                assert!(self.0["components"]["securitySchemes"][scheme]["type"].is_string(), "{at}: {scheme}");
            }
        }
    }

    fn check_references(&self, value: &Value) {
        self.resolved(value);
        let within = value.as_object().into_iter().flat_map(|object| object.values());
        within.chain(value.as_array().into_iter().flatten()).for_each(|value| self.check_references(value));
    }

    fn check_parameters(&self, at: &str, path: &str, call: &Value) {
        let in_path: BTreeSet<_> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = call["parameters"].as_array().into_iter().flatten();
        let described: BTreeSet<_> = parameters
            .map(|parameter| self.resolved(parameter))
            .inspect(|parameter| {
                assert_eq!((&parameter["in"], &parameter["required"]), (&json!("path"), &json!(true)), "{at}");
                self.check_schema(at, &parameter["schema"]);
            })
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(described, in_path, "{at}");
    }

    fn check_responses(&self, at: &str, call: &Value) {
        let responses = call["responses"].as_object().unwrap();
        assert!(!responses.is_empty(), "{at}");
        for (status, response) in responses {
            let (at, response) = (format!("{at} {status}"), self.resolved(response));
            assert!(status.parse::<u16>().is_ok_and(|status| (100..600).contains(&status)), "{at}");
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{at}");
            for header in response["headers"].as_object().into_iter().flat_map(|headers| headers.values()) {
                self.check_schema(&at, &self.resolved(header)["schema"]);
            }
            if status == "204" {
                assert!(response.get("content").is_none(), "{at}");
            } else {
                self.check_content(&at, &response["content"]);
            }
        }
    }

    fn check_content(&self, at: &str, content: &Value) {
        let content = content.as_object().unwrap_or_else(|| panic!("{at}: no content"));
        assert!(!content.is_empty(), "{at}");
        content.values().for_each(|media| self.check_schema(at, &media["schema"]));
    }

    fn check_schema(&self, at: &str, schema: &Value) {
        assert!(schema.is_object(), "{at}: no schema");
        jsonschema::draft202012::meta::validate(self.resolved(schema)).unwrap_or_else(|error| panic!("{at}: {error}"));
    }

    /// Holds an answer against the description of its call.
    fn hold(&self, (path, method, call): (&str, &str, &Value), sent: &str, answer: &Answer) {
        let at = format!("{method} {path} {}: {sent}", answer.status);
        let response = &call["responses"][answer.status.to_string()];
        assert!(response.is_object(), "not described: {at}");
        let response = self.resolved(response);
        for header in response["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            assert!(answer.headers.contains_key(header.to_lowercase()), "no {header}: {at}");
        }
        match response["content"]["application/json"].get("schema") {
            None => assert!(answer.body.is_empty(), "a body: {at}"),
            Some(schema) => self.hold_body(&at, schema, answer),
        }
    }

    fn hold_body(&self, at: &str, schema: &Value, answer: &Answer) {
        assert_eq!(answer.headers["content-type"], "application/json", "{at}");
        let body = answer.json();
        let errors: Vec<_> = self.validator(schema).iter_errors(&body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}: {at}");
    }
}

/// Makes values from schemas.
struct Maker<'a> {
    document: &'a Document,
    runner: TestRunner,
}

impl<'a> Maker<'a> {
    fn of(document: &'a Document) -> Self {
        Self { document, runner: TestRunner::new(Config::default()) }
    }

    fn draw<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.runner).unwrap().current()
    }

    /// A value that the schema accepts.
    fn good(&mut self, schema: &Value) -> Value {
        let schema = self.document.resolved(schema);
        match schema["type"].as_str() {
            Some("string") => {
                let pattern = schema["pattern"].as_str().expect("a pattern for each text");
                let pattern = pattern.trim_start_matches('^').trim_end_matches('$');
                self.draw(string_regex(pattern).unwrap()).into()
            }
            Some("array") => {
                let most = schema["maxItems"].as_u64().expect("a limit on each list");
                let count = self.draw(0..=most);
                let items: BTreeSet<_> = (0..count).map(|_| self.good(&schema["items"]).to_string()).collect();
                items.iter().map(|item| serde_json::from_str::<Value>(item).unwrap()).collect()
            }
            Some("object") => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let mut object = json!({});
                for (name, property) in schema["properties"].as_object().unwrap() {
                    if required.contains(&json!(name)) || self.draw(any::<bool>()) {
                        object[name] = self.good(property);
                    }
                }
                object
            }
            other => panic!("no values of type {other:?} are made: {schema}"),
        }
    }

    /// Any value, mostly one that a schema refuses.
    fn any(&mut self) -> Value {
        let text = prop_oneof!["\\PC{0,80}", "[ -~]{0,300}", "[\\x00-\\x1f]{1,3}", Just(String::new())];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,9}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        self.draw(value)
    }

    /// A value that the schema refuses: a good one with a property taken away or replaced, or something else.
    fn bad(&mut self, schema: &Value) -> Value {
        let validator = self.document.validator(schema);
        for _ in 0..1000 {
            let mut value = self.good(schema);
            match value.as_object_mut().filter(|_| self.draw(0..4) > 0) {
                Some(object) => {
                    let names: Vec<_> = object.keys().cloned().collect();
                    let name = names[self.draw(0..names.len())].clone();
                    if self.draw(any::<bool>()) {
                        object.remove(&name);
                    } else {
                        object.insert(name, self.any());
                    }
                }
                None => value = self.any(),
            }
            if !validator.is_valid(&value) {
                return value;
            }
        }
        panic!("no value was found that is refused: {schema}");
    }

    /// The path with values for its parameters.
    fn path(&mut self, path: &str, call: &Value, good: bool) -> String {
        let mut path = path.to_owned();
        for parameter in call["parameters"].as_array().into_iter().flatten() {
            let value = if good {
                self.good(&parameter["schema"]).as_str().unwrap().to_owned()
            } else {
                self.draw(prop_oneof![
                    "(%[0-9a-f]{2}|[a-z0-9-]){1,40}",
                    "[a-zA-Z0-9.~_-]{1,300}",
                    Just("%ff".to_owned())
                ])
            };
            path = path.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), &value);
        }
        path
    }
}

async fn make(at: SocketAddr, method: &str, path: &str, tokens: &[&str], body: Vec<u8>) -> Answer {
    let method: Method = method.to_uppercase().parse().unwrap();
    let request = Request::builder().method(method).uri(format!("http://{at}{path}"));
    let request =
        tokens.iter().fold(request, |request, token| request.header(AUTHORIZATION, format!("Bearer {token}")));
    send(request.body(Full::new(Bytes::from(body))).unwrap()).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_to_requests_made_from_the_schema_is_as_described() {
    let cluster = Cluster::for_test("schema").await;
    let replica = Replica::start(&cluster).await;
    let (at, key) = (replica.address, cluster.issue("office", json!({ "allowExtraDnsLabels": true })).await);
    let document = Document::of(at).await;
    document.check();
    let mut maker = Maker::of(&document);
    let mut statuses = BTreeSet::new();
    for described in document.calls() {
        let (path, method, call) = described;
        let schema = &call["requestBody"]["content"]["application/json"]["schema"];
        let needs_token = call["security"].is_array();
        for _ in 0..CASES {
            let good_path = maker.path(path, call, true);
            let token = Machine::new().token;
            if schema.is_object() {
                let good = maker.good(schema).to_string();
                let answer = make(at, method, &good_path, &[], good.clone().into_bytes()).await;
                document.hold(described, &good, &answer);
                assert_eq!(answer.status, 403, "an unknown key in a good request: {good}");
                let bad = maker.bad(schema).to_string();
                let answer = make(at, method, &good_path, &[], bad.clone().into_bytes()).await;
                document.hold(described, &bad, &answer);
                assert!((400..500).contains(&answer.status), "{bad}");
                let broken = good.as_bytes()[..good.len() / 2].to_vec();
                let answer = make(at, method, &good_path, &[], broken.clone()).await;
                let broken = String::from_utf8_lossy(&broken);
                document.hold(described, &broken, &answer);
                assert_eq!(answer.status, 400, "{broken}");
            }
            if needs_token {
                for (tokens, status) in
                    [(vec![], 401), (vec!["short"], 401), (vec![&*token, &token], 401), (vec![&token], 404)]
                {
                    let bad_path = maker.path(path, call, false);
                    for path in [&good_path, &bad_path] {
                        let answer = make(at, method, path, &tokens, Vec::new()).await;
                        document.hold(described, path, &answer);
                        assert_eq!(answer.status, status, "{method} {path}");
                        statuses.insert(status);
                    }
                }
            }
        }
        // Other methods, and a path that is not there.
        let known: Vec<_> = document.calls().iter().filter(|call| call.0 == path).map(|call| call.1).collect();
        for other in METHODS.iter().filter(|method| !known.contains(method)) {
            let answer = make(at, other, &maker.path(path, call, true), &[], Vec::new()).await;
            assert_eq!(answer.status, 405, "{other} {path}: {answer:?}");
            let allowed = answer.headers["allow"].to_str().unwrap().to_lowercase();
            assert!(known.iter().all(|method| allowed.contains(method)), "{allowed}");
            document.hold_body(other, &json!({ "$ref": "#/components/schemas/Problem" }), &answer);
        }
    }
    assert_eq!(statuses, [401, 404].into());
    for path in ["/", "/v1", "/v1/enroll/", "/v1/peers", "/v2/%ff", "/openapi.yaml"] {
        let answer = make(at, "get", path, &[], Vec::new()).await;
        assert_eq!(answer.status, 404, "{path}");
        document.hold_body(path, &json!({ "$ref": "#/components/schemas/Problem" }), &answer);
    }

    // Good requests with a key that admits: each machine joins, and calls as the peer that it is.
    eventually("the key to be known", || async { (Machine::new().enroll(at, &key).await.status == 200).then_some(()) })
        .await;
    let enroll = document.calls().into_iter().find(|call| call.0 == "/v1/enroll").unwrap();
    let schema = &enroll.2["requestBody"]["content"]["application/json"]["schema"];
    for _ in 0..CASES {
        let mut body = maker.good(schema);
        body["setupKey"] = json!(key);
        let answer = make(at, "post", "/v1/enroll", &[], body.to_string().into_bytes()).await;
        document.hold(enroll, &body.to_string(), &answer);
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
    }
    replica.stop().await;
}
