//! `kubectl setupkey create`.

use std::process::ExitCode;

use clap::{ArgGroup, ValueEnum};
use kube::{
    api::{DynamicObject, ObjectMeta, TypeMeta},
    core::Status,
};
use serde_json::{Map, Value, json};
use setupkey_operator::{
    actions::violations::{Violation, violations},
    api::{Lifetime, SetupKey},
    cluster::{ObjectName, call},
    key::{Facts, conditions::stalled},
};

use crate::{
    each::{Patience, why},
    failure::Failure,
    flags::{self, Connection, Format, Words},
    print::{Printer, resource_line},
    session::Session,
};

/// What the API server adds when it has left rules unchecked because of another mistake.
const UNCHECKED: &str = "some validation rules were not checked";

/// The flags and the fields that they set, the longer one first of two that begin alike.
const FIELDS: [(&str, &str); 17] = [
    ("spec.name", "--display-name"),
    ("spec.type", "--type"),
    ("spec.usageLimit", "--limit"),
    ("spec.expiresIn", "--expires-in"),
    ("spec.autoGroups", "--group"),
    ("spec.ephemeral", "--ephemeral"),
    ("spec.allowExtraDnsLabels", "--allow-extra-dns-labels"),
    ("spec.rotation.renewBefore", "--rotate-before"),
    ("spec.rotation.overlap", "--overlap"),
    ("spec.revokeUnusedAfter", "--revoke-unused-after"),
    ("spec.secret.name", "--secret"),
    ("spec.secret.key", "--secret-key"),
    ("spec.secret.aliases", "--alias"),
    ("spec.secret.managementUrlKey", "--management-url-key"),
    ("spec.authorityRef", "--authority"),
    ("spec.deletionPolicy", "--deletion-policy"),
    ("metadata.labels", "--label"),
];

/// Create a key. What is left out has the default of the API server.
#[derive(clap::Args)]
#[command(
    group = ArgGroup::new("behind").args(["authority", "cluster_authority"]),
    after_help = "To write a manifest for Git, without a cluster:\n  kubectl setupkey create office --limit 50 --dry-run=client -o yaml\nWith kubectl alone:\n  kubectl create -f FILE"
)]
pub struct Flags {
    /// Name of the SetupKey, and of its Secret unless --secret names another one.
    #[arg(value_name = "NEW_NAME", value_parser = flags::name)]
    name: String,

    /// reusable admits many machines, one-off admits one. Default: reusable.
    #[arg(long = "type", value_name = "TYPE", value_parser = ["reusable", "one-off"])]
    key_type: Option<String>,

    /// How many machines may join; 0 is any number. Default: 0.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    limit: Option<i32>,

    /// How long the key admits machines, from 24h to 365d, such as 90d or 36h. Default: 30d.
    #[arg(long, value_name = "TIME", value_parser = flags::time)]
    expires_in: Option<Lifetime>,

    /// Group of the machines that join. It can be repeated.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,

    /// Machines are removed once they have not been seen for long. Right for pods and autoscaled machines.
    #[arg(long)]
    ephemeral: bool,

    /// A machine may bring DNS labels of its own.
    #[arg(long)]
    allow_extra_dns_labels: bool,

    /// How long before its expiry the key is replaced, such as 7d. Default: it is replaced on request only.
    #[arg(long, value_name = "TIME", value_parser = flags::time)]
    rotate_before: Option<Lifetime>,

    /// How long a replaced key still admits machines. Default: 24h.
    #[arg(long, value_name = "TIME", value_parser = flags::time)]
    overlap: Option<Lifetime>,

    /// A key that no machine has used for so long is revoked, such as 30d. Default: it is not.
    #[arg(long, value_name = "TIME", value_parser = flags::time)]
    revoke_unused_after: Option<Lifetime>,

    /// Name of the Secret. Default: that of the SetupKey.
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,

    /// Data key of the Secret that holds the setup key. Default: setup-key.
    #[arg(long, value_name = "NAME")]
    secret_key: Option<String>,

    /// Further data key that holds the setup key, such as NB_SETUP_KEY. It can be repeated.
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,

    /// Data key that holds the URL of the authority, such as NB_MANAGEMENT_URL.
    #[arg(long, value_name = "NAME", requires = "behind")]
    management_url_key: Option<String>,

    /// Authority of the same namespace that stands behind the key. Default: the cluster itself.
    #[arg(long, value_name = "NAME")]
    authority: Option<String>,

    /// ClusterAuthority that stands behind the key.
    #[arg(long, value_name = "NAME")]
    cluster_authority: Option<String>,

    /// Whether the key at the authority is deleted with the SetupKey. Default: Delete.
    #[arg(long, value_name = "POLICY", value_parser = ["Delete", "Retain"])]
    deletion_policy: Option<String>,

    /// Label of the SetupKey. It can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,

    /// Name that people see. Default: that of the SetupKey.
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,

    /// client only makes the manifest and needs no cluster; server asks the API server what it would create.
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = DryRun::None)]
    dry_run: DryRun,

    /// Print the object, as yaml, json or name.
    #[arg(short, long, value_name = "FORM", hide_possible_values = true, value_parser = FORMS)]
    output: Option<Format>,

    /// Wait until the key is issued.
    #[arg(long)]
    wait: bool,

    /// How long to wait. Default: 60s.
    #[arg(long, value_name = "TIME", value_parser = flags::time, requires = "wait")]
    timeout: Option<Lifetime>,
}

/// Where a creation ends that is only tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum DryRun {
    None,
    Client,
    Server,
}

const FORMS: Words<Format> = Words { words: &["yaml", "json", "name"], read: form };

fn form(text: &str) -> Result<Format, String> {
    let forms = "yaml, json and name";
    match flags::format(text) {
        Ok(form @ (Format::Yaml | Format::Json | Format::Name)) => Ok(form),
        _ => Err(flags::no_such_format(text, forms)),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is NAME=VALUE, such as team=vpn".to_owned()),
    }
}

/// Creates the key.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    if flags.wait && flags.dry_run != DryRun::None {
        return Err(Failure::new("--wait and --dry-run exclude each other: a dry run creates no key to wait for"));
    }
    let manifest = manifest(&flags, connection.namespace.as_deref())?;
    if flags.dry_run == DryRun::Client {
        return tell(manifest, &flags, " (dry run)", printer);
    }
    let session = Session::start(connection)?;
    let namespace = session.namespace.as_str();
    let dry_run = flags.dry_run == DryRun::Server;
    let created = session.keys.create_from(namespace, &manifest, dry_run).await;
    let created = created.map_err(|error| refused(error, &ObjectName::new(namespace, &flags.name)))?;
    if dry_run {
        return tell(created, &flags, " (server dry run)", printer);
    }
    if flags.wait {
        return wait(&session, created, &flags, printer).await;
    }
    let code = tell(created, &flags, "", printer)?;
    if flags.output.is_none() {
        let place = connection.namespace.as_ref().map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
        printer.note(&format!("kubectl setupkey status {}{place} shows it", flags.name));
    }
    Ok(code)
}

/// The object with only what was asked for.
fn manifest(flags: &Flags, namespace: Option<&str>) -> Result<DynamicObject, Failure> {
    let mut metadata =
        ObjectMeta { name: Some(flags.name.clone()), namespace: namespace.map(str::to_owned), ..ObjectMeta::default() };
    for (name, value) in &flags.labels {
        let before = metadata.labels.get_or_insert_default().insert(name.clone(), value.clone());
        if before.is_some_and(|before| before != *value) {
            return Err(Failure::new(format!("--label {name} is given twice, with two values: give it once")));
        }
    }
    let authority = match (&flags.authority, &flags.cluster_authority) {
        (Some(name), _) => Some(json!({ "name": name })),
        (None, Some(name)) => Some(json!({ "kind": "ClusterAuthority", "name": name })),
        (None, None) => None,
    };
    let rotation = asked([("renewBefore", flags.rotate_before.map(of)), ("overlap", flags.overlap.map(of))]);
    let secret = asked([
        ("name", flags.secret.clone().map(Value::from)),
        ("key", flags.secret_key.clone().map(Value::from)),
        ("aliases", list(&flags.aliases)),
        ("managementUrlKey", flags.management_url_key.clone().map(Value::from)),
    ]);
    let spec = asked([
        ("name", flags.display_name.clone().map(Value::from)),
        ("type", flags.key_type.clone().map(Value::from)),
        ("expiresIn", flags.expires_in.map(of)),
        ("autoGroups", list(&flags.groups)),
        ("usageLimit", flags.limit.map(Value::from)),
        ("ephemeral", flags.ephemeral.then_some(Value::Bool(true))),
        ("allowExtraDnsLabels", flags.allow_extra_dns_labels.then_some(Value::Bool(true))),
        ("rotation", rotation),
        ("revokeUnusedAfter", flags.revoke_unused_after.map(of)),
        ("secret", secret),
        ("authorityRef", authority),
        ("deletionPolicy", flags.deletion_policy.clone().map(Value::from)),
    ]);
    let types = Some(TypeMeta::resource::<SetupKey>());
    Ok(DynamicObject { types, metadata, data: json!({ "spec": spec.unwrap_or_else(|| json!({})) }) })
}

/// The fields that have a value; `None` if none has.
fn asked<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let asked: Map<_, _> = fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))).collect();
    (!asked.is_empty()).then_some(Value::Object(asked))
}

fn of(time: Lifetime) -> Value {
    Value::from(time.to_string())
}

fn list(items: &[String]) -> Option<Value> {
    (!items.is_empty()).then(|| json!(items))
}

/// Prints the object in the form that was asked for, or that it is there.
fn tell(mut object: DynamicObject, flags: &Flags, how: &str, printer: &Printer) -> Result<ExitCode, Failure> {
    // kubectl leaves them out too.
    object.metadata.managed_fields = None;
    match flags.output {
        Some(Format::Json) => printer.json(&object)?,
        Some(Format::Name) => printer.print(&resource_line(&flags.name))?,
        Some(_) => printer.yaml(&object)?,
        None => printer.print(&format!("setupkey {} created{how}\n", flags.name))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait(
    session: &Session,
    created: DynamicObject,
    flags: &Flags,
    printer: &Printer,
) -> Result<ExitCode, Failure> {
    let name = &flags.name;
    let created: SetupKey = created
        .try_parse()
        .map_err(|error| Failure::new(format!("setupkey {name} is created, and the answer cannot be read: {error}")))?;
    let patience = Patience::from_now(flags.timeout.unwrap_or(Lifetime::seconds(60)).as_duration());
    let waited = session.keys.until(&created, patience.left(), |key| match key {
        None => Some(Err("it was deleted meanwhile".to_owned())),
        Some(key) if Facts::of(key).is_some() => Some(Ok(key.clone())),
        Some(key) => stalled(key).map(|why| Err(why.to_owned())),
    });
    let waited = waited.await;
    let issued = match waited.answer {
        Some(Ok(issued)) => issued,
        Some(Err(why)) => return Err(Failure::new(format!("setupkey {name} is created, and cannot be issued: {why}"))),
        None => {
            return Err(Failure::new(format!(
                "setupkey {name} is created, and is not issued{}: {}",
                patience.in_words(),
                why(waited.last.as_ref(), waited.error),
            )));
        }
    };
    if flags.output.is_some() {
        let object = serde_json::from_value(serde_json::to_value(&issued)?)?;
        return tell(object, flags, "", printer);
    }
    let mask = issued.status.as_ref().and_then(|status| status.key.as_deref()).unwrap_or_default();
    printer.print(&format!("setupkey {name}: issued ({mask}), Secret {} holds it\n", issued.secret_name()))?;
    Ok(ExitCode::SUCCESS)
}

/// Why the API server creates no such key, with the flag of each field.
fn refused(error: call::Error, name: &ObjectName) -> Failure {
    let answer = match &error {
        call::Error::Api { source, .. } => match source.as_ref() {
            kube::Error::Api(status) => Some(status),
            _ => None,
        },
        call::Error::Timeout { .. } | call::Error::Unreadable(_) => {
            let list = format!("kubectl setupkey list -n {}", name.namespace);
            return Failure::new(format!("{error}; whether it was created is not known: {list} shows that"));
        }
    };
    match answer {
        Some(status) if status.code == 409 && status.reason == "AlreadyExists" => Failure::new(format!(
            "there is a SetupKey {name} already: choose another name, or see it with kubectl setupkey status {} -n {}",
            name.name, name.namespace
        )),
        Some(status) if status.code == 422 => match sentences(status) {
            Some(sentences) => Failure::new(format!("could not create SetupKey {name}: {sentences}")),
            None => error.into(),
        },
        _ => error.into(),
    }
}

/// What is wrong with the object, with the flag of each field. `None` if the answer does not say it by fields.
fn sentences(status: &Status) -> Option<String> {
    let violations = violations(status);
    let told = violations.iter().filter(|violation| !violation.sentence.starts_with(UNCHECKED));
    let told: Vec<_> = told
        .map(|Violation { field, sentence }| match flag(field) {
            Some(flag) => format!("{flag}: {sentence}"),
            None if field.starts_with("spec") || field.starts_with("metadata") => format!("{field}: {sentence}"),
            None => sentence.clone(),
        })
        .collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// The flag that sets this field, or a part of it.
fn flag(field: &str) -> Option<&'static str> {
    let sets =
        |whole: &str| field.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    FIELDS.iter().find(|(whole, _)| sets(whole)).map(|(_, flag)| *flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_told_by_its_flag() {
        for (field, told) in [
            ("spec.expiresIn", Some("--expires-in")),
            ("spec.secret.aliases[1]", Some("--alias")),
            ("spec.authorityRef.name", Some("--authority")),
            ("spec.namespace", None),
            ("spec", None),
        ] {
            assert_eq!(flag(field), told, "{field}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_field_by_field() {
        let status = json!({ "code": 422, "details": { "causes": [
            { "field": "spec.usageLimit", "message": "Invalid value: 5: too many" },
            { "field": "<nil>", "message": "Invalid value: null: some validation rules were not checked because" },
        ] } });
        let status: Status = serde_json::from_value(status).unwrap();
        assert_eq!(sentences(&status).as_deref(), Some("--limit: too many"));
    }

    #[test]
    fn a_label_has_a_name() {
        assert_eq!(label("team=vpn"), Ok(("team".to_owned(), "vpn".to_owned())));
        assert!(label("team").is_err() && label("=vpn").is_err());
    }
}
