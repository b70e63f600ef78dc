//! `kubectl setupkey reveal`.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use secrecy::zeroize::Zeroizing;
use setupkey_operator::{
    api::{SetupKey, State},
    cluster::{ObjectName, secrets},
    key::{Facts, KeyValue, conditions::stalled},
};

use crate::{
    commands::{self, Shell},
    each::why,
    failure::Failure,
    flags::{self, Connection, Words},
    management,
    print::Printer,
    session::Session,
};

/// A rotation writes the Secret first and the status a moment later. So long the two may differ.
const FOLLOWS: Duration = Duration::from_secs(2);
/// The pause between two looks at both.
const PAUSE: Duration = Duration::from_millis(100);

/// Print a key, alone on standard output. It takes the right to get Secrets.
#[derive(clap::Args)]
#[command(after_help = "With kubectl alone:\n  kubectl get secret SECRET -o jsonpath='{.data.setup-key}' | base64 -d")]
pub struct Flags {
    /// Name of the SetupKey.
    #[arg(value_name = "NAME", value_parser = flags::name)]
    name: String,

    /// Form: key is the key alone; env is NB_SETUP_KEY=… for docker --env-file, with NB_MANAGEMENT_URL=… for a key at NetBird.
    #[arg(short, long, value_name = "FORM", default_value = "key", hide_possible_values = true, value_parser = FORMS)]
    output: Form,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Key,
    Env,
}

const FORMS: Words<Form> = Words { words: &["key", "env"], read: form };

fn form(text: &str) -> Result<Form, String> {
    match text {
        "key" => Ok(Form::Key),
        "env" => Ok(Form::Env),
        _ => Err("there is key and env; for others, kubectl get secret".to_owned()),
    }
}

/// Prints the key.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let session = Session::start(connection)?;
    let (key, value) = value_of(&session, &flags.name).await?;
    let mut note = None;
    let text = match (flags.output, &key.spec.authority_ref) {
        (Form::Key, _) => holding(&value, "", "\n"),
        (Form::Env, None) => holding(&value, "NB_SETUP_KEY=", "\n"),
        (Form::Env, Some(authority)) => match management::agent_url(&session, &key, authority).await {
            Ok(url) => holding(&value, "NB_SETUP_KEY=", &format!("\nNB_MANAGEMENT_URL={url}\n")),
            Err(why) => {
                note = Some(format!("NB_MANAGEMENT_URL is left out, because the URL is not known: {why}"));
                holding(&value, "NB_SETUP_KEY=", "\n")
            }
        },
    };
    printer.print_key(&text)?;
    note.iter().for_each(|note| printer.note(note));
    warn_of_refusal(&session, &key, printer);
    if printer.is_terminal() {
        let command = Shell::Posix.line(&commands::reveal(connection, &session.namespace, &flags.name));
        printer.note(&format!(
            "The key is visible, and stays in the scrollback of this terminal. To keep it out: (umask 077 && {command} > setup-key)"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The key and its value. The value is the one that the status speaks of.
pub async fn value_of(session: &Session, name: &str) -> Result<(SetupKey, KeyValue), Failure> {
    let deadline = Instant::now() + FOLLOWS;
    loop {
        let key = session.key(name).await?;
        if Facts::of(&key).is_none() {
            let name = ObjectName::of(&key);
            return Err(Failure::new(format!("SetupKey {name} has no key yet: {}", why(Some(&key), None))));
        }
        if let Some(value) = session.keys.value(&key).await? {
            return Ok((key, value));
        }
        if Instant::now() >= deadline {
            return Err(no_value(session, &key).await?);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Why the Secret does not have the key.
async fn no_value(session: &Session, key: &SetupKey) -> Result<Failure, Failure> {
    let (name, secret) = (ObjectName::of(key), ObjectName::new(&session.namespace, key.secret_name()));
    let found = match secrets::read(&session.keys.client, &secret).await? {
        None => "does not exist".to_owned(),
        Some(data) if data.get(key.secret_key()).is_none() => format!("has no data key {}", key.secret_key()),
        Some(_) => "holds another value".to_owned(),
    };
    let what_next = stalled(key).unwrap_or("the operator is about to repair it; try again in a moment");
    Ok(Failure::new(format!("Secret {secret}, which is to hold the key of SetupKey {name}, {found}: {what_next}")))
}

/// The value between two texts, in memory that is wiped and never moved.
fn holding(value: &KeyValue, before: &str, after: &str) -> Zeroizing<String> {
    let parts = [before, value.expose(), after];
    let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| text.push_str(part));
    text
}

/// Warns of a key that admits no machine now.
pub fn warn_of_refusal(session: &Session, key: &SetupKey, printer: &Printer) {
    let name = ObjectName::of(key);
    match Facts::of(key).map(|facts| facts.state(session.now())) {
        Some(State::Valid) => {}
        Some(state) => printer.warn(&format!("SetupKey {name} is {state}: no machine joins with it")),
        None => printer.warn(&format!("SetupKey {name} has no key yet: {}", why(Some(key), None))),
    }
}
