//! Spans of time in one short word, as in `12d`.

use chrono::{DateTime, TimeDelta, Utc};
use setupkey_operator::api::Timestamp;

use crate::table::NOTHING;

/// A span in the largest unit that gives two or more: `12d`, `47h`, `90m`, `30s`.
pub fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds().max(0);
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (days, _, _) if days >= 2 => format!("{days}d"),
        (_, hours, _) if hours >= 2 => format!("{hours}h"),
        (_, _, minutes) if minutes >= 2 => format!("{minutes}m"),
        _ => format!("{seconds}s"),
    }
}

/// How long ago a moment was: `12d`, without "ago". `0s` for a moment to come, which the clocks of two machines can make.
pub fn since(moment: Timestamp, now: DateTime<Utc>) -> String {
    span(now - moment.moment())
}

/// The same for a moment that may not have been: [`NOTHING`] then.
pub fn since_if_any(moment: Option<Timestamp>, now: DateTime<Utc>) -> String {
    moment.map_or_else(|| NOTHING.to_owned(), |moment| since(moment, now))
}

/// How long it is until a moment: `12d`, or `3d ago` once it has passed.
pub fn until(moment: Timestamp, now: DateTime<Utc>) -> String {
    let left = moment.moment() - now;
    if left < TimeDelta::zero() { format!("{} ago", span(-left)) } else { span(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_one_unit() {
        for (seconds, word) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7199, "119m"),
            (7200, "2h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (31_536_000, "365d"),
        ] {
            assert_eq!(span(TimeDelta::seconds(seconds)), word, "{seconds}");
        }
    }

    #[test]
    fn a_moment_that_has_passed_says_so() {
        let now: Timestamp = "2026-11-24T06:00:00Z".parse().unwrap();
        assert_eq!(until(now.plus_seconds(7200), now.moment()), "2h");
        assert_eq!(until(now.minus_seconds(7200), now.moment()), "2h ago");
        assert_eq!(since(now.minus_seconds(7200), now.moment()), "2h");
        assert_eq!(since(now.plus_seconds(7200), now.moment()), "0s");
    }
}
