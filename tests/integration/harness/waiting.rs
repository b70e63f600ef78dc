//! Waiting for something to happen, and watching that nothing does.

use std::time::{Duration, Instant};

use crate::requests::Requests;

/// Longer than anything that is waited for takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough for a controller to do what it would do, if it were to do something.
pub const QUIET: Duration = Duration::from_millis(1500);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(20);

/// Tries until there is an answer.
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

/// Watches for so long that there are exactly this many requests, neither fewer nor more. `look` says which ones.
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

/// Watches for so long that no object is read or written. What was asked before counts too, back to the start or the last
/// [`Requests::clear`].
pub async fn quiet_for(requests: &Requests, time: Duration) {
    exactly(0, time, || requests.on_objects()).await;
}

/// The same for writes. Objects may be read.
pub async fn no_write_for(requests: &Requests, time: Duration) {
    exactly(0, time, || requests.writes()).await;
}

/// Waits until no object has been read or written for so long.
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

/// Gives a process, or a request that hangs, time to do what it must not do. Nothing shows when that time is over, so where
/// there are requests to look at, use one of the functions above.
pub async fn wait_blindly() {
    tokio::time::sleep(QUIET).await;
}

mod tests {
    use std::cell::Cell;

    use super::*;

    /// As many requests as there were looks.
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
