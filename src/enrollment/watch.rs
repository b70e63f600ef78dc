//! The watches that fill the caches.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::TryStreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, ExponentialBackoff, watcher},
    },
};
use serde::de::DeserializeOwned;

/// What a watch fills.
pub trait Cache<K>: Send + Sync {
    /// What is kept of an object.
    type Record: Send;

    /// Takes from an object what is kept; `None` when it cannot be read.
    fn record(object: K) -> Option<Self::Record>;
    /// An object is new or has changed.
    fn apply(&self, record: Self::Record);
    /// An object has gone.
    fn remove(&self, namespace: &str, name: &str);
    /// These are all objects of this namespace, or of all namespaces.
    fn replace(&self, namespace: Option<&str>, records: Vec<Self::Record>);
}

/// Fills a cache as long as it is polled, and calls `filled` each time it is complete.
pub async fn fill<K, C>(api: Api<K>, namespace: Option<&str>, cache: Arc<C>, mut filled: impl FnMut())
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    C: Cache<K>,
{
    let kind = K::kind(&());
    let events = watcher(api, watcher::Config::default()).backoff(backoff());
    let mut events = std::pin::pin!(events);
    let mut listed = Vec::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%kind, %error, "the watch failed and is started again");
                continue;
            }
        };
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => listed.extend(C::record(object)),
            Event::InitDone => {
                cache.replace(namespace, std::mem::take(&mut listed));
                filled();
            }
            Event::Apply(object) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                match C::record(object) {
                    Some(record) => cache.apply(record),
                    None => cache.remove(&namespace, &name),
                }
            }
            Event::Delete(object) => cache.remove(&object.namespace().unwrap_or_default(), &object.name_any()),
        }
    }
}

/// A watch is one request per process, so it is tried again soon: nothing works without it.
fn backoff() -> ExponentialBackoff {
    let builder = backon::ExponentialBuilder::new().with_min_delay(Duration::from_millis(200));
    builder.with_max_delay(Duration::from_millis(1500)).with_jitter().without_max_times().into()
}
