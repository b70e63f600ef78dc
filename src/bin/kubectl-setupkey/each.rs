//! The same for each of several keys, a few at a time.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use setupkey_operator::{
    api::SetupKey,
    cluster::call,
    key::conditions::{READY, condition, stalled},
};

use crate::{failure::Failure, print::Printer};

/// How many keys are worked on at a time.
const AT_A_TIME: usize = 16;

/// Why a key is not as it was asked for, as long as the operator says nothing about it.
pub const NOT_REPORTED: &str = "the operator has not reported yet (is it running?)";

/// The work for each item. What comes of it has the order of the items.
pub async fn each<T, R, F>(items: impl IntoIterator<Item = T>, work: impl Fn(T) -> F) -> Vec<R>
where
    F: Future<Output = R>,
{
    stream::iter(items).map(work).buffered(AT_A_TIME).collect().await
}

/// The work for each item, with a sentence about each as soon as it can be printed in the order of the items. A failure ends
/// none of the other work, and neither does a closed pipe.
pub async fn tell_each<T, F>(
    items: impl IntoIterator<Item = T>,
    printer: &Printer,
    work: impl Fn(T) -> F,
) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<String, Failure>>,
{
    let mut done = std::pin::pin!(stream::iter(items).map(work).buffered(AT_A_TIME));
    let (mut code, mut unprinted) = (ExitCode::SUCCESS, None);
    while let Some(outcome) = done.next().await {
        match outcome {
            Ok(_) if unprinted.is_some() => {}
            Ok(sentence) => unprinted = printer.print(&format!("{sentence}\n")).err(),
            Err(failure) => code = printer.fail(&failure),
        }
    }
    match unprinted {
        Some(failure) if code == ExitCode::SUCCESS => Err(failure),
        _ => Ok(code),
    }
}

/// The exit code of work that was meant for every key, where these could not be read.
pub fn without(unread: &[String], code: ExitCode) -> ExitCode {
    if unread.is_empty() { code } else { ExitCode::FAILURE }
}

/// How long a verb waits for all of its keys together.
#[derive(Clone, Copy)]
pub struct Patience {
    whole: Duration,
    end: Instant,
}

impl Patience {
    /// This much time from now on.
    pub fn from_now(whole: Duration) -> Self {
        Self { whole, end: Instant::now() + whole }
    }

    /// What is left of it.
    pub fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// As in "after 60s". Empty if there was no time to wait.
    pub fn in_words(self) -> String {
        let seconds = self.whole.as_secs();
        if seconds == 0 { String::new() } else { format!(" after {}", crate::flags::in_words(self.whole)) }
    }
}

/// Why a key is not as it was asked for, as far as is known.
pub fn why(last: Option<&SetupKey>, error: Option<call::Error>) -> String {
    if let Some(error) = error {
        return Failure::from(error).to_string();
    }
    let Some(key) = last else { return "it is gone".to_owned() };
    let said = stalled(key).or_else(|| {
        let ready = condition(key.status.as_ref()?, READY)?;
        (ready.status != "True").then_some(ready.message.as_str())
    });
    said.unwrap_or(NOT_REPORTED).to_owned()
}
