//! Waiting for something to happen, and checking that nothing does.

use std::time::{Duration, Instant};

use crate::requests::Requests;

/// Longer than any wait takes, even on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough for a controller to act, if it were to act.
pub const QUIET: Duration = Duration::from_millis(1500);

/// The pause between two checks.
const GLANCE: Duration = Duration::from_millis(20);

/// Repeats the attempt until it returns something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(GLANCE).await;
    }
}

/// Checks for this time that there are exactly `count` requests. `look` returns the requests.
pub async fn exactly(count: usize, time: Duration, look: impl Fn() -> Vec<String>) {
    let started = Instant::now();
    loop {
        let found = look();
        assert!(found.len() == count, "not {count} requests, {:?} after the first look: {found:#?}", started.elapsed());
        if started.elapsed() >= time {
            return;
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Checks for this time that no object is read or written. Earlier requests count too, back to the start or the last
/// [`Requests::clear`].
pub async fn quiet_for(requests: &Requests, time: Duration) {
    exactly(0, time, || requests.on_objects()).await;
}

/// Like [`quiet_for`], for writes only: objects may be read.
pub async fn no_write_for(requests: &Requests, time: Duration) {
    exactly(0, time, || requests.writes()).await;
}

/// Waits until no object has been read or written for this time.
pub async fn at_rest_for(requests: &Requests, time: Duration) {
    let (mut count, mut since) = (requests.on_objects().len(), Instant::now());
    eventually("the requests to end", || {
        let now = requests.on_objects().len();
        if now != count {
            (count, since) = (now, Instant::now());
        }
        let rested = since.elapsed() >= time;
        async move { rested.then_some(()) }
    })
    .await;
}

/// Gives a process, or a request that hangs, time to do what it must not do. No event marks the end of that time. Where
/// there are requests to check, use one of the functions above.
pub async fn wait_blindly() {
    tokio::time::sleep(QUIET).await;
}

mod tests {
    use std::cell::Cell;

    use super::*;

    /// One more request at each check.
    fn one_more_each_time() -> impl Fn() -> Vec<String> {
        let looks = Cell::new(0);
        move || {
            looks.set(looks.get() + 1);
            vec![String::new(); looks.get()]
        }
    }

    #[tokio::test]
    #[should_panic = "not 1 requests"]
    async fn a_request_too_many_is_noticed() {
        exactly(1, QUIET, one_more_each_time()).await;
    }

    #[tokio::test]
    #[should_panic = "not 2 requests"]
    async fn a_request_too_few_is_noticed() {
        exactly(2, QUIET, one_more_each_time()).await;
    }
}
