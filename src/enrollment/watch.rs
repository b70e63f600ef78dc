//! The watches that fill the caches.

use std::{fmt::Debug, ops::ControlFlow, sync::Arc};

use futures::TryStreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::cluster::watch_backoff;

/// What a watch fills.
pub trait Cache<K>: Send + Sync {
    /// What is kept of an object.
    type Record: Send;

    /// Takes from an object what is kept, be it that it cannot be read.
    fn record(object: K) -> Self::Record;
    /// An object is new or has changed.
    fn apply(&self, record: Self::Record);
    /// An object has gone.
    fn remove(&self, namespace: &str, name: &str);
    /// The objects of this namespace, or of all namespaces, are about to be listed.
    fn listing(&self, _namespace: Option<&str>) {}
    /// These are all objects of this namespace, or of all namespaces.
    fn replace(&self, namespace: Option<&str>, records: Vec<Self::Record>);
}

/// Fills a cache as long as it is polled, and calls `filled` each time it is complete. It begins when it is first told to
/// list the objects `anew`, and lists them again whenever it is told so.
pub async fn fill<K, C>(
    api: Api<K>,
    namespace: Option<&str>,
    cache: Arc<C>,
    anew: Arc<Notify>,
    mut filled: impl FnMut(),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    C: Cache<K>,
{
    anew.notified().await;
    while follow(&api, namespace, &*cache, &anew, &mut filled).await.is_continue() {}
}

/// Lists and follows the objects, until they are to be listed anew.
async fn follow<K, C>(
    api: &Api<K>,
    namespace: Option<&str>,
    cache: &C,
    anew: &Notify,
    filled: &mut impl FnMut(),
) -> ControlFlow<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    C: Cache<K>,
{
    let kind = K::kind(&());
    let events = watcher(api.clone(), watcher::Config::default()).backoff(watch_backoff());
    let mut events = std::pin::pin!(events);
    let (mut listed, mut listing) = (Vec::new(), true);
    loop {
        let event = tokio::select! {
            biased;
            () = anew.notified(), if !listing => return ControlFlow::Continue(()),
            event = events.try_next() => event,
        };
        match event {
            Ok(Some(Event::Init)) => {
                (listed, listing) = (Vec::new(), true);
                cache.listing(namespace);
            }
            Ok(Some(Event::InitApply(object))) => listed.push(C::record(object)),
            Ok(Some(Event::InitDone)) => {
                listing = false;
                cache.replace(namespace, std::mem::take(&mut listed));
                filled();
            }
            Ok(Some(Event::Apply(object))) => cache.apply(C::record(object)),
            Ok(Some(Event::Delete(object))) => {
                cache.remove(&object.namespace().unwrap_or_default(), &object.name_any());
            }
            Ok(None) => return ControlFlow::Break(()),
            Err(error) => {
                tracing::warn!(%kind, %error, "the watch failed and is started again");
                if skips(&error) {
                    return ControlFlow::Continue(());
                }
            }
        }
    }
}

/// Whether an event was lost with this error, that the watch does not repeat.
fn skips(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchFailed(kube::Error::SerdeError(_) | kube::Error::LinesCodecMaxLineLengthExceeded)
    )
}
