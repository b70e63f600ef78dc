use std::time::Duration;

use kube::{ResourceExt, api::ListParams};
use tokio::time::{Instant, sleep, timeout_at};

use super::Keys;
use crate::{
    api::SetupKey,
    cluster::{ObjectName, call::Error},
};

/// The time that the first look has at least.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// The pause between two reads of a key: doubled from the first to the longest.
pub const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest of these pauses.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What came of a wait.
pub struct Waited<T> {
    /// The answer, if it came in time.
    pub answer: Option<T>,
    /// The key as last seen; `None` if it was gone, or could not be read.
    pub last: Option<SetupKey>,
    /// Why the key could not be read at the last attempt.
    pub error: Option<Error>,
}

impl Keys {
    /// Looks at a key, again and again for at most `patience`, until `look` has an answer. It looks once at least. A caller
    /// who may not look is told at once.
    pub async fn until<T>(
        &self,
        key: &SetupKey,
        patience: Duration,
        look: impl Fn(Option<&SetupKey>) -> Option<T>,
    ) -> Waited<T> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        let deadline = started + patience;
        let mut until = deadline.max(started + FIRST_LOOK);
        let mut waited = Waited { answer: None, last: None, error: None };
        loop {
            match timeout_at(until, self.seen(key)).await {
                Ok(Ok(seen)) => {
                    waited.answer = look(seen.as_ref());
                    (waited.last, waited.error) = (seen, None);
                }
                Ok(Err(error)) => waited.error = Some(error),
                Err(_) => {}
            }
            until = deadline;
            let is_refused = waited.error.as_ref().is_some_and(|error| matches!(error.code(), Some(401 | 403)));
            if waited.answer.is_some() || is_refused || Instant::now() + pause > deadline {
                return waited;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// This `SetupKey` as it is now, if it is there. By a list, because that right is needed for other calls anyway. A caller
    /// who may get keys and not list them is answered too.
    async fn seen(&self, key: &SetupKey) -> Result<Option<SetupKey>, Error> {
        let params = ListParams::default().fields(&format!("metadata.name={}", key.name_any()));
        let seen = match self.list(key.metadata.namespace.as_deref(), params).await {
            Ok(page) => page.keys.into_iter().next(),
            Err(error) if error.code() == Some(403) => self.get(&ObjectName::of(key)).await?,
            Err(error) => return Err(error),
        };
        Ok(seen.filter(|seen| seen.metadata.uid == key.metadata.uid))
    }
}
