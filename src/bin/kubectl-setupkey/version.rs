//! `kubectl setupkey version`.

use std::process::ExitCode;

use kube::Client;
use schemars::JsonSchema;
use serde::Serialize;
use setupkey_operator::{
    actions::Keys,
    cluster::call::{Attempt, Error, call_within},
    plain::plain,
};

use crate::{
    failure::Failure,
    flags::{self, Connection, Words},
    print::Printer,
    session::Session,
};

/// The API group of SetupKeys.
const GROUP: &str = "setupkey.dev";

/// The name of the resource in its group.
const RESOURCE: &str = "setupkeys";

/// Show the versions of this program, of Kubernetes, and of SetupKeys in the cluster.
#[derive(clap::Args)]
#[command(after_help = "With kubectl alone:\n  kubectl version\n  kubectl api-resources --api-group=setupkey.dev")]
pub struct Flags {
    /// The version of this program only. The cluster is not asked.
    #[arg(long)]
    client: bool,

    /// Form: text, json or yaml.
    #[arg(short, long, value_name = "FORM", default_value = "text", hide_possible_values = true, value_parser = FORMS)]
    output: Form,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Text,
    Json,
    Yaml,
}

const FORMS: Words<Form> = Words { words: &["text", "json", "yaml"], read: form };

fn form(text: &str) -> Result<Form, String> {
    match text {
        "text" => Ok(Form::Text),
        "json" => Ok(Form::Json),
        "yaml" => Ok(Form::Yaml),
        other => Err(flags::no_such_format(other, "text, json and yaml")),
    }
}

/// The versions, as scripts read them.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Versions {
    /// The version of this program.
    pub client: String,
    /// The version of Kubernetes; null with --client.
    pub kubernetes: Option<String>,
    /// The versions of SetupKeys that the cluster serves, none if they are not installed; null if that is not known.
    pub setup_keys: Option<Vec<String>>,
    /// Why it is not known.
    pub note: Option<String>,
}

/// Shows the versions.
pub async fn run(flags: &Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let client = format!("v{}", env!("CARGO_PKG_VERSION"));
    let mut versions = Versions { client, kubernetes: None, setup_keys: None, note: None };
    if !flags.client {
        let Session { keys, .. } = Session::start(connection)?;
        let attempt = Attempt::to("read the version of the cluster");
        let kubernetes = call_within(keys.limit, attempt, keys.client.apiserver_version()).await?;
        versions.kubernetes = Some(kubernetes.git_version);
        match served(&keys).await {
            Ok(served) => versions.setup_keys = Some(served),
            Err(error) => versions.note = Some(Failure::from(error).to_string()),
        }
    }
    match flags.output {
        Form::Json => printer.json(&versions)?,
        Form::Yaml => printer.yaml(&versions)?,
        Form::Text => text(&versions, printer)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The versions of SetupKeys that the API server serves. It is asked by discovery, which needs no right to read CRDs.
async fn served(keys: &Keys) -> Result<Vec<String>, Error> {
    let client: &Client = &keys.client;
    let attempt = || Attempt::to("list the resources of the cluster");
    let groups = call_within(keys.limit, attempt(), client.list_api_groups()).await?.groups;
    let mut served = Vec::new();
    for version in groups.into_iter().filter(|group| group.name == GROUP).flat_map(|group| group.versions) {
        let resources = client.list_api_group_resources(&version.group_version);
        let resources = call_within(keys.limit, attempt(), resources).await?.resources;
        if resources.iter().any(|resource| resource.name == RESOURCE) {
            served.push(version.version);
        }
    }
    Ok(served)
}

fn text(versions: &Versions, printer: &Printer) -> Result<(), Failure> {
    let mut text = format!("Client:      {}\n", versions.client);
    if let Some(kubernetes) = &versions.kubernetes {
        let setup_keys = match &versions.setup_keys {
            None => "unknown".to_owned(),
            Some(served) if served.is_empty() => "not installed".to_owned(),
            Some(served) => served.iter().map(|version| format!("{GROUP}/{version}")).collect::<Vec<_>>().join(", "),
        };
        // What the server says of itself is a text of others.
        text += &format!("Kubernetes:  {}\nSetupKeys:   {}\n", plain(kubernetes), plain(&setup_keys));
    }
    printer.print(&text)?;
    if let Some(note) = &versions.note {
        printer.warn(note);
    }
    Ok(())
}
