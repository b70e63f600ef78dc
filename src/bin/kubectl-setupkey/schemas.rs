//! The JSON Schemas of docs/plugin.md are those of the types.

use std::{fmt::Write, fs};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use crate::{audit::Audit, list::KeyList, status::Report};

/// A value that is longer than so many characters is written over several lines.
const WIDTH: usize = 124;

/// Set it to have the schemas in docs/plugin.md written again.
const RENEW: &str = "RENEW_SCHEMAS";

fn schema<T: JsonSchema>() -> String {
    // Outputs have every field, also those that are null.
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut text = String::new();
    write(&mut text, &generator.into_root_schema_for::<T>().to_value(), 0);
    text
}

/// JSON with short values in one line.
fn write(text: &mut String, value: &Value, indent: usize) {
    let line = value.to_string();
    match value {
        Value::Object(fields) if indent + line.len() > WIDTH => {
            let mut separator = "{";
            for (field, value) in fields {
                let _ = write!(text, "{separator}\n{:1$}\"{field}\": ", "", indent + 2);
                write(text, value, indent + 2);
                separator = ",";
            }
            let _ = write!(text, "\n{:1$}}}", "", indent);
        }
        Value::Array(items) if indent + line.len() > WIDTH && items.iter().any(Value::is_object) => {
            let mut separator = "[";
            for item in items {
                let _ = write!(text, "{separator}\n{:1$}", "", indent + 2);
                write(text, item, indent + 2);
                separator = ",";
            }
            let _ = write!(text, "\n{:1$}]", "", indent);
        }
        _ => text.push_str(&line),
    }
}

#[test]
fn the_documentation_has_the_schemas() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/plugin.md");
    let page = fs::read_to_string(path).unwrap();
    let mut renewed = page.clone();
    for (verb, schema) in [("list", schema::<KeyList>()), ("status", schema::<Report>()), ("audit", schema::<Audit>())]
    {
        let heading = format!("\n### {verb} -o json\n");
        let at = renewed.find(&heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
        let start = at + renewed[at..].find("```json\n").expect("a block") + "```json\n".len();
        let end = start + renewed[start..].find("\n```").expect("the end of the block");
        renewed.replace_range(start..end, &schema);
    }
    if std::env::var_os(RENEW).is_some() {
        fs::write(path, &renewed).unwrap();
    } else {
        assert!(
            page == renewed,
            "docs/plugin.md has other schemas: renew them with {RENEW}=1 cargo test --bin kubectl-setupkey schemas"
        );
    }
}
