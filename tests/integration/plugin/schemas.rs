use serde_json::Value;

use super::{Person, audit, issued, status};
use crate::harness::{Cluster, page};

/// The JSON Schema that docs/plugin.md gives for the output of a verb.
fn documented(verb: &str) -> Value {
    let page = page("plugin.md");
    let (_, section) = page.split_once(&format!("\n### {verb} -o json\n")).expect("the section");
    let (_, schema) = section.split_once("```json\n").expect("the schema");
    let (schema, _) = schema.split_once("```").expect("the end of the schema");
    serde_json::from_str(schema).expect("JSON")
}

/// Whether the output of a verb is as documented. Each field is there, and no other one.
#[track_caller]
fn fits(verb: &str, output: &str) {
    let schema = documented(verb);
    let output: Value = serde_json::from_str(output).expect("JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    let errors: Vec<_> = validator.iter_errors(&output).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{verb}: {errors:?} in {output:#}");
    let mut more = output.clone();
    more["more"] = Value::Null;
    assert!(!validator.is_valid(&more), "{verb} may have any field");
    for field in output.as_object().expect("an object").keys() {
        let mut less = output.clone();
        less.as_object_mut().expect("an object").remove(field);
        assert!(!validator.is_valid(&less), "{verb} may lack {field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_outputs_for_scripts_are_as_documented() {
    let clusters = audit::sample().await;
    let person = Person::administrator(&clusters.network);
    let all = ["-A", "-l", &clusters.selector(), "-o", "json"];
    fits("list", person.runs(&[&["list"], &all[..]].concat()).ok());
    fits("audit", person.runs(&[&["audit"], &all[..]].concat()).ok());
    let cluster = status::sample("plugin-schema-status").await;
    fits("status", Person::administrator(&cluster).runs(&["status", "office", "-o", "json"]).ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_outputs_about_little_are_as_documented_too() {
    let cluster = Cluster::for_test("plugin-schema-little").await;
    let auditor = Person::with_rights(&cluster, "auditor", &[("list", "setupkeys.setupkey.dev")]);
    fits("list", auditor.runs(&["list", "-o", "json"]).ok());
    fits("audit", &auditor.runs(&["audit", "-o", "json"]).out);
    cluster.apply("fresh", "usageLimit: 5");
    issued(&cluster, "legacy", serde_json::json!({ "expiresIn": "8760h" }), serde_json::json!({})).await;
    fits("list", auditor.runs(&["list", "-o", "json"]).ok());
    fits("audit", &auditor.runs(&["audit", "-o", "json"]).out);
    for name in ["fresh", "legacy"] {
        fits("status", &auditor.runs(&["status", name, "-o", "json"]).out);
    }
}
