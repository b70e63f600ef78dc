//! The watches that fill the caches. Each lists and follows one kind of object, in one namespace or in all.

use std::{fmt::Debug, ops::ControlFlow, sync::Arc};

use futures::TryStreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::cluster::{call::log_restart, pages};

/// What a watch fills. The verbs are those of `kubert::index`.
pub trait Index<K>: Send + Sync {
    /// What is kept of an object.
    type Cached: Send;

    /// Takes from an object what is kept. The object may be one that cannot be decoded.
    fn cached(object: K) -> Self::Cached;
    /// An object is new or has changed.
    fn apply(&self, object: Self::Cached);
    /// An object was deleted.
    fn delete(&self, namespace: &str, name: &str);
    /// The objects of this namespace, or of all namespaces, are about to be listed.
    fn listing(&self, _namespace: Option<&str>) {}
    /// These are all objects of this namespace, or of all namespaces.
    fn reset(&self, namespace: Option<&str>, objects: Vec<Self::Cached>);
}

/// Fills an index as long as it is polled, and calls `filled` each time it is complete. The first list begins when `relist`
/// is first notified; each later notification makes it list again.
pub async fn fill<K, I>(
    api: Api<K>,
    namespace: Option<&str>,
    index: Arc<I>,
    relist: Arc<Notify>,
    mut filled: impl FnMut(),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    I: Index<K>,
{
    relist.notified().await;
    while follow(&api, namespace, &*index, &relist, &mut filled).await.is_continue() {}
}

/// Lists and follows the objects until they have to be listed again.
async fn follow<K, I>(
    api: &Api<K>,
    namespace: Option<&str>,
    index: &I,
    relist: &Notify,
    filled: &mut impl FnMut(),
) -> ControlFlow<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    I: Index<K>,
{
    let kind = K::kind(&());
    // The index must know that a list has begun before the API server does.
    let mut events = std::pin::pin!(pages::watch_in_pages(api.clone(), watcher::Config::default()));
    let (mut listed, mut listing) = (Vec::new(), true);
    loop {
        let event = tokio::select! {
            biased;
            () = relist.notified(), if !listing => return ControlFlow::Continue(()),
            event = events.try_next() => event,
        };
        match event {
            Ok(Some(Event::Init)) => {
                (listed, listing) = (Vec::new(), true);
                index.listing(namespace);
            }
            Ok(Some(Event::InitApply(object))) => listed.push(I::cached(object)),
            Ok(Some(Event::InitDone)) => {
                listing = false;
                index.reset(namespace, std::mem::take(&mut listed));
                filled();
            }
            Ok(Some(Event::Apply(object))) => index.apply(I::cached(object)),
            Ok(Some(Event::Delete(object))) => {
                index.delete(&object.namespace().unwrap_or_default(), &object.name_any());
            }
            Ok(None) => return ControlFlow::Break(()),
            Err(error) => {
                log_restart(&kind, &error);
                if skips(&error) {
                    return ControlFlow::Continue(());
                }
            }
        }
    }
}

/// Whether this error skipped an event that the watch will not deliver again.
fn skips(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchFailed(kube::Error::SerdeError(_) | kube::Error::LinesCodecMaxLineLengthExceeded)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_event_that_could_not_be_read_makes_it_list_again() {
        let undecodable = serde_json::from_str::<u8>("?").unwrap_err();
        assert!(skips(&watcher::Error::WatchFailed(kube::Error::SerdeError(undecodable))));
        assert!(skips(&watcher::Error::WatchFailed(kube::Error::LinesCodecMaxLineLengthExceeded)));
        assert!(!skips(&watcher::Error::WatchFailed(kube::Error::TlsRequired)));
        assert!(!skips(&watcher::Error::NoResourceVersion));
    }
}
