use std::time::Duration;

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
        let name = ObjectName::of(key);
        let seen = match self.listed(&name).await {
            Err(error) if error.code() == Some(403) => self.get(&name).await?,
            listed => listed?,
        };
        Ok(seen.filter(|seen| seen.metadata.uid == key.metadata.uid))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::{Client, client::Body};
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    /// The keys of an API server that gives this answer to each request.
    fn keys(answer: &Value) -> Keys {
        let answer = answer.to_string();
        let service = service_fn(move |_: http::Request<Body>| {
            let answer = http::Response::new(Body::from(answer.clone().into_bytes()));
            async move { Ok::<_, Infallible>(answer) }
        });
        Keys { client: Client::new(service, "network"), manager: "test", limit: Duration::from_secs(1), page: 100 }
    }

    fn key(key_type: &str) -> Value {
        json!({ "metadata": { "name": "office", "namespace": "network", "uid": "u" }, "spec": { "type": key_type } })
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_decoded_is_not_taken_for_one_that_is_gone() {
        let office: SetupKey = serde_json::from_value(key("reusable")).unwrap();
        for (there, is_gone) in [(vec![], true), (vec![key("reusable")], false), (vec![key("of-the-future")], false)] {
            let keys = keys(&json!({ "metadata": {}, "items": there }));
            let waited = keys.until(&office, Duration::ZERO, |key| key.is_none().then_some(())).await;
            assert_eq!(waited.answer.is_some(), is_gone, "{there:?}");
        }
    }
}
