//! Series about each key, computed from the cache at each scrape: a series exists exactly as long as its SetupKey, and
//! states follow the clock. Neither a key nor its digest is ever a label.

use std::{collections::HashSet, fmt, sync::Arc};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
};

use crate::{
    api::{SetupKey, SetupKeyStatus, State, Timestamp},
    cluster::{Clock, ObjectName},
    controller::watch::{Cache, Sort, WatchedKey},
    key::{
        Facts,
        conditions::{READY, STALLED, is_true},
        issued_at,
    },
};

const STATES: [State; 4] = [State::Valid, State::Overused, State::Expired, State::Revoked];

/// The caches to show.
pub struct Keys {
    clock: Arc<dyn Clock>,
    /// How many keys have series of their own. If there are more, the first ones by namespace and name are shown, so that a
    /// series does not come and go between scrapes.
    most: usize,
    caches: Mutex<Vec<Cache<WatchedKey>>>,
}

impl Keys {
    pub fn new(clock: Arc<dyn Clock>, most: usize) -> Self {
        Self { clock, most, caches: Mutex::default() }
    }

    pub fn add(&self, cache: Cache<WatchedKey>) {
        self.caches.lock().push(cache);
    }

    /// The keys to show, and how many are omitted and not handled.
    fn look(&self) -> Look {
        let caches = self.caches.lock();
        let undecodable = caches.iter().flat_map(|keys| keys.all_marked(Sort::Undecodable));
        let not_handled: HashSet<_> = undecodable.map(|(_, name)| name).collect();
        let names = caches.iter().enumerate().flat_map(|(scope, keys)| {
            let handled = keys.names().into_iter().filter(|name| !not_handled.contains(name));
            handled.map(move |name| (name, scope))
        });
        let mut names: Vec<(Arc<ObjectName>, usize)> = names.collect();
        let omitted = names.len().saturating_sub(self.most);
        if omitted > 0 {
            names.select_nth_unstable(self.most);
            names.truncate(self.most);
        }
        let shown = names.into_iter().filter_map(|(name, scope)| caches[scope].get(&name)?.0.ok());
        Look { shown: shown.collect(), omitted, not_handled: not_handled.len() }
    }
}

/// What a scrape sees of the keys.
struct Look {
    shown: Vec<SetupKey>,
    omitted: usize,
    not_handled: usize,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("most", &self.most).finish_non_exhaustive()
    }
}

/// A key that is shown.
struct Shown<'a> {
    namespace: &'a str,
    name: &'a str,
    key: &'a SetupKey,
    status: &'a SetupKeyStatus,
}

impl<'a> Shown<'a> {
    /// `None` as long as the key has no status.
    fn of(key: &'a SetupKey) -> Option<Self> {
        let (namespace, name) = (key.metadata.namespace.as_deref()?, key.metadata.name.as_deref()?);
        Some(Self { namespace, name, key, status: key.status.as_ref()? })
    }

    fn labels(&self) -> [(&str, &str); 2] {
        [("namespace", self.namespace), ("name", self.name)]
    }

    /// Computed, not read from the status, which may lag behind the clock.
    fn state(&self, now: DateTime<Utc>) -> Option<State> {
        Facts::of(self.key).map(|facts| facts.state(now))
    }

    /// How many replaced keys still admit peers. `None` when no replaced key is on record, which saves most keys a series.
    fn previous(&self, now: DateTime<Utc>) -> Option<i64> {
        let admit = Facts::previous(self.key).filter(|facts| facts.state(now) == State::Valid).count();
        (!self.status.previous.is_empty()).then_some(admit as i64)
    }
}

impl Collector for Keys {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let now = self.clock.now();
        let Look { shown, omitted, not_handled } = self.look();
        let shown: Vec<_> = shown.iter().filter_map(Shown::of).collect();
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Shown<'_>) -> Option<i64>| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            shown.iter().try_for_each(|key| match value(key) {
                Some(value) => family.encode_family(&key.labels())?.encode_gauge(&value),
                None => Ok(()),
            })
        };
        let seconds = |moment: Option<Timestamp>| moment.map(|moment| moment.moment().timestamp());
        gauge("setupkey_expiration_timestamp_seconds", "When the key expires", &|key| seconds(key.status.expires))?;
        gauge("setupkey_issued_timestamp_seconds", "When the current key was issued", &|key| {
            seconds(issued_at(&key.key.spec, key.status))
        })?;
        gauge(
            "setupkey_rotate_at_timestamp_seconds",
            "When the next key is issued; absent when none is due",
            &|key| seconds(key.status.rotate_at),
        )?;
        gauge(
            "setupkey_revision",
            "Which key is the current one: 1 for the first, one more after each rotation",
            &|key| key.status.id.as_ref().map(|_| key.status.revision.unwrap_or(1)),
        )?;
        gauge(
            "setupkey_previous_keys",
            "Replaced keys that still admit peers; absent when none is on record",
            &|key| key.previous(now),
        )?;
        gauge("setupkey_used_times", "Peers that joined with the key", &|key| Some(key.status.used_times))?;
        gauge("setupkey_usage_limit", "Peers that may join; absent when there is no limit", &|key| {
            key.key.spec.effective_usage_limit().map(i64::from)
        })?;
        gauge("setupkey_last_used_timestamp_seconds", "When a peer last joined; absent when none has", &|key| {
            seconds(key.status.last_used)
        })?;
        gauge("setupkey_ready", "1 when the cluster matches the spec", &|key| Some(is_true(key.status, READY).into()))?;
        gauge("setupkey_stalled", "1 while a person must act", &|key| Some(is_true(key.status, STALLED).into()))?;
        encode_states(
            encoder.encode_descriptor(
                "setupkey_state",
                "1 for the state that the key is in",
                None,
                MetricType::Gauge,
            )?,
            &shown,
            now,
        )?;
        let mut not_handled_family = encoder.encode_descriptor(
            "setupkey_keys_not_handled",
            "SetupKeys that are left alone, because they cannot be decoded or are too large",
            None,
            MetricType::Gauge,
        )?;
        not_handled_family.encode_gauge(&(not_handled as i64))?;
        let mut omitted_family = encoder.encode_descriptor(
            "setupkey_series_omitted",
            "Keys without series of their own, because there are more than --metrics-max-keys",
            None,
            MetricType::Gauge,
        )?;
        omitted_family.encode_gauge(&(omitted as i64))
    }
}

fn encode_states(mut family: MetricEncoder<'_>, shown: &[Shown<'_>], now: DateTime<Utc>) -> fmt::Result {
    for key in shown {
        let Some(present) = key.state(now) else { continue };
        let [namespace, name] = key.labels();
        for state in STATES {
            let labels = [namespace, name, ("state", state.as_str())];
            family.encode_family(&labels)?.encode_gauge(&i64::from(state == present))?;
        }
    }
    Ok(())
}
