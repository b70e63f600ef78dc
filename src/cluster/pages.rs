//! Lists, in ways that fit into a budget of bytes.
//!
//! A watch begins with a streamed list: the API server sends each object as an event, and then says that these were all. It
//! costs the server less than pages do, and a process has one object in its hands at a time. Kubernetes before 1.34 does not
//! offer it everywhere. Where it is refused, and where there is no watch, a list comes in pages.
//!
//! A page is read whole before its objects are decoded and most of each is dropped. A tenant can put more than a megabyte
//! of labels into each of a hundred objects, so the number of objects bounds no memory. A page above the budget is broken
//! off, and asked for again with a quarter of the objects. A page of one object always fits: etcd takes 1.5 MiB at most.

use std::{
    error::Error as StdError,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, future::BoxFuture, stream};
use http::{Request, Response, Uri};
use http_body_util::{LengthLimitError, Limited};
use kube::{
    Api, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tower::{Layer, Service};

use super::{
    call::{Attempt, Error, TIME_LIMIT, call_within, causes},
    watch_backoff,
};

/// Objects in one page. A process keeps the memory that it needs to read a page: at 10,000 keys, pages of 500 cost 6 MiB more.
pub const OBJECTS: u32 = 100;

/// The largest page, in bytes. While a page is decoded, it costs about four times as much.
const BYTES: usize = 6 * 1024 * 1024;

/// The layer of a client that breaks off pages above the budget, and has streamed lists begin with the present.
///
/// kube asks for a streamed list of version 0: of anything that the API server has in its cache. Lists are expected to show what
/// was written before they began, as they do without a version.
#[derive(Clone, Copy, Debug)]
pub struct LimitPages;

impl<S> Layer<S> for LimitPages {
    type Service = LimitedPages<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LimitedPages { inner }
    }
}

/// A client that breaks off pages above the budget.
#[derive(Clone, Copy, Debug)]
pub struct LimitedPages<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for LimitedPages<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Limited<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        if let Some(uri) = of_the_present(request.uri()) {
            *request.uri_mut() = uri;
        }
        let limit = if is_page(request.uri().query().unwrap_or_default()) { BYTES } else { usize::MAX };
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Limited::new(body, limit))) })
    }
}

/// A request for a page has a limit. A watch has none.
fn is_page(query: &str) -> bool {
    query.split('&').any(|parameter| parameter.starts_with("limit="))
}

/// The same streamed list, without a version. `None` if it is none.
fn of_the_present(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    if !query.split('&').any(|parameter| parameter == "sendInitialEvents=true") {
        return None;
    }
    let query: Vec<_> = query.split('&').filter(|parameter| *parameter != "resourceVersion=0").collect();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{}", uri.path(), query.join("&")).parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether a body was broken off because it is longer than its limit, as a page is.
pub fn is_too_large(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|error| error.is::<LengthLimitError>())
}

fn smaller(page: u32) -> u32 {
    (page / 4).max(1)
}

/// How a list is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    /// Objects in one page, at most.
    pub objects: u32,
    /// The time limit of each page.
    pub limit: Duration,
}

impl Default for Paging {
    fn default() -> Self {
        Self { objects: OBJECTS, limit: TIME_LIMIT }
    }
}

/// The objects of a list, a page at a time.
pub fn list<K>(
    api: Api<K>,
    params: ListParams,
    attempt: Attempt,
    paging: Paging,
) -> impl Stream<Item = Result<Vec<K>, Error>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let start = Some((params, paging.objects));
    stream::unfold(start, move |state| {
        let (api, attempt) = (api.clone(), attempt.clone());
        async move {
            let (params, mut objects) = state?;
            loop {
                let page = params.clone().limit(objects);
                match call_within(paging.limit, attempt.clone(), api.list(&page)).await {
                    Ok(page) => {
                        let more = page.metadata.continue_.filter(|more| !more.is_empty());
                        return Some((Ok(page.items), more.map(|more| (params.continue_token(&more), objects))));
                    }
                    Err(Error::Api { source, .. }) if objects > 1 && is_too_large(source.as_ref()) => {
                        objects = smaller(objects)
                    }
                    Err(error) => return Some((Err(error), None)),
                }
            }
        }
    })
}

/// How a watch lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Listing {
    Streamed,
    /// In pages of so many objects.
    Paged(u32),
}

impl Listing {
    /// How to list after this error, if not as before.
    fn after(self, error: &watcher::Error) -> Option<Self> {
        match (self, error) {
            // An API server that does not offer it calls the parameter invalid.
            (Self::Streamed, watcher::Error::WatchStartFailed(kube::Error::Api(status)))
                if matches!(status.code, 400 | 422) =>
            {
                Some(Self::Paged(OBJECTS))
            }
            (Self::Paged(objects), watcher::Error::InitialListFailed(error)) if objects > 1 && is_too_large(error) => {
                Some(Self::Paged(smaller(objects)))
            }
            _ => None,
        }
    }
}

/// The events of a watch that begins with a list and is started again after an error.
///
/// Its `Init` may come after the API server has begun to list. A watch that had to list in pages, or to shrink them, does so for
/// its later lists.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    Api<K>: Send + Sync,
{
    watch_from(api, config, Listing::Streamed)
}

/// The same with lists in pages. Its `Init` comes before the API server is asked for a list.
pub fn watch_in_pages<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    Api<K>: Send + Sync,
{
    watch_from(api, config, Listing::Paged(OBJECTS))
}

fn watch_from<K>(
    api: Api<K>,
    config: watcher::Config,
    listing: Listing,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    Api<K>: Send + Sync,
{
    let begin = move |listing| begin(api.clone(), config.clone(), listing);
    let start = (begin(listing), listing, begin);
    stream::unfold(start, |(mut events, mut listing, begin)| async move {
        loop {
            let event = events.next().await?;
            let Some(next) = event.as_ref().err().and_then(|error| listing.after(error)) else {
                return Some((event, (events, listing, begin)));
            };
            match listing {
                Listing::Streamed => tracing::info!("the API server does not stream lists; listing in pages"),
                Listing::Paged(_) => {
                    tracing::warn!(list = ?next, "a page of a list is too large; listing in smaller ones")
                }
            }
            (events, listing) = (begin(next), next);
        }
    })
}

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>;

fn begin<K>(api: Api<K>, config: watcher::Config, listing: Listing) -> Events<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = match listing {
        Listing::Streamed => config.streaming_lists(),
        Listing::Paged(objects) => config.page_size(objects),
    };
    watcher(api, config).backoff(watch_backoff()).boxed()
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use http_body_util::{BodyExt, Full};
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn only_pages_are_limited() {
        assert!(is_page("limit=100"));
        assert!(is_page("labelSelector=a&limit=1&continue=x"));
        assert!(!is_page("watch=true&timeoutSeconds=290&allowWatchBookmarks=true"));
        assert!(!is_page("labelSelector=limit%3D1"));
        assert!(!is_page(""));
    }

    #[test]
    fn a_streamed_list_is_of_the_present() {
        let of = |uri: &str| of_the_present(&uri.parse().unwrap()).map(|uri| uri.to_string());
        let kubes = "/apis/a/b?&watch=true&resourceVersion=0&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let ours = "/apis/a/b?&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(of(kubes).as_deref(), Some(ours));
        assert_eq!(of("/apis/a/b?&watch=true&resourceVersion=7"), None);
        assert_eq!(of("/apis/a/b"), None);
    }

    #[test]
    fn a_list_is_paged_where_it_cannot_be_streamed() {
        let refused = |code| {
            let status = kube::core::Status { code, ..Default::default() };
            watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
        };
        assert_eq!(Listing::Streamed.after(&refused(422)), Some(Listing::Paged(OBJECTS)));
        for code in [401, 403, 404, 429, 500] {
            assert_eq!(Listing::Streamed.after(&refused(code)), None, "{code}");
        }
        assert_eq!(Listing::Paged(OBJECTS).after(&refused(422)), None);
    }

    #[tokio::test]
    async fn a_page_above_the_budget_is_broken_off() {
        let long = async |_: Request<()>| {
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(vec![b' '; BYTES + 1])))
        };
        let client = LimitPages.layer(tower::service_fn(long));
        for (uri, is_whole) in [("/secrets?limit=100", false), ("/secrets?watch=true", true)] {
            let answer = client.oneshot(Request::get(uri).body(()).unwrap()).await.unwrap();
            assert_eq!(answer.into_body().collect().await.is_ok(), is_whole, "{uri}");
        }
    }

    #[tokio::test]
    async fn a_page_that_was_broken_off_is_known_by_its_cause() {
        let body = Limited::new(Full::<Bytes>::from("too long"), 3);
        let cut = body.collect().await.expect_err("the limit");
        assert!(is_too_large(&kube::Error::Service(cut)));
        assert!(!is_too_large(&kube::Error::TlsRequired));
    }

    #[test]
    fn pages_shrink_to_one_object() {
        let sizes: Vec<_> = std::iter::successors(Some(OBJECTS), |size| (*size > 1).then(|| smaller(*size))).collect();
        assert_eq!(sizes, [100, 25, 6, 1]);
    }
}
