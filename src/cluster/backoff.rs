use std::time::Duration;

use kube::runtime::watcher::ExponentialBackoff;

/// An endless exponential backoff with jitter, which doubles from `shortest` up to at most `longest`.
pub fn backoff(shortest: Duration, longest: Duration) -> ExponentialBackoff {
    // backon's jitter adds up to the same pause again, so half of the longest is the limit without it.
    let builder = backon::ExponentialBuilder::new().with_min_delay(shortest).with_max_delay(longest / 2);
    builder.with_jitter().without_max_times().into()
}

/// The backoff of a watch: from 200 ms to 3 s. It is short, because nothing works without the watch, and a process has
/// only a few.
pub fn watch_backoff() -> ExponentialBackoff {
    backoff(Duration::from_millis(200), Duration::from_secs(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_below_the_longest() {
        let longest = Duration::from_secs(3);
        let pauses: Vec<_> = backoff(Duration::from_millis(250), longest).take(20).collect();
        assert_eq!(pauses.len(), 20, "the pauses end");
        assert!(pauses[0] < Duration::from_secs(1), "the first pause is {:?}", pauses[0]);
        assert!(pauses[19] > pauses[0]);
        assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?}");
    }
}
