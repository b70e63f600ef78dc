//! `kubectl setupkey revoke` and `unrevoke`.

use std::process::ExitCode;

use setupkey_operator::{
    api::{Lifetime, SetupKey, State},
    cluster::ObjectName,
    key::{
        Facts,
        conditions::{VALID, condition, is_ready},
    },
};

use crate::{
    each::{Patience, each, tell_each, why, without},
    failure::Failure,
    flags::{self, Connection, Targets},
    print::Printer,
    session::{Chosen, Session},
};

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

    /// How long to wait until the keys are so, also at their authority. The change stays when the time is over.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = flags::time)]
    timeout: Lifetime,
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
    let session = &Session::start(connection)?;
    let Some(Chosen { keys, unread }) = session.targets(&flags.targets, printer).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    keys.iter().for_each(|key| session.warn_of_gitops(key, "spec.revoked", printer));
    // No key waits for what another one waits for.
    let changes = each(&keys, |key| session.keys.set_revoked(key, revoked)).await;
    let patience = Patience::from_now(flags.timeout.as_duration());
    let told = tell_each(changes, printer, |change| async move { follow(session, &change?, revoked, patience).await });
    Ok(without(&unread, told.await?))
}

/// Waits until a key is as it was asked for, and says what is so now.
async fn follow(session: &Session, changed: &SetupKey, revoked: bool, patience: Patience) -> Result<String, Failure> {
    let name = ObjectName::of(changed).name;
    let waited = session.keys.until(changed, patience.left(), |key| match key {
        None => Some(Err("it was deleted meanwhile")),
        Some(key) if key.spec.revoked != revoked => Some(Err("another writer has put spec.revoked back")),
        Some(key) => is_so(key, changed, revoked, session).map(Ok),
    });
    let waited = waited.await;
    let why = match waited.answer {
        Some(Ok(sentence)) => return Ok(format!("setupkey {name}: {sentence}")),
        Some(Err(why)) => why.to_owned(),
        None => why(waited.last.as_ref(), waited.error),
    };
    let done = if revoked { "revoked" } else { "not revoked" };
    Err(Failure::new(format!(
        "setupkey {name} is written as {done}, and is not reported so{}: {why}",
        patience.in_words()
    )))
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
    // Replaced keys at NetBird are deleted with the revocation.
    if revoked && key.spec.authority_ref.is_some() && !key.previous().is_empty() {
        return None;
    }
    match facts.state(session.now()) {
        State::Revoked if revoked => Some("revoked".to_owned()),
        State::Expired if revoked && facts.revoked => Some("revoked; it is expired too".to_owned()),
        _ if revoked => None,
        State::Valid => Some("valid".to_owned()),
        // The next key of an authority is on its way until the operator reports that all is done.
        State::Revoked if key.spec.authority_ref.is_some() && !is_ready(key) => None,
        State::Revoked => {
            let valid = condition(status, VALID).filter(|valid| valid.reason != "Revoked")?;
            Some(format!("not revoked; it still admits no machine: {}", valid.message))
        }
        state @ (State::Expired | State::Overused) => {
            Some(format!("not revoked; it still admits no machine, because it is {state}"))
        }
    }
}
