//! `kubectl setupkey revoke` and `unrevoke`.

use std::{process::ExitCode, time::Duration};

use futures::{StreamExt, stream};
use setupkey_operator::{
    api::{SetupKey, State},
    cluster::ObjectName,
    key::{
        Facts,
        conditions::{READY, condition, stalled},
    },
};

use crate::{
    failure::Failure,
    flags::{self, Connection, Targets},
    print::Printer,
    session::Session,
};

/// How many keys are changed at a time.
const AT_A_TIME: usize = 8;

/// Stop keys from admitting machines. Machines that have joined stay.
#[derive(clap::Args)]
#[command(
    after_help = "With kubectl alone:\n  kubectl patch setupkeys.setupkey.dev NAME --type=merge -p '{\"spec\":{\"revoked\":true}}'"
)]
pub struct Revoke {
    #[command(flatten)]
    flags: Flags,
}

/// Let revoked keys admit machines again.
///
/// NetBird never takes a revocation back. A key at NetBird is replaced by another one with the same expiry and the remaining
/// uses.
#[derive(clap::Args)]
#[command(
    after_help = "With kubectl alone:\n  kubectl patch setupkeys.setupkey.dev NAME --type=merge -p '{\"spec\":{\"revoked\":false}}'"
)]
pub struct Unrevoke {
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Flags {
    #[command(flatten)]
    targets: Targets,

    /// How long to wait until a key is so, also at its authority. The change stays when the time is over.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = flags::time)]
    timeout: setupkey_operator::api::Lifetime,
}

/// Revokes the keys.
pub async fn revoke(verb: Revoke, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    set(verb.flags, true, connection, printer).await
}

/// Takes the revocation of the keys back.
pub async fn unrevoke(verb: Unrevoke, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    set(verb.flags, false, connection, printer).await
}

async fn set(flags: Flags, revoked: bool, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let session = Session::start(connection)?;
    let keys = session.targets(&flags.targets, printer).await?;
    if keys.is_empty() {
        printer.note(&format!("No SetupKeys found in namespace {}.", session.namespace));
        return Ok(ExitCode::SUCCESS);
    }
    let patience = flags.timeout.as_duration();
    let changes = stream::iter(&keys).map(|key| change(&session, key, revoked, patience, printer));
    let mut changes = std::pin::pin!(changes.buffered(AT_A_TIME));
    let mut outcome = Outcome::default();
    while let Some(change) = changes.next().await {
        match change {
            Ok(sentence) => printer.print(&format!("{sentence}\n"))?,
            Err(failure) => outcome.failed(printer, &failure),
        }
    }
    Ok(outcome.code())
}

/// Changes one key, and says what is so now.
async fn change(
    session: &Session,
    key: &SetupKey,
    revoked: bool,
    patience: Duration,
    printer: &Printer,
) -> Result<String, Failure> {
    let name = ObjectName::of(key).name;
    let done = if revoked { "revoked" } else { "not revoked" };
    session.warn_of_gitops(key, "spec.revoked", printer);
    let changed = session.keys.set_revoked(key, revoked).await?;
    let waited = session.keys.until(&changed, patience, |key| is_so(key?, &changed, revoked, session)).await;
    match waited.answer {
        Some(sentence) => Ok(format!("setupkey {name}: {sentence}")),
        None => Err(Failure::new(format!(
            "setupkey {name} is written as {done}, and is not reported so after {}: {}",
            flags::in_words(patience),
            why(waited.last.as_ref(), waited.error.map(|error| error.to_string())),
        ))),
    }
}

/// What is so once the key is as it was asked for; `None` until then.
fn is_so(key: &SetupKey, changed: &SetupKey, revoked: bool, session: &Session) -> Option<String> {
    let status = key.status.as_ref()?;
    if status.observed_generation < changed.metadata.generation {
        return None;
    }
    let Some(facts) = Facts::of(key) else {
        // Nothing is issued, so there is nothing to admit machines with.
        return revoked.then(|| "revoked before it was issued".to_owned());
    };
    let state = facts.state(session.now());
    match (revoked, state) {
        (true, State::Revoked) => Some("revoked".to_owned()),
        (true, State::Expired) => Some("revoked; it is expired too".to_owned()),
        (false, State::Revoked) if key.spec.authority_ref.is_none() => {
            Some("not revoked; it still admits no machine, because it was not used for too long".to_owned())
        }
        (false, State::Valid) => Some("valid".to_owned()),
        (false, state @ (State::Expired | State::Overused)) => {
            Some(format!("not revoked; it still admits no machine, because it is {state}"))
        }
        _ => None,
    }
}

/// Why a key is not as it was asked for, as far as is known.
pub fn why(last: Option<&SetupKey>, error: Option<String>) -> String {
    if let Some(error) = error {
        return error;
    }
    let Some(key) = last else { return "it is gone".to_owned() };
    let said = stalled(key).or_else(|| {
        let ready = condition(key.status.as_ref()?, READY)?;
        (ready.status != "True").then_some(ready.message.as_str())
    });
    said.unwrap_or("the operator has not reported yet; is it running?").to_owned()
}

/// What came of changes to several keys.
#[derive(Default)]
pub struct Outcome {
    failed: bool,
}

impl Outcome {
    /// Tells a failure, and goes on.
    pub fn failed(&mut self, printer: &Printer, failure: &Failure) {
        printer.fail(failure);
        self.failed = true;
    }

    /// The exit code: 1 if anything has failed.
    pub fn code(&self) -> ExitCode {
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
