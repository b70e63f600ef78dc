use std::time::Duration;

use kube::{ResourceExt, api::ListParams};
use tokio::time::{Instant, sleep, timeout_at};

use super::Keys;
use crate::{api::SetupKey, cluster::call::Error};

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
    /// Looks at a key, again and again for at most `patience`, until `look` has an answer.
    pub async fn until<T>(
        &self,
        key: &SetupKey,
        patience: Duration,
        look: impl Fn(Option<&SetupKey>) -> Option<T>,
    ) -> Waited<T> {
        let (deadline, mut pause) = (Instant::now() + patience, FIRST_PAUSE);
        let mut waited = Waited { answer: None, last: None, error: None };
        loop {
            match timeout_at(deadline, self.seen(key)).await {
                Ok(Ok(seen)) => {
                    waited.answer = look(seen.as_ref());
                    (waited.last, waited.error) = (seen, None);
                }
                Ok(Err(error)) => waited.error = Some(error),
                Err(_) => {}
            }
            if waited.answer.is_some() || Instant::now() + pause > deadline {
                return waited;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// This `SetupKey` as it is now, if it is there. By a list, because that right is needed for other calls anyway.
    async fn seen(&self, key: &SetupKey) -> Result<Option<SetupKey>, Error> {
        let params = ListParams::default().fields(&format!("metadata.name={}", key.name_any()));
        let listed = self.list(key.metadata.namespace.as_deref(), params).await?;
        Ok(listed.keys.into_iter().find(|seen| seen.metadata.uid == key.metadata.uid))
    }
}
