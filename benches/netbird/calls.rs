//! The operator's calls to NetBird, from its metrics.

use std::collections::BTreeMap;

use crate::{operator::Operator, report::number};

/// How many calls there were, by operation and status.
#[derive(Clone, Debug, Default)]
pub struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// All calls so far.
    pub fn of(operator: &Operator) -> anyhow::Result<Self> {
        const SERIES: &str = "setupkey_authority_requests_total{";
        let metrics = operator.metrics()?;
        let series = metrics.lines().filter_map(|line| line.strip_prefix(SERIES)?.split_once("} "));
        let mut calls = BTreeMap::new();
        for (labels, count) in series {
            let label = |name: &str| {
                labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
            };
            let what = format!("{} {}", label("operation").unwrap_or_default(), label("code").unwrap_or_default());
            *calls.entry(what).or_default() += count.trim().parse::<f64>()? as u64;
        }
        Ok(Self(calls))
    }

    /// The calls after those.
    pub fn since(&self, before: &Self) -> Self {
        let later = self.0.iter().map(|(what, count)| (what.clone(), count - before.0.get(what).unwrap_or(&0)));
        Self(later.filter(|(_, count)| *count > 0).collect())
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The calls about single keys. A list serves all keys, so lists are left out.
    pub fn for_one_key(&self) -> u64 {
        self.0.iter().filter(|(what, _)| !what.starts_with("list_")).map(|(_, count)| count).sum()
    }

    /// Each kind of call, its count divided by `divisor`.
    pub fn list(&self, divisor: f64) -> String {
        let listed: Vec<_> =
            self.0.iter().map(|(what, count)| format!("{} {what}", number(*count as f64 / divisor))).collect();
        if listed.is_empty() { "none".to_owned() } else { listed.join(", ") }
    }
}
